"""Which paths callers may read, write and look at.

A path is judged on what it really leads to: the file or directory is opened first, without side effects (O_PATH), the
kernel is asked where that is (/proc/self/fd/N), and work goes on with the open file. No name is looked up
again between the judgement and the use, so nobody can swap it in between.

Content may be read and written in the configured places only; the deepest place that holds a path says whether it may
be written. Metadata may also be read of what every user of the guest can see. Secrets (guest.policy.denied), and what
the configuration adds to them, are refused always, also where they are mounted at a second place. Every judgement
names the rule that decided. Nothing here knows messages or the daemon's configuration file.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import Iterable, NamedTuple, Sequence

from guest.errors import error
from guest.os_errors import as_rpc_error, file_errors, printable
from guest.policy.denied import KEY, OWN_FILES, DenyList, always, refusal, why_write_denied
from guest.policy.resolve import kind, look, plain, reopen, where, within, world_visible
from vsrpc.errors import RpcError

METADATA, READ, WRITE = "metadata", "read", "write"
"""What is done with a file: looked at, its content read, its content or its name changed."""

VISIBLE = "metadata that every user of the guest can see"
"""The rule by which metadata outside the configured places may be read."""

_SAYS = f"{KEY} in the guest's configuration says so"


class Opened(NamedTuple):
    """An open file, which the caller closes, and the rule that allowed it."""

    fd: int
    rule: str


class Parent(NamedTuple):
    """The directory of a file to be written (O_PATH, closed by the caller), the file's name in it, and the rule."""

    fd: int
    name: str
    rule: str


class Directory(NamedTuple):
    """An open directory (O_PATH, closed by the caller) and its real path."""

    fd: int
    real: str


class Found(NamedTuple):
    """What a path names, open for looking at (O_PATH): the caller closes `fd`. A symbolic link is itself."""

    fd: int | None
    """None when nothing is there (and that may be told)."""
    content_allowed: bool
    """Whether the policy lets its content be read."""
    rule: str


@dataclass(frozen=True)
class _Place:
    shown: str
    real: str
    writable: bool


