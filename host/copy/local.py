"""This side of a copy: entries, small files, links and attributes below a directory.

Names that come from the guest are not trusted: directories are entered one step at a time, never through a link.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from typing import Callable, Iterator

from host.backend import Buffer
from host.copy.entry import Entry, Preserve, of_status
from host.localfile import read_up_to
from host.names import shown
from vsrpc.filesystem import sync_file_system
from vsrpc.filetree import Directory, Parents, remove, walk
from vsrpc.newfile import KEEP, Attributes, replace_link, write_file
from vsrpc.partial import PREFIX

_TEMPORARY = (PREFIX, ".vsrpc-upload-")
"""How the names of temporary files begin, on both sides."""


class LocalTree:
    """Files here below any directory. A context manager."""

    def __init__(self, root: str) -> None:
        """Raises OSError for a directory that is not there."""
        self.path = root
        self.root = Directory(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        self._parents = Parents(self.root)
        self._sources = Parents(self.root)  # of hard links
        self._privileged = os.geteuid() == 0

    def entry(self, name: str) -> Entry:
        """What has that name; a link is itself. Raises OSError."""
        directory, leaf = self._parents.of(name)
        return _entry(name, leaf, directory, os.stat(leaf, dir_fd=directory.fd, follow_symlinks=False))

    def entries(self, name: str, recursive: bool = True) -> Iterator[Entry]:
        """What is in the directory of that name, or in the root if that is ""; with all below. Raises OSError."""
        fd = os.dup(self.root.fd)
        top = Directory(fd)
        try:
            if name:
                directory, leaf = self._parents.of(name)
                top.close()
                top = directory.enter(leaf, readable=True)
            for seen in walk(top, recursive):
                full = f"{name}/{seen.name}" if name else seen.name
                failure = ("LOCAL_ERROR", f"{shown(self.full(full))}: {_cause(seen.failure)}") if seen.failure else None
                if seen.status is None:
                    yield Entry(full, "", failure=failure)
                    continue
                try:
                    yield _entry(full, seen.leaf, seen.directory, seen.status)._replace(failure=failure)
                except FileNotFoundError:  # a link that went away
                    continue
        finally:
            top.close()

    def full(self, name: str) -> str:
        """A path, for messages."""
        return os.path.join(self.path, name)

    def open(self, name: str) -> int:
        """Open a regular file for reading, no link. Raises OSError."""
        directory, leaf = self._parents.of(name)
        fd = os.open(leaf, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory.fd)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "is no regular file any more")
        return fd

    def read(self, name: str, most: int) -> bytes:
        """The content of a small file, `most` bytes of it at most. Raises OSError."""
        fd = self.open(name)
        try:
            return read_up_to(fd, most)
        finally:
            os.close(fd)

    def parent(self, name: str) -> tuple[Directory, str]:
        """The directory of a name, open until the next call, and the name in it. Raises OSError."""
        return self._parents.of(name)

    def attributes(self, entry: Entry, keep: Preserve) -> Attributes:
        """What the copy of an entry shall have."""
        uid, gid = KEEP, KEEP
        if keep.owner and self._privileged:  # else nobody may give files away
            uid, gid = _id(entry.owner, _uid), _id(entry.group, _gid)
        return Attributes(keep.mode_of(entry), uid, gid, entry.mtime_ns if keep.times else None, not keep.mode)

    def write(self, name: str, content: Buffer, attributes: Attributes, overwrite: bool) -> None:
        """Make a small file. Raises OSError."""
        directory, leaf = self._parents.of(name)
        write_file(directory.fd, leaf, content, attributes, overwrite, PREFIX)

    def make_directory(self, name: str, mode: int) -> bool:
        """Make a directory; whether it was not there. Raises OSError."""
        directory, leaf = self._parents.of(name)
        try:
            os.mkdir(leaf, mode, dir_fd=directory.fd)
            return True
        except FileExistsError:
            status = os.stat(leaf, dir_fd=directory.fd, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                raise OSError(errno.ENOTDIR, "something that is no directory is there") from None
            return False

    def symlink(self, name: str, target: str, overwrite: bool) -> None:
        """Make a symbolic link. Raises OSError."""
        directory, leaf = self._parents.of(name)

        def same() -> bool:
            status = os.stat(leaf, dir_fd=directory.fd, follow_symlinks=False)
            return stat.S_ISLNK(status.st_mode) and os.readlink(leaf, dir_fd=directory.fd) == target

        def make(name: str) -> None:
            os.symlink(target, name, dir_fd=directory.fd)

        replace_link(directory.fd, leaf, make, same, overwrite, PREFIX)

    def hard_link(self, name: str, source: str, overwrite: bool) -> None:
        """Give a file another name. Raises OSError."""
        directory, leaf = self._parents.of(name)
        origin, origin_leaf = self._sources.of(source)
        status = os.stat(origin_leaf, dir_fd=origin.fd, follow_symlinks=False)

        def same() -> bool:
            return os.path.samestat(os.stat(leaf, dir_fd=directory.fd, follow_symlinks=False), status)

        def make(name: str) -> None:
            os.link(origin_leaf, name, src_dir_fd=origin.fd, dst_dir_fd=directory.fd, follow_symlinks=False)

        replace_link(directory.fd, leaf, make, same, overwrite, PREFIX)

    def set_attributes(self, name: str, attributes: Attributes) -> None:
        """Set them on what is there. Raises OSError."""
        directory, leaf = self._parents.of(name)
        if stat.S_ISLNK(os.stat(leaf, dir_fd=directory.fd, follow_symlinks=False).st_mode):
            if (attributes.uid, attributes.gid) != (KEEP, KEEP):
                os.chown(leaf, attributes.uid, attributes.gid, dir_fd=directory.fd, follow_symlinks=False)
            if attributes.mtime_ns is not None:
                times = (attributes.mtime_ns, attributes.mtime_ns)
                os.utime(leaf, ns=times, dir_fd=directory.fd, follow_symlinks=False)
            return
        fd = os.open(leaf, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory.fd)
        try:
            attributes.set_on(fd)
        finally:
            os.close(fd)

    def remove(self, name: str, failed: Callable[[str, Exception], None]) -> int:
        """Remove what has that name with all below it: how many files that were."""
        directory, leaf = self._parents.of(name)
        above = name[: len(name) - len(leaf)]
        return remove(directory, leaf, True, lambda each, cause: failed(above + each, cause), lambda: None)

    def free(self) -> int:
        """Bytes that can still be written here."""
        stats = os.fstatvfs(self.root.fd)
        return stats.f_bavail * stats.f_frsize

    def sync(self) -> None:
        """Have what was written here put on its disk."""
        sync_file_system(self.root.fd)

    def __enter__(self) -> LocalTree:
        return self

    def __exit__(self, *exception: object) -> None:
        self._parents.__exit__()
        self._sources.__exit__()
        self.root.close()


def is_temporary(name: str) -> bool:
    """Whether it is a file that a copy writes, or has left to go on with: no part of any tree."""
    return os.path.basename(name).startswith(_TEMPORARY)


def _entry(name: str, leaf: str, directory: Directory, status: os.stat_result) -> Entry:
    link = stat.S_ISLNK(status.st_mode)
    return of_status(name, status, os.readlink(leaf, dir_fd=directory.fd) if link else "")


def _cause(failure: Exception) -> str:
    return (failure.strerror if isinstance(failure, OSError) else "") or str(failure)


def _id(name: str, look_up: Callable[[str], int]) -> int:
    """A number by name, or the number itself; as it is where there is no such name here."""
    try:
        return look_up(name)
    except KeyError:
        return int(name) if name.isascii() and name.isdigit() else KEEP


def _uid(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


def _gid(name: str) -> int:
    return grp.getgrnam(name).gr_gid
