"""Guest bundles for tests: one with next to nothing in it, and the real one with another version or a defect."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Callable, Mapping

Files = Mapping[str, bytes]


def archive(files: Files, top: str = "vsrpc-guest-9.9.0") -> bytes:
    """A .tar.gz of files below one directory; with `top` "", as they are named."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{top}/{name}" if top else name)
            member.size, member.mode = len(content), 0o755
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def tiny(version: str = "9.9.0", installer: str = "") -> dict[str, bytes]:
    """The files that every bundle has, with an installer of the test's own."""
    return {
        "install.sh": f"#!/bin/sh\n{installer}\n".encode(),
        "vsrpc/_version.py": f'__version__ = "{version}"\n'.encode(),
        "guest/__main__.py": b"",
    }


def real(directory: Path, version: str, change: Callable[[dict[str, tuple[bytes, bool]]], None] | None = None) -> Path:
    """The bundle as it is built, but for its version and a change of its files."""
    from scripts.dist import bundle, tree

    files = bundle.files()
    files["vsrpc/_version.py"] = (f'__version__ = "{version}"\n'.encode(), False)
    if change is not None:
        change(files)
    del files[tree.SUMS]
    files[tree.SUMS] = (tree.sums(files), False)
    path = directory / f"vsrpc-guest-{version}.tar.gz"
    tree.tar_gz(files, f"vsrpc-guest-{version}", path)
    return path
