"""Directories that are reached one step at a time, never through a symbolic link; walking and removing what they hold.

Both ends of a copy use this: each takes names from the other, which it must not trust. A name below a directory is
relative, its parts divided by "/"; bytes that are no UTF-8 are surrogates (os.fsdecode). No step is looked up
again once it is open, so nobody can swap a link in. Nothing here knows messages or a policy: `Directory.check` is where
a policy comes in.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Callable, Generic, Iterator, NamedTuple, TypeVar

from vsrpc.errors import RpcError

MAX_DEPTH = 128
"""Directories below each other: each is an open descriptor while one is in it."""

_NO_NAMES = frozenset(("", ".", ".."))

_MAX_NAME = 255  # bytes: NAME_MAX (linux/limits.h)

Failure = (OSError, RpcError)
"""What may go wrong with one file: what the system says of it, and what a policy does."""

D = TypeVar("D", bound="Directory")


class Directory:
    """An open directory. `close` it, or use it as a context manager."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def enter(self: D, leaf: str, readable: bool = False) -> D:
        """Open a directory in it, for listing if `readable`. Raises OSError; ELOOP or ENOTDIR for a link."""
        flags = (os.O_RDONLY if readable else os.O_PATH) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(leaf, flags, dir_fd=self.fd)
        try:
            return self.entered(leaf, fd)
        except BaseException:
            os.close(fd)
            raise

    def entered(self: D, leaf: str, fd: int) -> D:
        """The object for what `enter` opened."""
        return type(self)(fd)

    def check(self, leaf: str, status: os.stat_result | None) -> None:
        """Raise what forbids to use this name in it; `status` is that of what is there, if it is known."""

    def close(self) -> None:
        """Close it."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def __enter__(self: D) -> D:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def parts_of(name: str) -> list[str]:
    """The parts of a name below a directory; raises OSError for one that could lead elsewhere, or is no name."""
    parts = name.split("/")
    if "\0" in name or not _NO_NAMES.isdisjoint(parts):
        raise OSError(errno.EINVAL, "a name below a directory has no empty parts, no '.', '..' or NUL")
    if len(parts) > MAX_DEPTH:
        raise OSError(errno.ENAMETOOLONG, f"more than {MAX_DEPTH} directories below each other")
    if len(name) * 4 > _MAX_NAME and any(len(os.fsencode(part)) > _MAX_NAME for part in parts):
        raise OSError(errno.ENAMETOOLONG, f"a part of the name is longer than {_MAX_NAME} bytes")
    return parts


class Parents(Generic[D]):
    """The directories that names below `root` are in. Keeps those of the last name open: the next is often near.

    A context manager; `root` stays open.
    """

    def __init__(self, root: D) -> None:
        self._open: list[tuple[str, D]] = [("", root)]
        self._above: str | None = None  # what comes before the last part of the last name

    def of(self, name: str) -> tuple[D, str]:
        """The directory of a name, which stays open until the next call, and the name's last part. Raises OSError."""
        directory, slash, last = name.rpartition("/")
        if directory + slash == self._above:
            return self._open[-1][1], parts_of(last)[0]
        self._above = None
        *above, leaf = parts_of(name)
        kept = 0
        while kept < len(above) and kept + 1 < len(self._open) and self._open[kept + 1][0] == above[kept]:
            kept += 1
        self._close(kept)
        for part in above[kept:]:
            self._open.append((part, self._open[-1][1].enter(part)))
        self._above = directory + slash
        return self._open[-1][1], leaf

    def _close(self, kept: int) -> None:
        while len(self._open) > kept + 1:
            self._open.pop()[1].close()

    def __enter__(self) -> Parents[D]:
        return self

    def __exit__(self, *exception: object) -> None:
        self._close(0)


class Seen(NamedTuple):
    """Something that a walk came across."""

    name: str
    """Relative to where the walk began."""
    leaf: str
    """Its name in its directory."""
    directory: Directory
    """That directory, open until the walk goes on."""
    status: os.stat_result | None
    """What it is; None if that may not be told."""
    failure: Exception | None
    """Why there is no status, or why the directory will not be walked through."""


