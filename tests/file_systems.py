"""File systems that offer less than the one that tests run on."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

KINDS = ("unnamed", "named", "named, no hard links")
"""What they offer: files without a name (ext4), only names (NFS), not even links (vfat)."""


def pretend(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be on a file system of this kind."""
    real_open = os.open

    def open_named(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return real_open(path, flags, mode, dir_fd=dir_fd)

    def no_link(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    if kind != "unnamed":
        monkeypatch.setattr(os, "open", open_named)
    if "no hard links" in kind:
        monkeypatch.setattr(os, "link", no_link)
