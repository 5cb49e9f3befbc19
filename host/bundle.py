"""The guest bundle: what `make dist` makes for guests, found, read, and checked as far as that needs no guest."""

from __future__ import annotations

import glob
import hashlib
import io
import os
import re
import sys
import tarfile
import zlib
from dataclasses import dataclass

from host.errors import UsageError
from vsrpc._version import __version__

_VERSION = re.compile(rb'^__version__ = "([^"]+)"', re.MULTILINE)
_LARGEST = 256 * 1024 * 1024  # bytes; a bundle has some


@dataclass(frozen=True)
class Bundle:
    """A guest bundle in memory."""

    path: str
    content: bytes
    sha256: str
    top: str
    """Name of the directory in it."""
    version: str
    """Version of vsrpc in it."""
    unpacked: int
    """Bytes of its files."""


def places() -> list[str]:
    """Where the bundle of this version is looked for when none is named."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return [os.path.join(sys.prefix, "share", "vsrpc"), "/usr/share/vsrpc", os.path.join(package, "dist")]


def find(path: str | None) -> Bundle:
    """The bundle at `path`, or the one of this version beside the installed program. Raises UsageError."""
    if path is not None:
        return read(path)
    found = [each for place in places() for each in sorted(glob.glob(f"{place}/vsrpc-guest-{__version__}*.tar.gz"))]
    if not found:
        where = ", ".join(dict.fromkeys(places()))
        message = (
            f"no guest bundle of version {__version__} in {where}: give one by --bundle vsrpc-guest-VERSION.tar.gz"
        )
        raise UsageError(f"{message} (`make dist` builds it)")
    return read(found[0])


def read(path: str) -> Bundle:
    """Read and check a bundle. Raises UsageError for what is none, OSError for a file that cannot be read."""
    with open(path, "rb") as stream:
        content = stream.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise UsageError(f"{path} is larger than {_LARGEST} bytes: it is no guest bundle")
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            members = archive.getmembers()  # reads to the end, and notices where that is missing
            names = [member.name for member in members]
            top = names[0].split("/")[0] if names else ""
            program = archive.extractfile(f"{top}/vsrpc/_version.py") if f"{top}/install.sh" in names else None
            found = _VERSION.search(program.read()) if program else None
    except (tarfile.TarError, EOFError, KeyError, OSError, zlib.error) as error:
        raise UsageError(f"{path} is no guest bundle, or only a part of one: {error}") from None
    if found is None:
        message = "it has no install.sh beside vsrpc/_version.py"
        raise UsageError(f"{path} is no guest bundle: {message} (`make dist` builds vsrpc-guest-VERSION.tar.gz)")
    return Bundle(
        path=path,
        content=content,
        sha256=hashlib.sha256(content).hexdigest(),
        top=top,
        version=found.group(1).decode("ascii", "replace"),
        unpacked=sum(member.size for member in members),
    )
