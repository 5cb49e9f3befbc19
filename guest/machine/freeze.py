"""File systems that are held still for a snapshot, and never for longer than a lease says (ioctl_fifreeze(2)).

While they are frozen, whatever writes to them waits: so nothing here writes, and the log is held back (`hold`).
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
import threading
from typing import Callable, Sequence

from guest.machine.mounts import Mount, mounts

# linux/fs.h
_FIFREEZE, _FITHAW, _FITRIM = 0xC0045877, 0xC0045878, 0xC0185879

_CANNOT = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL)
"""How file systems say that they cannot be frozen, or have nothing to tell a disk."""

_log = logging.getLogger(__name__)


class FrozenAlready(Exception):
    """What is to be frozen is so already."""


class NotMounted(Exception):
    """There is no file system on a disk at that mount point."""


def on_disks(wanted: Sequence[str]) -> list[Mount]:
    """The file systems on disks, the last mounted first; of those wanted if any are. Raises NotMounted."""
    all_ = [each for each in mounts() if each.device.startswith("/dev/")]
    by_place = {each.mountpoint: each for each in all_}
    for place in wanted:
        if place not in by_place:
            raise NotMounted(place)
    return [by_place[place] for place in wanted] if wanted else all_[::-1]


class Freezer:
    """Freezes and thaws. `hold` is called with True before and with False after: nothing may be written between."""

    def __init__(
        self,
        hold: Callable[[bool], None] = lambda held: None,
        ioctl: Callable[[str, int], None] | None = None,
    ) -> None:
        self._hold = hold
        self._ioctl = ioctl or _ioctl
        self._lock = threading.Lock()
        self._frozen: list[str] = []
        self._timer: threading.Timer | None = None

    def freeze(self, wanted: Sequence[str], lease: float) -> list[str]:
        """Freeze; the mount points. Raises FrozenAlready, NotMounted, and OSError with all thawed again."""
        with self._lock:
            if self._timer is not None:
                raise FrozenAlready(", ".join(self._frozen))
            chosen = on_disks(wanted)
            timer = threading.Timer(lease, self._end_of_lease)
            timer.daemon = True
            self._hold(True)
            try:
                timer.start()  # before, as it may need memory
                for each in chosen:
                    try:
                        self._ioctl(each.mountpoint, _FIFREEZE)
                    except OSError as failure:
                        if failure.errno in _CANNOT and not wanted:
                            continue
                        failure.filename = each.mountpoint
                        raise
                    self._frozen.append(each.mountpoint)
                self._timer = timer
                return list(self._frozen)
            except BaseException:
                timer.cancel()
                self._thaw()
                raise

    def thaw(self) -> list[str]:
        """Thaw what was frozen; its mount points."""
        with self._lock:
            if self._timer is None:
                return []
            self._timer.cancel()
            return self._thaw()

    def _end_of_lease(self) -> None:
        places = self.thaw()
        if places:
            _log.warning("nobody thawed %s within the lease: thawed", ", ".join(places))

    def _thaw(self) -> list[str]:
        places, self._frozen, self._timer = self._frozen, [], None
        failures = []
        for place in reversed(places):
            try:
                self._ioctl(place, _FITHAW)
            except OSError as failure:
                if failure.errno != errno.EINVAL:  # somebody else has thawed it
                    failures.append(f"{place}: {failure.strerror}")
        self._hold(False)
        for text in failures:
            _log.error("cannot thaw %s", text)
        return places


def trim(mountpoint: str, minimum: int) -> int:
    """Tell the disk which blocks are free; bytes told. Raises OSError."""
    fd = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        request = bytearray(struct.pack("QQQ", 0, 2**64 - 1, minimum))
        fcntl.ioctl(fd, _FITRIM, request)
        told: int = struct.unpack("QQQ", request)[1]
        return told
    finally:
        os.close(fd)


def _ioctl(mountpoint: str, request: int) -> None:
    fd = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, request, 0)
    finally:
        os.close(fd)
