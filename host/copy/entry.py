"""What is known of a file on either side, and what became of those that were to be copied."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from dataclasses import dataclass, field
from typing import Any, Mapping, NamedTuple

from host.errors import NUMBERS, RPCError
from host.names import name_of, shown

FILE, DIRECTORY, SYMLINK = "file", "directory", "symlink"

_KINDS = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


class Entry(NamedTuple):
    """A file, directory or link below a directory that is being copied or listed."""

    name: str
    """Relative to that directory; its bytes by os.fsencode."""
    kind: str
    """As FileEntry.type of the schema; "" if it may not be known."""
    size: int = 0
    mode: int = 0
    owner: str = ""
    group: str = ""
    mtime_ns: int = 0
    target: str = ""
    """What a symbolic link holds."""
    link_id: str = ""
    """The same for all names (hard links) of a file; "" where it has one."""
    allocated: int = 0
    links: int = 1
    failure: tuple[str, str] | None = None
    """Why it, or what is in it, is not known: the error's short name, and a message."""

    @property
    def sparse(self) -> bool:
        """Whether it has holes worth the name."""
        return self.allocated + 65536 <= self.size


def of_reply(data: Mapping[str, Any], prefix: str = "") -> Entry:
    """The entry of a FileEntry; its name is put behind a prefix."""
    name = name_of(data)
    failure = data.get("failure")
    return Entry(
        prefix + ("/" if prefix and name else "") + name,
        data["type"],
        int(data["size"]),
        int(data["mode"] or "0", 8),
        data["owner"],
        data["group"],
        int(data["mtime"]) * 10**9 + int(data["mtime_nanos"]),
        name_of(data, "link_target"),
        data["link_id"],
        int(data["allocated"]),
        int(data["links"]),
        (failure["reason"], failure["message"]) if failure else None,
    )


def of_status(name: str, status: os.stat_result, target: str = "") -> Entry:
    """The entry of a local file."""
    kind = _KINDS.get(stat.S_IFMT(status.st_mode), "")
    several = status.st_nlink > 1 and kind != DIRECTORY
    return Entry(
        name,
        kind,
        status.st_size,
        stat.S_IMODE(status.st_mode),
        _user(status.st_uid),
        _group(status.st_gid),
        status.st_mtime_ns,
        target,
        f"{status.st_dev:x}:{status.st_ino:x}" if several else "",
        status.st_blocks * 512,
        status.st_nlink,
    )


_users: dict[int, str] = {}
_groups: dict[int, str] = {}


def _user(number: int) -> str:
    if number not in _users:
        try:
            _users[number] = pwd.getpwuid(number).pw_name
        except KeyError:
            _users[number] = str(number)
    return _users[number]


def _group(number: int) -> str:
    if number not in _groups:
        try:
            _groups[number] = grp.getgrgid(number).gr_name
        except KeyError:
            _groups[number] = str(number)
    return _groups[number]


class Preserve(NamedTuple):
    """What of a source its copy shall have. Without `mode` a new one has the permission bits less the umask, and one
    that is there keeps its mode and owner."""

    mode: bool = False
    times: bool = False
    owner: bool = False
    umask: int = 0o022

    def mode_of(self, entry: Entry) -> int:
        """The mode of a new file."""
        return entry.mode if self.mode else entry.mode & 0o777 & ~self.umask


class Failed(NamedTuple):
    """Something that was not copied."""

    path: str
    reason: str
    """The error's short name."""
    message: str


@dataclass
class Report:
    """What became of a copy."""

    files: int = 0
    directories: int = 0
    links: int = 0
    bytes: int = 0
    """Of files that were copied."""
    sent: int = 0
    """Of those, what had to cross the port: without holes, and without what was there already."""
    unchanged: int = 0
    deleted: int = 0
    failures: list[Failed] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """Notes of what was left out, or copied otherwise than it was."""
    planned: list[str] = field(default_factory=list)
    """What a dry run would do, a line each."""
    first: Exception | None = None
    """The first failure, as it was raised."""

    def failed(self, path: str, cause: Exception) -> None:
        """Something was not copied."""
        self.first = self.first or cause
        self.failures.append(Failed(path, *told(path, cause)))

    @property
    def copied(self) -> int:
        return self.files + self.directories + self.links

    def as_dict(self) -> dict[str, Any]:
        """The numbers, and lists of what was not as asked."""
        return {
            "files": self.files,
            "directories": self.directories,
            "links": self.links,
            "bytes": self.bytes,
            "sent": self.sent,
            "unchanged": self.unchanged,
            "deleted": self.deleted,
            "skipped": self.skipped,
            "failures": [each._asdict() for each in self.failures],
        }


class NotWritten(OSError):
    """A file here that could not be written; `filename` is as the user knows it."""


def told(path: str, cause: Exception) -> tuple[str, str]:
    """The short name of an error, and its message, which names the path."""
    if isinstance(cause, RPCError):
        return cause.reason, cause.message
    if isinstance(cause, NotWritten):
        return "LOCAL_ERROR", f"{shown(cause.filename)}: {cause.strerror}"
    if isinstance(cause, OSError):
        return "LOCAL_ERROR", f"{shown(path)}: {cause.strerror or cause}"
    return "LOCAL_ERROR", f"{shown(path)}: {cause}"


def rpc_error(reason: str, message: str) -> RPCError:
    """An error that the guest told of one file among many."""
    return RPCError(NUMBERS.get(reason, NUMBERS["INTERNAL_ERROR"]), message)
