"""New files, written out of sight in their directory and put in place whole.

It is written without a name (O_TMPFILE), so that nothing is left when its writer dies. Where the file system cannot do
that it has a temporary name.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from dataclasses import dataclass
from typing import Callable

from vsrpc.filesystem import default_umask, rename_new, write_all
from vsrpc.wire import Buffer

Note = Callable[[str, bool], None]
"""Told a temporary name, and whether that must outlive a loss of power."""

KEEP = -1
"""chown(2): leave as it is."""

_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS)  # EISDIR: Linux before 3.11
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


class WrongKindError(OSError):
    """At the place of a new file is something that is no file and no link."""

    def __init__(self, status: os.stat_result) -> None:
        super().__init__(errno.EEXIST, "something other than a file is there")
        self.status = status


def _not_noted(name: str, durable: bool) -> None:
    """Nobody wants to know of temporary names."""


class NewFile:
    """A file that is open for reading and writing, in a directory. End it with `put` or `discard`, and close `fd`."""

    def __init__(
        self,
        dirfd: int,
        prefix: str,
        fd: int = -1,
        temporary: str = "",
        mode: int = 0o600,
        note: Note = _not_noted,
    ) -> None:
        """`prefix`: how its temporary name begins, where it needs one. `fd` and `temporary`: of a file that is there.

        `mode` is less the umask. `note` is told a temporary name before there is a file of that name, and "" when it is
        gone. Raises OSError.
        """
        self._dirfd = dirfd
        self._prefix = prefix
        self._temporary = temporary
        self._note = note
        self.fd = fd
        if fd >= 0:
            return
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            self.fd = os.open(".", flags | os.O_TMPFILE, mode, dir_fd=dirfd)
            return
        except OSError as failure:
            if failure.errno not in _NO_TMPFILE:
                raise
        name = prefix + secrets.token_hex(16)
        note(name, True)
        try:
            self.fd = os.open(name, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode, dir_fd=dirfd)
        except OSError:
            note("", False)
            raise
        self._temporary = name

    def put_new(self, name: str) -> None:
        """Give it the name; raises FileExistsError if that is taken."""
        try:
            self._link(name)
        except OSError as failure:
            if failure.errno not in _NO_LINKS or not self._temporary:
                raise
            rename_new(self._dirfd, self._temporary, name)
            self._has_name()

    def put(self, name: str) -> None:
        """Give it the name, in place of what has it."""
        if not self._temporary:
            self._temporary = self._prefix + secrets.token_hex(16)
            self._note(self._temporary, False)
            self._link(self._temporary)
        os.rename(self._temporary, name, src_dir_fd=self._dirfd, dst_dir_fd=self._dirfd)
        self._has_name()

    def discard(self) -> None:
        """Remove its temporary name; does nothing the second time."""
        if not self._temporary:
            return
        try:
            os.unlink(self._temporary, dir_fd=self._dirfd)
        except FileNotFoundError:
            pass
        except OSError:  # its file system has become read-only, say: whoever took note may remove it one day
            self._temporary = ""
            return
        self._has_name()

    def _has_name(self) -> None:
        """It has no temporary name any more."""
        self._temporary = ""
        self._note("", False)

    def _link(self, name: str) -> None:
        os.link(f"/proc/self/fd/{self.fd}", name, dst_dir_fd=self._dirfd, follow_symlinks=True)


def unlink(name: str, dirfd: int) -> None:
    """Remove a name, if that can be done."""
    try:
        os.unlink(name, dir_fd=dirfd)
    except OSError:  # the directory or its file system is gone or read-only: there is nobody to tell
        pass


@dataclass(frozen=True)
class Attributes:
    """What a file shall have. `uid` and `gid` are KEEP for those of whoever writes it, `mtime_ns` None for now."""

    mode: int
    uid: int = KEEP
    gid: int = KEEP
    mtime_ns: int | None = None
    keep: bool = False
    """Whether a file that is there keeps its mode, owner and group."""

    def like(self, status: os.stat_result) -> Attributes:
        """These, for a file that takes the place of another one: set-ID bits were for that one's content."""
        if not self.keep:
            return self
        return Attributes(status.st_mode & 0o1777, status.st_uid, status.st_gid, self.mtime_ns)

    def set_on(self, fd: int, mode: int = KEEP) -> None:
        """Set them on an open file, which has that `mode` already. Raises OSError."""
        if (self.uid, self.gid) != (KEEP, KEEP):
            try:
                os.fchown(fd, self.uid, self.gid)
            except PermissionError:
                status = os.fstat(fd)
                if self.uid not in (KEEP, status.st_uid) or self.gid not in (KEEP, status.st_gid):
                    raise
            mode = KEEP  # a change of the owner clears bits
        if mode != self.mode:
            os.fchmod(fd, self.mode)
        if self.mtime_ns is not None:
            os.utime(fd, ns=(self.mtime_ns, self.mtime_ns))