def walk(root: Directory, recursive: bool = True, after: str = "") -> Iterator[Seen]:
    """All in a directory, which must be readable, sorted by name; a directory before what is in it.

    `after`: the name to go on behind. What vanishes meanwhile is left out. Raises OSError for `root` itself.
    """
    behind = after.split("/") if after else []
    stack = [(root, "", _names(root, behind[:1]))]
    try:
        while stack:
            directory, prefix, names = stack[-1]
            if not names:
                stack.pop()
                if stack:
                    directory.close()
                continue
            leaf = names.pop()
            name = prefix + leaf
            depth = len(stack)
            passed = behind[:depth] == name.split("/")  # on the way to `after`, or that itself
            try:
                status: os.stat_result | None = os.stat(leaf, dir_fd=directory.fd, follow_symlinks=False)
                directory.check(leaf, status)
            except FileNotFoundError:
                continue
            except Failure as failure:
                if not passed:
                    yield Seen(name, leaf, directory, None, failure)
                continue
            inner: Directory | None = None
            inside: list[str] = []
            problem: Exception | None = None
            if recursive and status is not None and stat.S_ISDIR(status.st_mode):
                try:
                    if depth >= MAX_DEPTH:
                        raise OSError(errno.ENAMETOOLONG, f"more than {MAX_DEPTH} directories below each other")
                    inner = directory.enter(leaf, readable=True)
                    inside = _names(inner, behind[depth : depth + 1] if passed else [])
                except FileNotFoundError:
                    continue
                except Failure as failure:
                    problem = failure
            try:
                if not passed:
                    yield Seen(name, leaf, directory, status, problem)
            finally:
                if inner is not None:
                    stack.append((inner, name + "/", inside))
    finally:
        for directory, _, _ in stack[1:]:
            directory.close()


def _names(directory: Directory, least: list[str]) -> list[str]:
    """Names in a directory, the last first; those before `least` are left out."""
    names = os.listdir(directory.fd)
    if least:
        names = [name for name in names if name >= least[0]]
    names.sort(reverse=True)
    return names


def remove(
    directory: Directory,
    leaf: str,
    recursive: bool,
    failed: Callable[[str, Exception], None],
    go_on: Callable[[], None],
) -> int:
    """Remove what has that name, how many files and directories that were; links are removed, not followed.

    What cannot be removed is told to `failed`, by its name relative to `directory`, and the rest goes on. `go_on` is
    called now and then and may raise.
    """
    return _remove(directory, leaf, leaf, recursive, failed, go_on, 1)[0]


def _remove(
    directory: Directory,
    leaf: str,
    name: str,
    recursive: bool,
    failed: Callable[[str, Exception], None],
    go_on: Callable[[], None],
    depth: int,
) -> tuple[int, bool]:
    """How many were removed, and whether all were."""
    removed, whole = 0, True
    go_on()
    try:
        status = os.stat(leaf, dir_fd=directory.fd, follow_symlinks=False)
        directory.check(leaf, status)
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(leaf, dir_fd=directory.fd)
            return 1, True
        if not recursive:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if depth >= MAX_DEPTH:
            raise OSError(errno.ENAMETOOLONG, f"more than {MAX_DEPTH} directories below each other")
        with directory.enter(leaf, readable=True) as inner:
            for each in sorted(os.listdir(inner.fd)):
                count, all_ = _remove(inner, each, f"{name}/{each}", True, failed, go_on, depth + 1)
                removed, whole = removed + count, whole and all_
        if whole:  # else it is not empty, which need not be told beside why
            os.rmdir(leaf, dir_fd=directory.fd)
            removed += 1
    except Failure as failure:
        if depth > 1 and isinstance(failure, FileNotFoundError):
            return removed, whole  # somebody else was faster
        failed(name, failure)
        whole = False
    return removed, whole
