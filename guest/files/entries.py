"""What is told of files: entries of listings, owners by name, and why something could not be done."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import re
import stat
from typing import Any, Callable

from guest.errors import error
from guest.os_errors import as_rpc_error, printable
from guest.policy.resolve import kind
from vsrpc.errors import RpcError
from vsrpc.filetree import Directory
from vsrpc.newfile import KEEP, WrongKindError
from vsrpc.v1 import file_pb2 as pb

MAX_FAILURES = 1000
"""Failures that one reply tells at most."""

SET_ID = stat.S_ISUID | stat.S_ISGID

_NO_ID = 2**32 - 1  # what chown(2) sees as -1
_MODE = re.compile(r"0{0,2}[0-7]{1,4}\Z")

_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


class Owners:
    """Names and numbers of users and groups, each looked up once."""

    def __init__(self) -> None:
        self._users: dict[int, str] = {}
        self._groups: dict[int, str] = {}
        self._ids: dict[tuple[str, str], int] = {}

    def user(self, number: int) -> str:
        """A user's name, or number where it has none."""
        return _cached(self._users, number, lambda: pwd.getpwuid(number).pw_name)

    def group(self, number: int) -> str:
        """A group's name, or number where it has none."""
        return _cached(self._groups, number, lambda: grp.getgrgid(number).gr_name)

    def user_id(self, name: str) -> int:
        """The number of an owner, given by name or number; KEEP for "". Raises INVALID_PARAMS."""
        return self._id("owner", name, lambda: pwd.getpwnam(name).pw_uid)

    def group_id(self, name: str) -> int:
        """The number of a group; see `user_id`."""
        return self._id("group", name, lambda: grp.getgrnam(name).gr_gid)

    def _id(self, field: str, name: str, look_up: Callable[[], int]) -> int:
        if not name:
            return KEEP
        key = field, name
        if key not in self._ids:
            self._ids[key] = id_of(field, name, look_up)
        return self._ids[key]


def id_of(field: str, name: str, look_up: Callable[[], int]) -> int:
    """A user's or group's number: by name if there is one of that name, else the number itself (as chown(1) does)."""
    try:
        return look_up()
    except (KeyError, ValueError):
        pass
    if name.isascii() and name.isdigit() and len(name) <= 10 and int(name) < _NO_ID:
        return int(name)
    raise error("INVALID_PARAMS", f"No such {field} in the guest: {name!r} (give a name or a number)", field=field)


def mode_of(text: str, default: int) -> int:
    """Permission bits given in octal; raises INVALID_PARAMS."""
    if not text:
        return default
    if not _MODE.match(text):
        message = f'mode {text[:64]!r} is not octal permission bits: give 0 to 7777, for example "0644"'
        raise error("INVALID_PARAMS", message, field="mode")
    return int(text, 8)


def new_mode(text: str, default: int) -> int:
    """The mode of a file that is written, which never has set-ID bits: whoever runs it would be the daemon's user."""
    mode = mode_of(text, default)
    if mode & SET_ID:
        raise set_id_refused(text)
    return mode


def set_id_refused(mode: str) -> RpcError:
    """The error for a mode that gives a file set-ID bits."""
    message = f"mode {mode}: no file is given set-user-ID or set-group-ID bits; set them in the guest"
    return error("PERMISSION_DENIED", message, field="mode", rule="set-ID bits")


def _cached(names: dict[int, str], number: int, look_up: Callable[[], str]) -> str:
    if number not in names:
        try:
            names[number] = look_up()
        except KeyError:
            names[number] = str(number)
    return names[number]


def type_of(mode: int) -> str:
    """The kind of a file, in the schema's words."""
    return _TYPES.get(stat.S_IFMT(mode), "")


def entry(name: str, status: os.stat_result, owners: Owners, directory: Directory, leaf: str) -> pb.FileEntry:
    """What is known of a file in a directory, told under a name. Raises OSError where it has gone."""
    mode = status.st_mode
    made = pb.FileEntry(
        name=os.fsencode(name),
        type=type_of(mode),
        size=status.st_size,
        mode=f"{stat.S_IMODE(mode):04o}",
        owner=owners.user(status.st_uid),
        group=owners.group(status.st_gid),
        mtime=status.st_mtime_ns // 10**9,
        mtime_nanos=status.st_mtime_ns % 10**9,
        allocated=status.st_blocks * 512,
        links=status.st_nlink,
    )
    if stat.S_ISLNK(mode):
        made.link_target = os.fsencode(os.readlink(leaf, dir_fd=directory.fd))
    elif status.st_nlink > 1 and not stat.S_ISDIR(mode):
        made.link_id = f"{status.st_dev:x}:{status.st_ino:x}"
    return made


def as_failure(name: str, path: str, cause: Exception, dirfd: int | None = None) -> pb.FileFailure:
    """Why something could not be done with what has that name; `path` is what people are told."""
    told = as_error(path, cause, dirfd)
    return pb.FileFailure(name=os.fsencode(name), reason=told.reason, message=told.details())


def as_error(path: str, cause: Exception, dirfd: int | None = None) -> RpcError:
    """The RpcError of what the system, the policy or vsrpc.filetree says of a path."""
    if isinstance(cause, RpcError):
        return cause
    shown = printable(path)
    if isinstance(cause, WrongKindError):
        return error("WRONG_FILE_TYPE", f"The target is a {kind(cause.status)}: {shown}", path=shown)
    if not isinstance(cause, OSError):
        raise cause
    if cause.errno in (errno.ELOOP, errno.ENOTDIR):  # where links are not followed
        return error(
            "WRONG_FILE_TYPE", f"A part of the path is not a directory (or a symbolic link): {shown}", path=shown
        )
    if cause.errno == errno.EINVAL:
        return error("INVALID_PARAMS", f"{cause.strerror}: {shown}", path=shown)
    if cause.errno == errno.EXDEV:
        message = f"The target is on another file system: {shown} (copy it there, and remove it here)"
        return error("NOT_SUPPORTED", message, path=shown)
    return as_rpc_error(cause, path, dirfd)


class Failures:
    """What could not be done, as a reply tells it: the first ones, and how many there are."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self.told: list[Any] = []
        self.count = 0
        self.first: RpcError | None = None

    def __call__(self, name: str, cause: Exception) -> None:
        """One more; raises what is no failure of a file."""
        failure = as_error(os.path.join(self._directory, name), cause)
        self.first = self.first or failure
        self.count += 1
        if len(self.told) < MAX_FAILURES:
            self.told.append(as_failure(name, "", failure))


def asked_path(request: Any, field: str = "path") -> str:
    """A path of a request, given as text or as bytes."""
    exact: bytes = getattr(request, f"{field}_bytes")
    return os.fsdecode(exact) if exact else str(getattr(request, field))


def told_path(request: Any) -> str:
    """The request's path as a reply's `path` has it, which must be text."""
    return request.path or printable(asked_path(request))
