"""The guest side of vsrpc as a user would carry it into a guest: a tar of the source tree and its installer."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

from .errors import VMError
from .ga import GuestAgent
from .paths import PROJECT

INSTALLER = "scripts/install-guest.sh"
UPLOAD, UNPACKED = "/root/vsrpc.tar", "/root/vsrpc-src"
INSTALL_SECONDS = 180.0


def files() -> list[Path]:
    """What goes into the guest, sorted, relative to the project."""
    found = [PROJECT / INSTALLER]
    for package in ("vsrpc", "guest"):
        found += [path for path in (PROJECT / package).rglob("*") if path.is_file()]
    names = (path.relative_to(PROJECT) for path in found)
    return sorted(n for n in names if "__pycache__" not in n.parts and n.parts[:2] != ("vsrpc", "codegen"))


def key() -> str:
    """Names the present content of `files`."""
    digest = hashlib.sha256()
    for name in files():
        data = (PROJECT / name).read_bytes()
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()[:12]


def install(agent: GuestAgent) -> None:
    """Install or upgrade vsrpc in the running guest.

    Raises:
        VMError: the installer failed; its output is in the message.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in files():
            archive.add(PROJECT / name, str(name))
    agent.write_file(UPLOAD, buffer.getvalue())
    script = f"rm -rf {UNPACKED} && mkdir {UNPACKED} && tar -xf {UPLOAD} -C {UNPACKED} --no-same-owner"
    script += f" && sh {UNPACKED}/{INSTALLER} && rm -rf {UNPACKED} {UPLOAD}"
    try:
        agent.check(["/bin/sh", "-c", script], timeout=INSTALL_SECONDS)
    except VMError as error:
        raise VMError(f"installing vsrpc in the guest failed: {error}") from None
