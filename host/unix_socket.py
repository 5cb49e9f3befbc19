"""A UNIX socket seen from outside, without connecting to it: whether it can be used, and who uses it.

Which sockets are connected to which, only sock_diag(7) tells; whose they are, /proc/PID/fd. Where the kernel does not
tell, or a process belongs to somebody else, that is said, never guessed.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from dataclasses import dataclass
from enum import Enum
from typing import Iterable, Iterator

# linux/netlink.h, linux/sock_diag.h, linux/unix_diag.h
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_ERROR, _DONE = 2, 3
_NAME, _VFS, _PEER, _ICONS = range(4)
_SHOW = 0x1 | 0x2 | 0x4 | 0x8  # the same four
_LISTENING = 10  # TCP_LISTEN
_RECEIVE = 1 << 17

_LONGEST_COMMAND = 100

_LONGEST_PATH = 107  # unix(7), sun_path


class Fault(Enum):
    """Why a path is no socket that could be connected to. The value is the name that programs see."""

    MISSING = "no_socket"
    WRONG_KIND = "not_a_socket"
    FORBIDDEN = "permission_denied"


def look(path: str) -> tuple[Fault | None, str]:
    """What is at `path`: what is wrong with it, if anything, and a description."""
    if len(os.fsencode(path)) > _LONGEST_PATH:
        return Fault.WRONG_KIND, f"the path is too long for a socket ({_LONGEST_PATH} bytes at most)"
    try:
        status = os.stat(path)
    except PermissionError:
        return Fault.FORBIDDEN, f"permission denied: {_me()} may not look into its directory"
    except (FileNotFoundError, NotADirectoryError):
        if os.path.islink(path):
            return Fault.MISSING, f"a symbolic link to {os.readlink(path)}, which is not there"
        directory = os.path.dirname(os.path.abspath(path))
        there = "there is nothing of that name" if os.path.isdir(directory) else "not even its directory is there"
        return Fault.MISSING, f"no such socket: {there}"
    except OSError as error:
        return Fault.MISSING, f"no such socket: {error.strerror}"
    if not stat.S_ISSOCK(status.st_mode):
        return Fault.WRONG_KIND, f"a {'directory' if stat.S_ISDIR(status.st_mode) else 'file'}, not a socket"
    whose = f"mode {stat.S_IMODE(status.st_mode):04o}, owner uid {status.st_uid}"
    if not os.access(path, os.W_OK, effective_ids=True):
        return Fault.FORBIDDEN, f"permission denied: a socket of {whose}, and {_me()} may not write to it"
    return None, f"a socket of {whose}"


def _me() -> str:
    return f"uid {os.geteuid()}"


@dataclass(frozen=True)
class Users:
    """Who uses a socket, besides this process. Each is a text: "process 17 (socat …)"."""

    listeners: tuple[str, ...] = ()
    clients: tuple[str, ...] = ()
    """Connected, and let in by the listener."""
    queued: tuple[str, ...] = ()
    """Connected, and waiting to be let in."""
    unknown: str = ""
    """Why it cannot be found out who there is; "" where it can."""


def users(path: str) -> Users:
    """Who uses the socket at `path`. Raises nothing."""
    try:
        status = os.stat(path)
        found = list(_dump())
    except OSError as error:
        return Users(unknown=f"the kernel does not tell ({error.strerror or error})")
    listeners: list[int] = []
    clients: list[int] = []
    queued: list[int] = []
    for entry in found:
        if not entry.is_at(path, status):
            continue
        if entry.listening:
            listeners.append(entry.inode)
            queued += entry.queue
        elif entry.peer:
            clients.append(entry.peer)
    if not listeners:
        return Users(unknown="the listener is not in this network namespace, or there is none")
    owners = _owners({*listeners, *clients, *queued})
    return Users(_names(listeners, owners), _names(clients, owners), _names(queued, owners))


@dataclass(frozen=True)
class _Entry:
    """One socket of the kernel's list."""

    inode: int
    listening: bool
    attributes: dict[int, bytes]

    def is_at(self, path: str, status: os.stat_result) -> bool:
        """Whether it is bound there, or was let in by the one that is."""
        vfs = self.attributes.get(_VFS, b"")
        if len(vfs) != 8:
            return False
        name = os.path.basename(self.attributes.get(_NAME, b"").rstrip(b"\0"))
        number, device = struct.unpack("=II", vfs)
        # The kernel's own form of a device number (linux/kdev_t.h). Some file systems show another one to programs.
        same_device = (device >> 20, device & 0xFFFFF) == (os.major(status.st_dev), os.minor(status.st_dev))
        same_name = name == os.fsencode(os.path.basename(os.path.realpath(path)))
        return number == status.st_ino & 0xFFFFFFFF and (same_device or same_name)

    @property
    def peer(self) -> int:
        return int.from_bytes(self.attributes.get(_PEER, b""), "little")

    @property
    def queue(self) -> tuple[int, ...]:
        icons = self.attributes.get(_ICONS, b"")
        return tuple(number for (number,) in struct.iter_unpack("=I", icons[: len(icons) // 4 * 4]) if number)


def _dump() -> Iterator[_Entry]:
    """All UNIX sockets, as the kernel lists them. Raises OSError."""
    request = struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _SHOW, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
        kernel.send(struct.pack("=IHHII", 16 + len(request), _SOCK_DIAG_BY_FAMILY, _DUMP, 1, 0) + request)
        while True:
            data = kernel.recv(_RECEIVE)
            at = 0
            while at + 16 <= len(data):
                length, kind = struct.unpack_from("=IH", data, at)
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    (number,) = struct.unpack_from("=i", data, at + 16)
                    raise OSError(-number, os.strerror(-number))
                yield _entry(data[at + 16 : at + length])
                at += (max(length, 16) + 3) & ~3


def _entry(message: bytes) -> _Entry:
    _, _, state, _, inode = struct.unpack_from("=BBBBI", message)
    attributes = {}
    at = 16
    while at + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, at)
        attributes[kind] = message[at + 4 : at + length]
        at += (max(length, 4) + 3) & ~3
    return _Entry(inode, state == _LISTENING, attributes)


def _owners(inodes: set[int]) -> dict[int, set[int]]:
    """Which processes have a descriptor of these sockets, as far as this user may see that."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    owners: dict[int, set[int]] = {}
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it is somebody else's, or has ended
            for entry in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    inode = wanted.get(os.readlink(entry.path))
                    if inode is not None:
                        owners.setdefault(inode, set()).add(int(pid))
    return owners


def _names(inodes: Iterable[int], owners: dict[int, set[int]]) -> tuple[str, ...]:
    return tuple(_name(owners.get(inode, set())) for inode in inodes if os.getpid() not in owners.get(inode, ()))


def _name(pids: set[int]) -> str:
    if not pids:
        return "a process that this user may not see"
    return " and ".join(f"process {pid} ({_command(pid)})" for pid in sorted(pids))


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().rstrip(b"\0").split(b"\0")
    except OSError:
        words = []
    text = " ".join(os.fsdecode(b" ".join(words)).split()) or "its command is not known"
    return text if len(text) <= _LONGEST_COMMAND else text[: _LONGEST_COMMAND - 3] + "..."
