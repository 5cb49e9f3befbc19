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
from typing import Iterable, Sequence

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
        self._mounts = _Mounts(())

    def mounts(self) -> _Mounts:
        """All mounts. Raises OSError where /proc cannot be read."""
        with self._lock:
            if self._poll.poll(0) or not self._mounts.by_number:
                self._mounts = _Mounts(_read())
            return self._mounts

    def of(self, fd: int | None, real: str) -> Mount | None:
        """The mount through which an open file at the real path was reached, or would be if nothing is there.

        None for a file that is not in this namespace (reached through another process's /proc/N/root), or not any more.
        """
        number = None if fd is None else _number(fd)
        mounts = self.mounts().by_number
        if number is None:  # nothing is there, or Linux before 3.15, which does not tell
            holding = [each for each in mounts.values() if _below(real, each.point) is not None]
            return max(holding, key=lambda each: len(each.point), default=None)
        return mounts.get(number)

    def others(self, mount: Mount, real: str) -> Sequence[str]:
        """The other paths that lead, or would without mounts on top, to what is at the real path on a mount."""
        mounts = self.mounts()
        same = mounts.by_device.get(mount.device, ())
        if len(same) <= 1 and not mounts.layered:
            return ()
        paths: list[str] = []
        inside = _joined(mount.root, _below(real, mount.point) or "")
        for each in same:
            rest = _below(inside, each.root)
            if rest is not None and each is not mount:
                paths.append(_joined(each.point, rest))
        for path in [real, *paths]:
            for each in mounts.layered:
                for layer in each.layers:
                    rest = _below(path, layer)
                    if rest is not None:
                        paths.append(_joined(each.point, rest))
        return paths


class _Mounts:
    """Mounts, as they are asked for."""

    def __init__(self, mounts: Iterable[Mount]) -> None:
        self.by_number = {each.number: each for each in mounts}
        self.by_device: dict[str, list[Mount]] = {}
        for each in self.by_number.values():
            self.by_device.setdefault(each.device, []).append(each)
        self.layered = [each for each in self.by_number.values() if each.layers]


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
    # Without the buffers and decoders of open(), which cost several times as much as the question.
    info = os.open(f"/proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _, found, rest = os.read(info, 4096).partition(b"\nmnt_id:")
    finally:
        os.close(info)
    return int(rest.split(None, 1)[0]) if found else None


def _below(path: str, directory: str) -> str | None:
    """What follows the directory in a path at or below it."""
    if directory == "/":
        return path[1:]
    if path == directory:
        return ""
    return path[len(directory) + 1 :] if path.startswith(directory + "/") else None


def _joined(directory: str, rest: str) -> str:
    return os.path.join(directory, rest) if rest else directory


def _unescape(field: str) -> str:
    """Undo mountinfo's octal escapes of blanks and backslashes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), field)
