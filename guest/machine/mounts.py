"""Mounted file systems that hold files on the guest's own storage.

Network file systems are left out: asking one whose server is gone hangs, and so would the daemon.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

# Real storage that /proc/filesystems calls "nodev".
_NODEV_STORAGE = frozenset(("zfs", "bcachefs", "virtiofs", "9p"))

# Images that are always full.
_IMAGES = frozenset(("squashfs", "iso9660", "udf", "erofs", "cramfs"))


@dataclass(frozen=True)
class Mount:
    """A mounted file system; sizes in bytes. `free` is what ordinary users may still use. `order`: of mounting."""

    device: str
    mountpoint: str
    fstype: str
    total: int
    used: int
    free: int
    order: int = 0

    @property
    def percent(self) -> float:
        """Space in use as df(1) shows it: of what ordinary users can use."""
        usable = self.used + self.free
        return 100.0 * self.used / usable if usable else 0.0


def mounts(root: Path = Path("/")) -> list[Mount]:
    """The mounts, the root first, each device once (a bind mount is no file system of its own)."""
    storage = _storage_types(root)
    found: dict[str, Mount] = {}
    devices: set[str] = set()
    for order, device, mountpoint, fstype in _mountinfo(root):
        if mountpoint != "/" and (fstype not in storage or device in devices or not os.path.isdir(mountpoint)):
            continue
        try:
            stats = os.statvfs(mountpoint)
        except OSError:  # not for the daemon's user, or unmounted since
            continue
        if not stats.f_blocks:
            continue
        if device.startswith("/dev/"):
            devices.add(device)
        unit = stats.f_frsize
        total, used = stats.f_blocks * unit, (stats.f_blocks - stats.f_bfree) * unit
        found[mountpoint] = Mount(device, mountpoint, fstype, total, used, stats.f_bavail * unit, order)
    return list(found.values())


@dataclass(frozen=True)
class Usage:
    """Space on a file system, in bytes; `files` that there may be (0 for any number) and that can still be made."""

    device: str
    mountpoint: str
    fstype: str
    total: int
    used: int
    available: int
    files: int
    files_free: int
    read_only: bool


def usage(path: str = "") -> list[Usage]:
    """Space on the file system that holds a path, or on all that `mounts` tells. Raises OSError for the path."""
    if not path:
        found = [(each.device, each.mountpoint, each.fstype) for each in mounts()]
        return [_usage(each, each[1]) for each in found]
    real = os.path.realpath(path)
    holding = [each[1:] for each in _mountinfo(Path("/")) if (real + "/").startswith(each[2].rstrip("/") + "/")]
    return [_usage(holding[-1], real)]


def _usage(mount: tuple[str, str, str], path: str) -> Usage:
    stats = os.statvfs(path)
    unit = stats.f_frsize
    device, mountpoint, fstype = (text.encode("utf-8", "replace").decode() for text in mount)
    return Usage(
        device=device,
        mountpoint=mountpoint,
        fstype=fstype,
        total=stats.f_blocks * unit,
        used=(stats.f_blocks - stats.f_bfree) * unit,
        available=stats.f_bavail * unit,
        files=stats.f_files,
        files_free=stats.f_favail,
        read_only=bool(stats.f_flag & os.ST_RDONLY),
    )


def _mountinfo(root: Path) -> list[tuple[int, str, str, str]]:
    """(order, device, mountpoint, fstype) of proc(5)'s mountinfo, shortest mountpoint first.

    Of two at one place the upper.
    """
    at: dict[str, tuple[int, str, str, str]] = {}
    with (root / "proc/self/mountinfo").open("r", encoding="utf-8", errors="surrogateescape") as lines:
        for order, line in enumerate(lines):
            left, _, right = line.partition(" - ")
            fields, (fstype, device) = left.split(" "), right.split(" ")[:2]
            mountpoint = _unescape(fields[4])
            at[mountpoint] = (order, _unescape(device), mountpoint, fstype)
    return sorted(at.values(), key=lambda mount: (mount[2] != "/", len(mount[2]), mount[2]))


def _storage_types(root: Path) -> frozenset[str]:
    with (root / "proc/filesystems").open("r", encoding="utf-8") as lines:
        known = frozenset(line.strip() for line in lines if not line.startswith("nodev"))
    return (known | _NODEV_STORAGE) - _IMAGES


def _unescape(field: str) -> str:
    """Undo mountinfo's octal escapes of blanks and backslashes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), field)
