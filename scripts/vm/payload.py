"""The guest side of vsrpc as a user would carry it into a guest: a tar of the source tree and its installer."""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import dataclass

from scripts.dist.sources import INSTALLER, guest_files

from .errors import VMError
from .ga import GuestAgent
from .paths import PROJECT

UPLOAD, UNPACKED = "/root/vsrpc.tar", "/root/vsrpc-src"
INSTALL_SECONDS = 180.0


@dataclass(frozen=True)
class Payload:
    """The guest side at one moment: a tar of it, and a name for its content."""

    key: str
    tar: bytes


def collect() -> Payload:
    """Read the guest side as it is in the working tree now."""
    digest, buffer = hashlib.sha256(), io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in [*guest_files(), INSTALLER.relative_to(PROJECT)]:
            data = (PROJECT / name).read_bytes()
            digest.update(f"{name}\0{len(data)}\0".encode() + data)
            member = tarfile.TarInfo(str(name))
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return Payload(digest.hexdigest()[:12], buffer.getvalue())


def install(agent: GuestAgent, payload: Payload) -> None:
    """Install or upgrade vsrpc in the running guest.

    Raises:
        VMError: the installer failed; its output is in the message.
    """
    agent.write_file(UPLOAD, payload.tar)
    script = f"rm -rf {UNPACKED} && mkdir {UNPACKED} && tar -xf {UPLOAD} -C {UNPACKED} --no-same-owner"
    script += f" && sh {UNPACKED}/{INSTALLER.relative_to(PROJECT)} && rm -rf {UNPACKED} {UPLOAD}"
    try:
        agent.check(["/bin/sh", "-c", script], timeout=INSTALL_SECONDS)
    except VMError as error:
        raise VMError(f"installing vsrpc in the guest failed: {error}") from None