def write_file(
    dirfd: int,
    name: str,
    content: Buffer,
    attributes: Attributes,
    overwrite: bool = True,
    prefix: str = ".vsrpc-",
    note: Note = _not_noted,
) -> None:
    """Make a small file, in place of one that is there; it is not synced. `prefix` and `note` as in NewFile.

    Raises OSError: FileExistsError unless `overwrite` is set or the file that is there has this content already;
    WrongKindError. A symbolic link is replaced, not followed.
    """
    mode = attributes.mode if attributes.mode & (0o7000 | default_umask()) == 0 else 0o600
    new = NewFile(dirfd, prefix, mode=mode, note=note)
    try:
        if len(content):
            write_all(new.fd, content, 0)
        _put(new, dirfd, name, attributes, overwrite, mode)
    except FileExistsError:
        if overwrite or not has_content(dirfd, name, content):
            raise
    finally:
        new.discard()
        os.close(new.fd)


def put_file(new: NewFile, dirfd: int, name: str, attributes: Attributes, overwrite: bool) -> None:
    """Give a new file attributes and a name, once it is on disk; see `write_file`."""
    _existing(dirfd, name)
    os.fsync(new.fd)
    _put(new, dirfd, name, attributes, overwrite)


def _put(new: NewFile, dirfd: int, name: str, attributes: Attributes, overwrite: bool, mode: int = KEEP) -> None:
    """`mode`: what it has already."""
    attributes.set_on(new.fd, mode)
    try:
        new.put_new(name)
        return
    except FileExistsError:
        existing = _existing(dirfd, name)
        if not overwrite:
            raise
    if existing is not None and attributes.keep:
        attributes.like(existing).set_on(new.fd)
    new.put(name)


def _existing(dirfd: int, name: str) -> os.stat_result | None:
    """What has the name: None, a file or a link. Raises WrongKindError for what cannot be replaced."""
    try:
        status = os.stat(name, dir_fd=dirfd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(status.st_mode):
        return None  # whose mode and owner say nothing
    if not stat.S_ISREG(status.st_mode):
        raise WrongKindError(status)
    return status


def replace_link(
    dirfd: int,
    name: str,
    make: Callable[[str], None],
    same: Callable[[], bool],
    overwrite: bool,
    prefix: str,
    note: Note = _not_noted,
) -> None:
    """Make a link, symbolic or hard, by `make(name)`; in place of what has the name, unless that is the `same` already.

    Raises OSError: FileExistsError unless `overwrite` is set, WrongKindError.
    """
    try:
        make(name)
        return
    except FileExistsError:
        if same():
            return
        _existing(dirfd, name)
        if not overwrite:
            raise
    temporary = prefix + secrets.token_hex(16)
    note(temporary, False)
    make(temporary)
    try:
        os.rename(temporary, name, src_dir_fd=dirfd, dst_dir_fd=dirfd)
    except BaseException:
        unlink(temporary, dirfd)
        raise
    note("", False)


def has_content(dirfd: int, name: str, content: Buffer) -> bool:
    """Whether there is a regular file with exactly that content."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, dir_fd=dirfd)
    except OSError:
        return False
    try:
        status = os.fstat(fd)
        return (
            stat.S_ISREG(status.st_mode) and status.st_size == len(content) and os.pread(fd, len(content), 0) == content
        )
    finally:
        os.close(fd)
