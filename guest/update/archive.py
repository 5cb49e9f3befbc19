"""Unpacking a guest bundle: one directory with install.sh, vsrpc/ and guest/, in a gzipped tar archive."""

from __future__ import annotations

import io
import os
import tarfile
import zlib
from typing import Union

from guest.update.layout import version_of

Buffer = Union[bytes, bytearray, memoryview]

INSTALLER = "install.sh"
_NEEDED = (INSTALLER, "vsrpc/_version.py", "guest/__main__.py")
_MOST_MEMBERS = 20_000
_MOST_BYTES = 512 * 1024 * 1024  # unpacked; a bundle has a hundredth of it


class BadBundle(ValueError):
    """What was given is no guest bundle; the text says why."""


def unpack(content: Buffer, directory: str) -> str:
    """Unpack into an existing directory; returns the bundle's own. Raises BadBundle, and OSError for the directory."""
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            members = archive.getmembers()
            top = _checked(members)
            for member in members:
                _extract(archive, member, os.path.join(directory, member.name))
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise BadBundle(f"it is no whole .tar.gz archive ({error})") from None
    except OSError as error:
        if error.errno is None:  # gzip's own, for what is no gzip
            raise BadBundle(f"it is no whole .tar.gz archive ({error})") from None
        raise
    return os.path.join(directory, top)


def version(bundle: str) -> str:
    """Version of the unpacked bundle. Raises BadBundle where something that every bundle has is missing."""
    missing = [name for name in _NEEDED if not os.path.isfile(os.path.join(bundle, name))]
    if missing:
        raise BadBundle(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing in it")
    try:
        return version_of(bundle)
    except (OSError, ValueError) as error:
        raise BadBundle(str(error)) from None


def _checked(members: list[tarfile.TarInfo]) -> str:
    """The one directory that all is in."""
    if len(members) > _MOST_MEMBERS or sum(member.size for member in members) > _MOST_BYTES:
        raise BadBundle(f"it has more than {_MOST_MEMBERS} members or {_MOST_BYTES} bytes")
    tops = set()
    for member in members:
        parts = member.name.split("/")
        if member.name.startswith("/") or ".." in parts or not (member.isfile() or member.isdir()):
            raise BadBundle(f"its member {member.name!r} is no file or directory below its own directory")
        tops.add(parts[0])
    if len(tops) != 1 or tops & {"", "."}:
        raise BadBundle("it does not have one directory with everything below it")
    return tops.pop()


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
    if member.isdir():
        os.makedirs(path, 0o755, exist_ok=True)
        return
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    source = archive.extractfile(member)
    assert source is not None, "it is a file"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o755 if member.mode & 0o100 else 0o644)
    with source, open(fd, "wb") as target:
        while True:
            block = source.read(1 << 20)
            if not block:
                break
            target.write(block)