class PathPolicy:
    """The rules, for the places given: directories, with all below them, and files.

    `allowed` may be read and written, `read_only` only read. Symbolic links in them are followed once, now: a link
    made later cannot widen them. `denied` are refused always; links in them are followed each time, so that they
    protect what they lead to now. So are `own`, which are the daemon's. `program` is where its code is loaded from:
    never written.

    Every method takes an absolute path and raises RpcError: MISSING_REQUIRED, INVALID_PARAMS (relative, NUL, too long),
    PERMISSION_DENIED with the fact `rule`, or what the operating system says of the file.
    """

    def __init__(
        self,
        allowed: Sequence[str],
        own: Iterable[str] = (),
        *,
        read_only: Sequence[str] = (),
        denied: Sequence[str] = (),
        program: Iterable[str] = (),
    ) -> None:
        self._shown = ", ".join((*allowed, *(f"{path} (read only)" for path in read_only))) or "none"
        # Of two that are the same place, the one that allows less counts: it comes first.
        places = [_Place(path, os.path.realpath(path), False) for path in read_only]
        places += [_Place(path, os.path.realpath(path), True) for path in allowed]
        self._places = sorted(places, key=lambda place: -len(place.real))
        own = tuple(own)
        self._program = {each for path in (*program, *own) for each in (os.path.abspath(path), os.path.realpath(path))}
        self._deny_list = DenyList(own, denied)

    def check_read(self, path: str) -> str:
        """Whether content at `path` may be read. What does not exist is judged by the place where it would be.

        Returns the rule, as the other checks do.
        """
        fd, real = look(path)
        try:
            return self._judge_content(path, real, fd)
        finally:
            _close(fd)

    def check_write(self, path: str) -> str:
        """Whether `path` may be written: both the name's own place and what it leads to, if it is a link."""
        parent = self.open_parent(path)
        try:
            link = stat.S_ISLNK(os.stat(parent.name, dir_fd=parent.fd, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return parent.rule
        except OSError as failure:
            raise as_rpc_error(failure, path) from failure
        finally:
            os.close(parent.fd)
        if link:
            fd, real = look(path)
            if fd is None:
                raise always(path, real, "a symbolic link that leads nowhere")
            try:
                self._judge_content(path, real, fd, write=True)
            finally:
                os.close(fd)
        return parent.rule

    def check_metadata(self, path: str) -> str:
        """Whether metadata of `path` (or that nothing is there) may be told."""
        fd, real = look(path, follow=False)
        try:
            return self._judge_metadata(path, real, fd, path)
        finally:
            _close(fd)

    def open_read(self, path: str) -> Opened:
        """Open a regular file for reading its content.

        Also raises FILE_NOT_FOUND, and WRONG_FILE_TYPE for all but regular files. Never waits for a FIFO or device.
        """
        fd, real = look(path)
        try:
            rule = self._judge_content(path, real, fd)
            if fd is None:
                raise error("FILE_NOT_FOUND", f"No such file: {printable(path)}", path=path)
            return Opened(reopen(fd, path), rule)
        finally:
            _close(fd)

    def open_write(self, path: str, *, append: bool, mode: int) -> Opened:
        """Open a regular file for writing at its beginning, or at its end; one that is not there is made with `mode`.

        Also raises FILE_NOT_FOUND for a directory that is not there, and WRONG_FILE_TYPE for all but regular files,
        symbolic links too. What may have been put there by another user of the guest is judged before it is changed.
        """
        parent = self.open_parent(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            with file_errors(path, parent.fd):
                try:
                    fd = os.open(parent.name, flags | (os.O_APPEND if append else 0), mode, dir_fd=parent.fd)
                except OSError as failure:
                    if failure.errno not in (errno.ELOOP, errno.ENXIO):  # a link; a FIFO, socket or device
                        raise
                    raise _not_regular(path) from failure
        finally:
            os.close(parent.fd)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise _not_regular(path)
            if status.st_nlink != 1:
                names = f"the file has {status.st_nlink} names (hard links), one of which may be elsewhere"
                raise always(path, path, names, "hard links")
            rule = self._judge_content(path, where(fd, path), fd, write=True)
            if not append:
                with file_errors(path):
                    os.ftruncate(fd, 0)
        except BaseException:
            os.close(fd)
            raise
        return Opened(fd, rule)

    def open_parent(self, path: str) -> Parent:
        """Open the directory of a file to be written.

        The name may exist, also as a symbolic link: put a file in its place by rename, or open it with O_NOFOLLOW.
        """
        directory, name = os.path.split(plain(path))
        fd, real = look(directory)
        try:
            if name in ("", ".", ".."):
                raise error(
                    "WRONG_FILE_TYPE", f"Names a directory, where a file is needed: {printable(path)}", path=path
                )
            rule = self._judge_content(path, os.path.join(real, name), fd, write=True)
            if fd is None:
                raise error("FILE_NOT_FOUND", f"No such directory: {printable(directory)}", path=directory)
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                raise error("FILE_NOT_FOUND", f"Not a directory: {printable(directory)}", path=directory)
        except BaseException:
            _close(fd)
            raise
        return Parent(fd, name, rule)

    def check_parent(self, parent: Parent, path: str) -> None:
        """Judge again what `open_parent` returned for `path`, where time has passed: it may have been moved since."""
        self._judge_content(path, os.path.join(where(parent.fd, path), parent.name), parent.fd, write=True)

    def open_directory(self, path: str) -> Directory:
        """Open a directory of which metadata may be read, to work in it or to list its names.

        Also raises FILE_NOT_FOUND, and WRONG_FILE_TYPE for all but directories.
        """
        self.check_metadata(path)
        fd, real = look(path)
        try:
            self._judge_metadata(path, real, fd, real)
            if fd is None:
                raise error("FILE_NOT_FOUND", f"No such directory: {printable(path)}", path=path)
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                raise error("WRONG_FILE_TYPE", f"Not a directory: {printable(path)}", path=path)
        except BaseException:
            _close(fd)
            raise
        return Directory(fd, real)

    def open_metadata(self, path: str) -> Found:
        """What `path` names, for reading metadata."""
        fd, real = look(path, follow=False)
        try:
            rule = self._judge_metadata(path, real, fd, path)
        except BaseException:
            _close(fd)
            raise
        return Found(fd, rule != VISIBLE, rule)

    def judge(self, path: str, real: str, fd: int | None, access: str) -> str:
        """Judge what was opened (None for nothing) and where that is or would be: the rule that allows it."""
        if access == METADATA:
            return self._judge_metadata(path, real, fd, real)
        return self._judge_content(path, real, fd, write=access == WRITE)

    def judge_directory(self, path: str, real: str, fd: int, access: str) -> tuple[str, bool]:
        """The same for a directory; and whether that rule is also the one of what is in it, but for its name."""
        rule = self.judge(path, real, fd, access)
        inside = real if real.endswith("/") else real + "/"
        others = (*(place.real for place in self._places), *self._program)
        alike = len(self._deny_list.judge(path, real, fd)) == 1 and self._deny_list.is_plain_below(real)
        return rule, alike and not any(other.startswith(inside) for other in others)

    def _judge_content(self, path: str, real: str, fd: int | None, *, write: bool = False) -> str:
        spots = self._deny_list.judge(path, real, fd)
        place = self._place(real)
        if place is None:
            raise self._not_listed(path, real)
        if write and not place.writable:
            raise refusal(path, real, f"read only there: {place.shown}; {_SAYS}", f"{KEY}: {place.shown} (read only)")
        why = next(filter(None, map(why_write_denied, spots)), "") if write else ""
        if why:
            raise always(path, real, why)
        if write and any(_replaces(spot, directory) for spot in spots for directory in self._program):
            raise always(path, real, "the daemon's program is loaded from there", OWN_FILES)
        return f"{KEY}: {place.shown}"

    def _judge_metadata(self, path: str, real: str, fd: int | None, way: str) -> str:
        self._deny_list.judge(path, real, fd)
        place = self._place(real)
        if place is None and not world_visible(way, real, fd):
            raise self._not_listed(path, real)
        return f"{KEY}: {place.shown}" if place else VISIBLE

    def _place(self, real: str) -> _Place | None:
        """The deepest place that holds a path."""
        return next((place for place in self._places if within(real, place.real)), None)

    def _not_listed(self, path: str, real: str) -> RpcError:
        return refusal(path, real, f"allowed: {self._shown}; {_SAYS}", KEY)


def _replaces(spot: str, directory: str) -> bool:
    """Whether a file at a path would be in a directory, or take the place of a link on the way to it. Nothing takes the
    place of a directory on the way (rename(2), EISDIR), whose kind others then tell."""
    return within(spot, directory) or (within(directory, spot) and not _is_directory(spot))


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _not_regular(path: str) -> RpcError:
    try:
        what = kind(os.stat(path, follow_symlinks=False))
    except OSError:  # it went away meanwhile
        what = "special file"
    shown = printable(path)
    return error("WRONG_FILE_TYPE", f"Not a regular file but a {what}: {shown}", path=shown)


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)
