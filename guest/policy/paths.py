"""Which paths callers may read, write and look at.

A path is judged on what it really leads to: the file or directory is opened first, without side effects (O_PATH), the
kernel is asked where that is (/proc/self/fd/N), and work goes on with the open file. No name is looked up
again between the judgement and the use, so nobody can swap it in between.

Content may be read and written in the configured places only. Metadata may also be read of what every user of the
guest can see. Secrets (guest.policy.denied) are refused always. Nothing here knows messages or the daemon's
configuration file.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import Iterable, Sequence

from guest.errors import error
from guest.os_errors import as_rpc_error, file_errors, printable
from guest.policy.denied import why_file_denied, why_path_denied
from vsrpc.errors import RpcError

METADATA, READ, WRITE = "metadata", "read", "write"
"""What is done with a file: looked at, its content read, its content or its name changed."""

VISIBLE = "metadata that every user of the guest can see"
"""The rule by which metadata outside the configured places may be read."""

_LONGEST_PATH = 4095  # bytes: PATH_MAX less its NUL (linux/limits.h)
_MOST_LINKS = 40  # symbolic links followed in one path: MAXSYMLINKS (linux/namei.h)
_NOWHERE = (errno.ENOENT, errno.ENOTDIR)


@dataclass(frozen=True)
class Found:
    """What a path names, open for looking at (O_PATH): the caller closes `fd`. A symbolic link is itself."""

    fd: int
    content_allowed: bool
    """Whether the policy lets its content be read."""


class PathPolicy:
    """The rules, for the places given.

    `allowed` are directories, with all below them, and files. Symbolic links in them are followed once, now:
    a link made later cannot widen them. `own` are files and directories of the daemon itself, always refused.

    Every method takes an absolute path and raises RpcError: MISSING_REQUIRED, INVALID_PARAMS (relative, NUL, too long),
    PERMISSION_DENIED, or what the operating system says of the file.
    """

    def __init__(self, allowed: Sequence[str], own: Iterable[str] = ()) -> None:
        self._shown = ", ".join(allowed) or "none"
        self._allowed = tuple(os.path.realpath(path) for path in allowed)
        self._own = tuple(os.path.realpath(path) for path in own)

    def check_read(self, path: str) -> None:
        """Whether content at `path` may be read. What does not exist is judged by the place where it would be."""
        fd, real = self._look(path)
        try:
            self._judge_content(path, real, fd)
        finally:
            _close(fd)

    def check_write(self, path: str) -> None:
        """Whether `path` may be written: both the name's own place and what it leads to, if it is a link."""
        dirfd, name = self.open_parent(path)
        try:
            link = stat.S_ISLNK(os.stat(name, dir_fd=dirfd, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return
        except OSError as failure:
            raise as_rpc_error(failure, path) from failure
        finally:
            os.close(dirfd)
        if link:
            fd, real = self._look(path)
            if fd is None:
                raise self._denied(path, real, "a symbolic link that leads nowhere")
            try:
                self._judge_content(path, real, fd)
            finally:
                os.close(fd)

    def check_metadata(self, path: str) -> None:
        """Whether metadata of `path` (or that nothing is there) may be told."""
        found = self.open_metadata(path)
        if found is not None:
            os.close(found.fd)

    def open_read(self, path: str) -> int:
        """Open a regular file for reading its content; the caller closes the descriptor.

        Also raises FILE_NOT_FOUND, and WRONG_FILE_TYPE for all but regular files. Never waits for a FIFO or device.
        """
        fd, real = self._look(path)
        try:
            self._judge_content(path, real, fd)
            if fd is None:
                raise error("FILE_NOT_FOUND", f"No such file: {printable(path)}", path=path)
            return reopen(fd, path)
        finally:
            _close(fd)

    def open_parent(self, path: str) -> tuple[int, str]:
        """Open the directory of a file to be written; returns it (O_PATH, to be closed) and the file's name in it.

        The name may exist, also as a symbolic link: put a file in its place by rename, or open it with O_NOFOLLOW.
        """
        parent, name = os.path.split(_plain(path))
        fd, real = self._look(parent)
        try:
            if name in ("", ".", ".."):
                raise error(
                    "WRONG_FILE_TYPE", f"Names a directory, where a file is needed: {printable(path)}", path=path
                )
            self._judge_content(path, os.path.join(real, name), fd)
            if fd is None:
                raise error("FILE_NOT_FOUND", f"No such directory: {printable(parent)}", path=parent)
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                raise error("FILE_NOT_FOUND", f"Not a directory: {printable(parent)}", path=parent)
        except RpcError:
            _close(fd)
            raise
        return fd, name

    def open_metadata(self, path: str) -> Found | None:
        """What `path` names, for reading metadata; None when nothing is there (and that may be told)."""
        fd, real = self._look(path, follow=False)
        try:
            self._judge_secret(path, real, fd)
            allowed = self._is_allowed(real)
            if not allowed and not _world_visible(_plain(path)):
                raise self._not_listed(path, real)
        except RpcError:
            _close(fd)
            raise
        return None if fd is None else Found(fd, allowed)

    def judge(self, path: str, real: str, fd: int | None, access: str) -> str:
        """Judge what was opened (None for nothing) and where that is or would be, and say the rule that allows it."""
        self._judge_secret(path, real, fd)
        if self._is_allowed(real):
            return "security.allowed_paths"
        if access != METADATA or not _world_visible(real):
            raise self._not_listed(path, real)
        return VISIBLE

    def judge_directory(self, path: str, real: str, fd: int, access: str) -> str | None:
        """The same for a directory; None if what is in it must be judged by itself, whatever its name is."""
        rule = self.judge(path, real, fd, access)
        inside = real if real.endswith("/") else real + "/"
        return None if any(place.startswith(inside) for place in (*self._allowed, *self._own)) else rule

    def look(self, path: str, follow: bool = True) -> tuple[int | None, str]:
        """Open what `path` names (O_PATH; None when nothing is there), and where that is or would be."""
        return self._look(path, follow)

    def _look(self, path: str, follow: bool = True) -> tuple[int | None, str]:
        """Open what `path` names (None when nothing is there), and where that is or would be."""
        path = _plain(path)
        flags = os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
        try:
            fd = os.open(path, flags)
        except OSError as failure:
            if failure.errno not in _NOWHERE:
                raise as_rpc_error(failure, path) from failure
            return None, _would_be(path)
        try:
            return fd, _where(fd, path)
        except RpcError:
            os.close(fd)
            raise

    def _judge_content(self, path: str, real: str, fd: int | None) -> None:
        self._judge_secret(path, real, fd)
        if not self._is_allowed(real):
            raise self._not_listed(path, real)

    def _judge_secret(self, path: str, real: str, fd: int | None) -> None:
        why = why_path_denied(real)
        if not why and any(_within(real, own) for own in self._own):
            why = "the daemon's own files"
        if not why and fd is not None:
            why = why_file_denied(os.fstat(fd))
        if why:
            raise self._denied(path, real, why)

    def _is_allowed(self, real: str) -> bool:
        return any(_within(real, place) for place in self._allowed)

    def _not_listed(self, path: str, real: str) -> RpcError:
        return _refusal(
            path, real, f"allowed: {self._shown}; security.allowed_paths in the guest's configuration says so"
        )

    def _denied(self, path: str, real: str, why: str) -> RpcError:
        return _refusal(path, real, f"{why}: refused always, security.allowed_paths cannot allow it")


def reopen(fd: int, path: str) -> int:
    """Open for reading the regular file that an O_PATH descriptor holds: that one, whatever its name means now."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise error("WRONG_FILE_TYPE", f"Not a regular file but a {kind(os.fstat(fd))}: {printable(path)}", path=path)
    with file_errors(path):
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)


_KINDS = (
    (stat.S_ISREG, "file"),
    (stat.S_ISDIR, "directory"),
    (stat.S_ISLNK, "symbolic link"),
    (stat.S_ISFIFO, "FIFO"),
    (stat.S_ISSOCK, "socket"),
)


def kind(status: os.stat_result) -> str:
    """The kind of a file, in words."""
    return next((word for test, word in _KINDS if test(status.st_mode)), "device")


def _plain(path: str) -> str:
    """The path, if it is one that can be judged."""
    if not path:
        raise error("MISSING_REQUIRED", "path is missing: give an absolute path", field="path")
    if "\0" in path:
        raise error("INVALID_PARAMS", f"path has a NUL character: {_shown(path)}", field="path")
    if not path.startswith("/"):
        raise error("INVALID_PARAMS", f"path is not absolute: {_shown(path)} (begin it with '/')", field="path")
    if len(path) > _LONGEST_PATH or len(os.fsencode(path)) > _LONGEST_PATH:
        raise error("INVALID_PARAMS", f"path is longer than {_LONGEST_PATH} bytes: {_shown(path)}", field="path")
    return path


def _shown(path: str) -> str:
    return printable(path if len(path) <= 200 else path[:200] + "…")


def where(fd: int, path: str) -> str:
    """The real path of an open file; raises FILE_NOT_FOUND when it was removed meanwhile."""
    return _where(fd, path)


def _where(fd: int, path: str) -> str:
    """The real path of an open file; raises FILE_NOT_FOUND when it was removed meanwhile."""
    with file_errors(path):
        real = os.readlink(f"/proc/self/fd/{fd}")
        if real.endswith(" (deleted)"):  # added by the kernel (d_path), unless it is the file's name
            try:
                same = os.path.samestat(os.stat(real, follow_symlinks=False), os.fstat(fd))
            except OSError:
                same = False
            if not same:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return real


def _would_be(path: str) -> str:
    """Where a path that leads nowhere would be: its deepest directory that exists, resolved, and the rest."""
    rest: list[str] = []
    while True:
        path, name = os.path.split(path.rstrip("/"))
        rest.insert(0, name)
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY)
        except OSError as failure:
            if failure.errno not in _NOWHERE:
                raise as_rpc_error(failure, path) from failure
            continue
        try:
            return os.path.normpath(os.path.join(_where(fd, path), *rest))
        finally:
            os.close(fd)


def _world_visible(path: str) -> bool:
    """Whether every user of the guest could see this path, or that it is not there.

    Each directory on the way, links followed, must be searchable by all, and the file itself readable by all.
    """
    try:
        return _walk_as_other(path)
    except OSError as failure:
        return failure.errno in _NOWHERE


def _walk_as_other(path: str) -> bool:
    pending = path.split("/")[::-1]
    at = "/"
    links = 0
    while pending:
        name = pending.pop()
        if name in ("", "."):
            continue
        if not os.stat(at).st_mode & stat.S_IXOTH:
            return False
        at = os.path.dirname(at) if name == ".." else os.path.join(at, name)
        if pending and os.path.islink(at):
            links += 1
            if links > _MOST_LINKS:
                return False
            target = os.readlink(at)
            pending.extend(target.split("/")[::-1])
            at = "/" if target.startswith("/") else os.path.dirname(at)
    return bool(os.lstat(at).st_mode & stat.S_IROTH)


def _within(real: str, place: str) -> bool:
    return real == place or real.startswith(place if place.endswith("/") else place + "/")


def _refusal(path: str, real: str, why: str) -> RpcError:
    leads = "" if real == path else f"it leads to {printable(real)}; "
    return error(
        "PERMISSION_DENIED", f"Path not in allowed list: {printable(path)} ({leads}{why})", path=printable(path)
    )


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)
