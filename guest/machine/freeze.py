"""File systems that are held still for a snapshot, and never for longer than a lease says (ioctl_fifreeze(2)).

While they are frozen, whatever writes to them waits, where no signal reaches it: so nothing here writes, and the logs
are held back (`hold`). That they thaw does not depend on this process: a guard (thaw_guard.py) does it at the end of
the lease and when we die, and where that was killed with us, the next daemon does, by a note that we keep locked.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import struct
import subprocess
import sys
import threading
import time
from typing import Callable, Sequence

from guest.machine import thaw_guard
from guest.machine.mounts import Mount, mounts

# linux/fs.h
FIFREEZE, FITHAW, _FITRIM = 0xC0045877, thaw_guard.FITHAW, 0xC0185879

CANNOT = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSYS)
"""How file systems say that they cannot be frozen, or have nothing to tell a disk."""

NOTE = "/run/vsrpc-guest.frozen"
"""What names the mount points while they are frozen: it is in memory, and so gone with the next boot."""

_log = logging.getLogger(__name__)


class FrozenAlready(Exception):
    """What is to be frozen is so already."""


class ThawedMeanwhile(Exception):
    """It was thawed, or the lease ended, before all was frozen."""


class NotMounted(Exception):
    """There is no file system on a disk at that mount point."""


def on_disks(wanted: Sequence[str]) -> list[Mount]:
    """The file systems on disks, the last mounted first, as one may lie in a file of another; of those wanted if any
    are. Raises NotMounted."""
    all_ = sorted((each for each in mounts() if each.device.startswith("/dev/")), key=lambda mount: -mount.order)
    places = {os.path.normpath(place): place for place in wanted}
    for place in places.keys() - {each.mountpoint for each in all_}:
        raise NotMounted(places[place])
    return [each for each in all_ if not wanted or each.mountpoint in places]


class Freezer:
    """Freezes and thaws. `hold` is called with True before and with False after: nothing may be written between."""

    def __init__(
        self,
        hold: Callable[[bool], None] = lambda held: None,
        ioctl: Callable[[int, int], object] = lambda fd, request: fcntl.ioctl(fd, request, 0),
        note: str = NOTE,
    ) -> None:
        self._hold = hold
        self._ioctl = ioctl
        self._note = note
        self._lock = threading.Lock()  # all below
        self._now: _Freeze | None = None
        self._stopped = False

    @property
    def frozen(self) -> bool:
        """Whether anything is, or is about to be."""
        return self._now is not None

    def freeze(self, wanted: Sequence[str], lease: float) -> tuple[list[str], float]:
        """Freeze; the mount points, and the seconds until they thaw. With an error all is thawed again.

        Raises FrozenAlready, NotMounted, ThawedMeanwhile, and OSError (EOPNOTSUPP where nothing can be frozen).
        """
        ends = time.monotonic() + lease
        now = self._begin(on_disks(wanted), lease)
        try:
            for place, fd in now.places.items():
                if not self._freeze_one(now, place, fd) and wanted:
                    raise OSError(errno.EOPNOTSUPP, "its file system cannot be frozen", place)
            if not now.frozen:
                raise OSError(errno.EOPNOTSUPP, "there is no file system on a disk that can be frozen")
            return list(now.frozen), max(0.0, ends - time.monotonic())
        except BaseException:
            self._end(now)
            raise
        finally:
            with self._lock:
                now.complete = True
                if now is not self._now:
                    now.close()

    def thaw(self) -> list[str]:
        """Thaw what was frozen; its mount points. Raises OSError with what could not be thawed as its filename."""
        with self._lock:
            now = self._now
        return [] if now is None else self._end(now)

    def stop(self) -> None:
        """Thaw, and freeze nothing any more."""
        with self._lock:
            self._stopped = True
        with contextlib.suppress(OSError):  # it was logged
            self.thaw()

    def _begin(self, chosen: Sequence[Mount], lease: float) -> _Freeze:
        with self._lock:
            if self._stopped:
                raise OSError(errno.ESHUTDOWN, "the daemon is stopping")
            if self._now is not None:
                raise FrozenAlready(", ".join(self._now.places))
            now = _Freeze([each.mountpoint for each in chosen], lease, self._note)
            self._now = now
            self._hold(True)
        threading.Thread(target=self._watch, args=(now,), name="vsrpc-thaw", daemon=True).start()
        return now

    def _freeze_one(self, now: _Freeze, place: str, fd: int) -> bool:
        """Whether it can be frozen."""
        try:
            self._ioctl(fd, FIFREEZE)
        except OSError as failure:
            if failure.errno in CANNOT:
                return False
            if failure.errno == errno.EBUSY:
                raise FrozenAlready(place) from None
            failure.filename = place
            raise
        with self._lock:
            now.frozen.append(place)
            if now is not self._now:
                self._thaw(now)
                raise ThawedMeanwhile
        return True

    def _watch(self, now: _Freeze) -> None:
        """The guard ends when all is thawed, and when it has thawed itself."""
        now.guard.wait()
        with contextlib.suppress(OSError):
            places = self._end(now)
            if places:
                _log.warning("nobody has thawed %s within the lease: thawed", ", ".join(places))

    def _end(self, now: _Freeze) -> list[str]:
        with self._lock:
            if now is not self._now:
                return []
            places = self._thaw(now)
            self._now = None
            if now.complete:
                now.close()
            self._hold(False)
            return places

    def _thaw(self, now: _Freeze) -> list[str]:
        """Thaw what is frozen of it; what could not be thawed stays there. With the lock held."""
        places = now.frozen[:]
        failures = []
        for place in reversed(places):
            try:
                self._ioctl(now.places[place], FITHAW)
            except OSError as failure:
                if failure.errno != errno.EINVAL:  # somebody else has thawed it
                    failure.filename = place
                    failures.append(failure)
                    _log.error("cannot thaw %s: %s", place, failure.strerror)
                    continue
            now.frozen.remove(place)
        if failures:
            raise failures[0]
        return places


class _Freeze:
    """What is frozen at a time: open mount points in the order of freezing, the guard, the note. Raises OSError."""

    def __init__(self, places: Sequence[str], lease: float, note: str) -> None:
        self.frozen: list[str] = []
        self.complete = False  # nothing more is going to be frozen
        self.places: dict[str, int] = {}
        with contextlib.ExitStack() as stack:
            for place in places:
                self.places[place] = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                stack.callback(os.close, self.places[place])
            self._note = _locked(note)
            stack.callback(os.close, self._note)
            stack.callback(os.unlink, note)
            os.write(self._note, b"\0".join(os.fsencode(place) for place in places))
            self.guard = _Guard(lease, note, list(self.places.values())[::-1])
            stack.callback(self.guard.dismiss)
            self._stack = stack.pop_all()

    def close(self) -> None:
        """All is thawed."""
        with contextlib.suppress(FileNotFoundError):  # the guard has removed the note
            self._stack.close()


class _Guard:
    """The process that thaws when we do not. Raises OSError where it cannot be started."""

    def __init__(self, lease: float, note: str, descriptors: Sequence[int]) -> None:
        program = [sys.executable, "-I", "-S", os.path.abspath(thaw_guard.__file__)]
        self._process = subprocess.Popen(
            [*program, str(lease), note, *map(str, descriptors)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=descriptors,
            start_new_session=True,
            cwd="/",
            env={},
        )
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            if not stdout.read(1):
                self.dismiss()
                self._process.wait()
                raise OSError(errno.ECHILD, f"{program[0]}, which would thaw them, does not start")

    def dismiss(self) -> None:
        """Tell it that there is nothing to thaw."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(b"x")

    def wait(self) -> None:
        """Wait until it has ended."""
        self._process.wait()


