"""A tree of files in memory, and the archives that are made of it, always the same for the same tree."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from pathlib import Path

from .sources import epoch

Tree = dict[str, tuple[bytes, bool]]
"""Content of each file, by its path with slashes, and whether it is a program."""

SUMS = "SHA256SUMS"


def add(tree: Tree, path: str, source: Path, program: bool = False) -> None:
    """Take a file from disk."""
    tree[path] = (source.read_bytes(), program)


def sums(tree: Tree) -> bytes:
    """What sha256sum(1) prints of all files."""
    lines = [f"{hashlib.sha256(content).hexdigest()}  {path}\n" for path, (content, _) in sorted(tree.items())]
    return "".join(lines).encode()


def tar_gz(tree: Tree, top: str, target: Path) -> None:
    """Write the tree as a compressed archive, all in one directory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        directories = {f"{top}/{parent}" for path in tree for parent in map(str, Path(path).parents) if parent != "."}
        for directory in sorted({top, *directories}):
            archive.addfile(_member(directory, 0o755, tarfile.DIRTYPE))
        for path, (content, program) in sorted(tree.items()):
            member = _member(f"{top}/{path}", 0o755 if program else 0o644, tarfile.REGTYPE)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with target.open("wb") as stream, gzip.GzipFile("", "wb", 9, stream, mtime=epoch()) as packed:
        packed.write(buffer.getvalue())


def _member(name: str, mode: int, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.mode, member.type, member.mtime = mode, kind, epoch()
    member.uname = member.gname = "root"
    return member
