"""Where an open file is mounted, and which other paths lead to it: proc(5)'s mountinfo and fdinfo.

The same directory can be seen at several places: through bind mounts, a file system that is mounted twice, and the
layers of an overlay. A rule about one of these paths is a rule about the file, so all of them are judged.
"""

from __future__ import annotations

import functools
import os
import re
import select
import threading
from dataclasses import dataclass
from typing import Sequence

_MOUNTINFO = "/proc/self/mountinfo"


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo: the part `root` of the file system `device` is seen at `point`."""

    number: int
    device: str
    root: str
    point: str
    type: str
    layers: tuple[str, ...] = ()
    """Directories that an overlay shows at `point`."""


class MountTable:
    """The mounts of this process's namespace, read again when the kernel says that they changed. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Kept open: polling it tells of changes (proc(5)), which costs less than reading some dozens of lines anew.
        self._events = os.open(_MOUNTINFO, os.O_RDONLY | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._events, select.POLLPRI)
        self._mounts: tuple[Mount, ...] = ()

    def mounts(self) -> tuple[Mount, ...]:
        """All mounts. Raises OSError where /proc cannot be read."""
        with self._lock:
            if self._poll.poll(0) or not self._mounts:
                self._mounts = _read()
            return self._mounts

    def of(self, fd: int | None, real: str) -> Mount | None:
        """The mount through which an open file at the real path was reached, or would be if nothing is there.

        None for a file that is not in this namespace (reached through another process's /proc/N/root), or not any more.
        """
        number = None if fd is None else _number(fd)
        mounts = self.mounts()
        if number is None:  # nothing is there, or Linux before 3.15, which does not tell
            return max((each for each in mounts if _below(real, each.point) is not None), key=_depth, default=None)
        return next((each for each in mounts if each.number == number), None)

    def others(self, mount: Mount, real: str) -> Sequence[str]:
        """The other paths that lead, or would without mounts on top, to what is at the real path on a mount."""
        paths: list[str] = []
        mounts = self.mounts()
        inside = _joined(mount.root, _below(real, mount.point) or "")
        for each in mounts:
            if each.device == mount.device and each is not mount:
                rest = _below(inside, each.root)
                if rest is not None:
                    paths.append(_joined(each.point, rest))
        for path in [real, *paths]:
            for each in mounts:
                for layer in each.layers:
                    rest = _below(path, layer)
                    if rest is not None:
                        paths.append(_joined(each.point, rest))
        return paths


@functools.lru_cache(maxsize=None)
def mount_table() -> MountTable:
    """The one of this process. Raises OSError where /proc cannot be read."""
    return MountTable()


def _read() -> tuple[Mount, ...]:
    with open(_MOUNTINFO, encoding="utf-8", errors="surrogateescape") as lines:
        return tuple(map(_mount, lines))


def _mount(line: str) -> Mount:
    left, _, right = line.rstrip("\n").partition(" - ")
    number, _, device, root, point = left.split(" ")[:5]
    type_, _, options = right.split(" ", 2)
    layers = _layers(_unescape(options)) if type_ == "overlay" else ()
    return Mount(int(number), device, _unescape(root), _unescape(point), type_, layers)


def _layers(options: str) -> tuple[str, ...]:
    """Of overlay's `lowerdir=A:B,upperdir=C` (and `lowerdir+=A`, of Linux 6.8)."""
    found: list[str] = []
    for option in options.split(","):
        name, _, value = option.partition("=")
        if name in ("lowerdir", "lowerdir+", "upperdir", "datadir+"):
            found += [path for path in value.split(":") if path.startswith("/")]
    return tuple(found)


def _number(fd: int) -> int | None:
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as lines:
        return next((int(line[7:]) for line in lines if line.startswith("mnt_id:")), None)


def _below(path: str, directory: str) -> str | None:
    """What follows the directory in a path at or below it."""
    if directory == "/":
        return path[1:]
    if path == directory:
        return ""
    return path[len(directory) + 1 :] if path.startswith(directory + "/") else None


def _joined(directory: str, rest: str) -> str:
    return os.path.join(directory, rest) if rest else directory


def _depth(mount: Mount) -> int:
    return len(mount.point)


def _unescape(field: str) -> str:
    """Undo mountinfo's octal escapes of blanks and backslashes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), field)