def thaw_leftovers(note: str = NOTE) -> list[str]:
    """Thaw what a daemon that died has left frozen; its mount points. Not of one that lives, nor where it cannot be."""
    try:
        fd = os.open(note, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return []
    places = []
    with open(fd, "rb") as stream, contextlib.suppress(OSError):
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for name in filter(None, stream.read().split(b"\0")):
            with contextlib.suppress(OSError):
                _of_mount(name, FITHAW, 0)
                places.append(os.fsdecode(name))
        os.unlink(note)
    return places


def trim(mountpoint: str, minimum: int) -> int:
    """Tell the disk which blocks are free; bytes told. Raises OSError."""
    request = bytearray(struct.pack("QQQ", 0, 2**64 - 1, minimum))
    _of_mount(mountpoint, _FITRIM, request)
    told: int = struct.unpack("QQQ", request)[1]
    return told


def _of_mount(mountpoint: str | bytes, request: int, argument: int | bytearray) -> None:
    fd = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, request, argument)
    finally:
        os.close(fd)


def _locked(note: str) -> int:
    """The note, made, and locked as long as it is open."""
    fd = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        return fd
    except BlockingIOError:
        os.close(fd)
        raise FrozenAlready("by another daemon in this guest") from None
    except BaseException:
        os.close(fd)
        raise
