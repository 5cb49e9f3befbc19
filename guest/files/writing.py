"""Many small files, directories and links, made below a directory that the policy has judged."""

from __future__ import annotations

import errno
import os
import stat
from typing import Callable, Iterable

from guest.errors import error
from guest.files.entries import SET_ID, Owners, as_failure, mode_of, set_id_refused
from guest.files.temps import TEMP_PREFIX, Noted, TempFiles
from guest.os_errors import printable
from guest.policy.denied import always, why_link_denied
from guest.policy.paths import PathPolicy
from guest.policy.tree import JudgedDirectory
from vsrpc.errors import RpcError
from vsrpc.filetree import Failure, Parents
from vsrpc.newfile import KEEP, Attributes, WrongKindError, replace_link, write_file
from vsrpc.v1 import file_pb2 as pb
from vsrpc.wire import Buffer

FILE_MODE, DIRECTORY_MODE = 0o644, 0o755

_LOOK = 16  # files made before it is asked whether somebody still waits


class TreeWriter:
    """Makes what one call asks for, and keeps what could not be made. A context manager."""

    def __init__(
        self, directory: JudgedDirectory, content: Buffer, overwrite: bool, temps: TempFiles | None = None
    ) -> None:
        """`content` is that of all files, one after the other; `temps` takes note of temporary names."""
        self.failures: list[pb.FileFailure] = []
        self.written = 0
        self._directory = directory
        self._content = memoryview(content)
        self._overwrite = overwrite
        self._temps = temps
        self._noted = Noted(temps, directory.fd)
        self._parents = Parents(directory)
        self._sources = Parents(directory)  # of hard links
        self._owners = Owners()
        self._known: dict[tuple[object, ...], Attributes] = {}

    def make(self, files: Iterable[pb.NewFile], go_on: Callable[[], None]) -> None:
        """Make them one after the other; what `go_on` raises ends it."""
        at = 0
        for number, new in enumerate(files):
            if number % _LOOK == 0:
                go_on()
            name = new.name.decode("utf-8", "surrogateescape")  # what os.fsdecode does, only faster
            dirfd = self._directory.fd
            try:
                maker = _MAKERS.get(new.type)
                if maker is None:
                    known = ", ".join(filter(None, _MAKERS))
                    raise error("INVALID_PARAMS", f"type {new.type[:64]!r} is none of {known}", field="type")
                parent, leaf = self._parents.of(name)
                dirfd = parent.fd
                parent.check(leaf, None)
                maker(self, new, parent, leaf, self._content[at : at + new.size])
                self.written += 1
            except Failure as failure:
                path = os.path.join(self._directory.path, name)
                self.failures.append(as_failure(name, path, failure, dirfd))
            at += new.size

    def _file(self, new: pb.NewFile, parent: JudgedDirectory, leaf: str, content: Buffer) -> None:
        attributes = self._wanted(new, FILE_MODE)
        if attributes.mode & SET_ID:
            raise set_id_refused(new.mode)
        self._noted.dirfd = parent.fd
        write_file(parent.fd, leaf, content, attributes, self._overwrite, TEMP_PREFIX, self._noted)

    def _make_directory(self, new: pb.NewFile, parent: JudgedDirectory, leaf: str, _: Buffer) -> None:
        try:
            os.mkdir(leaf, 0o700, dir_fd=parent.fd)
        except FileExistsError:
            status = os.stat(leaf, dir_fd=parent.fd, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                raise WrongKindError(status) from None
            if new.keep_attributes:
                return
        set_attributes(parent, leaf, self._wanted(new, DIRECTORY_MODE))

    def _symlink(self, new: pb.NewFile, parent: JudgedDirectory, leaf: str, _: Buffer) -> None:
        target = os.fsdecode(new.target)
        try:
            check_link(self._directory.policy, parent, leaf, target)
        except RpcError as refusal:  # which names what the link leads to; of many links, the link must be named too
            link = printable(parent.child(leaf))
            raise error(refusal.reason, f"{link}, a symbolic link: {refusal.details()}", **refusal.data) from refusal
        self._noted.dirfd = parent.fd
        replace_link(
            parent.fd,
            leaf,
            lambda name: os.symlink(target, name, dir_fd=parent.fd),
            lambda: _links_to(parent, leaf, target),
            self._overwrite,
            TEMP_PREFIX,
            self._noted,
        )
        set_attributes(parent, leaf, self._wanted(new, 0))

    def _hardlink(self, new: pb.NewFile, parent: JudgedDirectory, leaf: str, _: Buffer) -> None:
        source, source_leaf = self._sources.of(os.fsdecode(new.target))
        hard_link(source, source_leaf, parent, leaf, self._overwrite, self._temps)

    def _attributes(self, new: pb.NewFile, parent: JudgedDirectory, leaf: str, _: Buffer) -> None:
        status, wanted = os.stat(leaf, dir_fd=parent.fd, follow_symlinks=False), self._wanted(new, KEEP)
        parent.check(leaf, status)
        if stat.S_ISREG(status.st_mode) and wanted.mode != KEEP and wanted.mode & ~status.st_mode & SET_ID:
            raise set_id_refused(new.mode)
        set_attributes(parent, leaf, wanted)

    def _wanted(self, new: pb.NewFile, mode: int) -> Attributes:
        if not new.HasField("mtime"):  # very many are alike
            key = (new.mode, new.owner, new.group, new.keep_attributes, mode)
            if key not in self._known:
                self._known[key] = self._attributes_of(new, mode)
            return self._known[key]
        return self._attributes_of(new, mode)

    def _attributes_of(self, new: pb.NewFile, mode: int) -> Attributes:
        if new.mtime_nanos < 0 or new.mtime_nanos >= 10**9:
            raise error("INVALID_PARAMS", f"mtime_nanos is {new.mtime_nanos}: give 0 to 999999999", field="mtime_nanos")
        return Attributes(
            mode_of(new.mode, mode),
            self._owners.user_id(new.owner),
            self._owners.group_id(new.group),
            new.mtime * 10**9 + new.mtime_nanos if new.HasField("mtime") else None,
            new.keep_attributes,
        )

    def __enter__(self) -> TreeWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self._parents.__exit__()
        self._sources.__exit__()


# Of the class, not of an object, which would hold itself and all content in memory.
_MAKERS: dict[str, Callable[[TreeWriter, pb.NewFile, JudgedDirectory, str, Buffer], None]] = {
    "": TreeWriter._file,
    "file": TreeWriter._file,
    "directory": TreeWriter._make_directory,
    "symlink": TreeWriter._symlink,
    "hardlink": TreeWriter._hardlink,
    "attributes": TreeWriter._attributes,
}


def set_attributes(directory: JudgedDirectory, leaf: str, wanted: Attributes) -> None:
    """Set them on what has that name, a link itself; a mode of KEEP is left as it is. Raises OSError."""
    fd = os.open(leaf, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory.fd)
    try:
        status = os.fstat(fd)
        others = wanted.uid not in (KEEP, status.st_uid) or wanted.gid not in (KEEP, status.st_gid)
        times = None if wanted.mtime_ns is None else (wanted.mtime_ns, wanted.mtime_ns)
        if stat.S_ISLNK(status.st_mode):
            if others:
                os.chown(leaf, wanted.uid, wanted.gid, dir_fd=directory.fd, follow_symlinks=False)
            if times:
                os.utime(leaf, ns=times, dir_fd=directory.fd, follow_symlinks=False)
            return
        itself = f"/proc/self/fd/{fd}"  # which leads to what is open, by whatever name
        if others:
            os.chown(itself, wanted.uid, wanted.gid)
        if wanted.mode != KEEP:
            os.chmod(itself, wanted.mode)  # after the owner, a change of which clears bits
        if times:
            os.utime(itself, ns=times)
    finally:
        os.close(fd)


def check_link_place(directory: JudgedDirectory, leaf: str) -> None:
    """Raise PERMISSION_DENIED where no symbolic link may stand."""
    real = directory.real_child(leaf)
    why = why_link_denied(real)
    if why:
        raise always(directory.child(leaf), real, why)


def check_link(policy: PathPolicy, directory: JudgedDirectory, leaf: str, target: str) -> None:
    """Raise PERMISSION_DENIED unless what a symbolic link in the directory would lead to may be read.

    One that leads in a circle leads nowhere, and is harmless.
    """
    if not target or "\0" in target:
        raise error("INVALID_PARAMS", f"A link cannot lead to {printable(target)!r}", field="target")
    check_link_place(directory, leaf)
    try:
        policy.check_read(directory.real_child(target))
    except RpcError as refusal:
        if refusal.reason != "WRONG_FILE_TYPE":
            raise


def hard_link(
    source: JudgedDirectory,
    source_leaf: str,
    directory: JudgedDirectory,
    leaf: str,
    overwrite: bool,
    temps: TempFiles | None = None,
) -> None:
    """Give a regular file another name. Raises OSError, RpcError."""
    status = os.stat(source_leaf, dir_fd=source.fd, follow_symlinks=False)
    source.check(source_leaf, status)
    if not stat.S_ISREG(status.st_mode):
        raise WrongKindError(status)

    def same() -> bool:
        return os.path.samestat(os.stat(leaf, dir_fd=directory.fd, follow_symlinks=False), status)

    def link(name: str) -> None:
        os.link(source_leaf, name, src_dir_fd=source.fd, dst_dir_fd=directory.fd, follow_symlinks=False)

    replace_link(directory.fd, leaf, link, same, overwrite, TEMP_PREFIX, Noted(temps, directory.fd))


def _links_to(directory: JudgedDirectory, leaf: str, target: str) -> bool:
    try:
        return os.readlink(leaf, dir_fd=directory.fd) == target
    except OSError as failure:
        if failure.errno != errno.EINVAL:  # no link
            raise
        return False
