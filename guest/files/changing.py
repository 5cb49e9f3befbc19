"""Single files and directories: made, removed, renamed, linked, changed. The policy judges each."""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import Callable

from guest.errors import error
from guest.files.entries import SET_ID, Failures, mode_of, set_id_refused
from guest.files.temps import TEMP_PREFIX, Noted, TempFiles
from guest.files.writing import check_link, check_link_place, hard_link, set_attributes
from guest.os_errors import printable
from guest.policy.paths import PathPolicy
from guest.policy.resolve import look
from guest.policy.tree import WRITE, JudgedDirectory, open_parent
from vsrpc.filesystem import rename_new
from vsrpc.filetree import Failure, remove, walk
from vsrpc.newfile import KEEP, Attributes, replace_link

GoOn = Callable[[], None]

_CLAUSE = re.compile(r"([ugoa]*)((?:[+=-][rwxXst]*)+)\Z")
_ACTION = re.compile(r"([+=-])([rwxXst]*)")
_WHO = {"u": 0o4700, "g": 0o2070, "o": 0o1007}
_WHAT = {"r": 0o444, "w": 0o222, "x": 0o111}


def make_directory(policy: PathPolicy, path: str, mode: int, parents: bool) -> bool:
    """Make a directory, with those above it if `parents`; whether it was not there. Raises RpcError, OSError."""
    missing: list[str] = []
    above = os.path.dirname(path.rstrip("/"))
    while parents and above.strip("/") and not os.path.isdir(above):
        missing.append(above)
        above = os.path.dirname(above)
    for each in reversed(missing):
        _make_directory(policy, each, 0o755, exist_ok=True)
    return _make_directory(policy, path, mode, exist_ok=parents)


def _make_directory(policy: PathPolicy, path: str, mode: int, exist_ok: bool) -> bool:
    directory, leaf = open_parent(policy, path, WRITE)
    with directory:
        directory.check(leaf, None)
        try:
            os.mkdir(leaf, 0o700, dir_fd=directory.fd)
        except FileExistsError:
            if exist_ok and stat.S_ISDIR(os.stat(leaf, dir_fd=directory.fd).st_mode):
                return False
            raise
        set_attributes(directory, leaf, Attributes(mode))
    return True


def remove_below(
    directory: JudgedDirectory, leaf: str, recursive: bool, failed: Callable[[str, Exception], None], go_on: GoOn
) -> int:
    """Remove a name, and all below it if `recursive`; how many files and directories that were."""

    def told(name: str, failure: Exception) -> None:
        if isinstance(failure, IsADirectoryError):
            shown = printable(directory.child(name))
            failure = error("WRONG_FILE_TYPE", f"Is a directory: {shown} (remove it with all in it: -r)", path=shown)
        failed(name, failure)

    return remove(directory, leaf, recursive, told, go_on)


def rename(policy: PathPolicy, path: str, target: str, overwrite: bool, go_on: GoOn) -> None:
    """Rename; what is below a directory must be allowed under its old name and its new one.

    Raises RpcError, OSError.
    """
    source, leaf = open_parent(policy, path, WRITE)
    with source:
        into, new = open_parent(policy, target, WRITE)
        with into:
            status = os.stat(leaf, dir_fd=source.fd, follow_symlinks=False)
            source.check(leaf, status)
            into.check(new, None)
            if stat.S_ISLNK(status.st_mode):
                check_link_place(into, new)
            if stat.S_ISDIR(status.st_mode):
                _check_below(source, leaf, into.real_child(new), go_on)
            try:
                if overwrite:
                    os.rename(leaf, new, src_dir_fd=source.fd, dst_dir_fd=into.fd)
                else:
                    rename_new(source.fd, leaf, new, into.fd)
            except OSError as failure:
                if failure.errno != errno.EINVAL or not stat.S_ISDIR(status.st_mode):
                    raise
                message = f"A directory cannot be moved into itself: {printable(path)} to {printable(target)}"
                raise error("INVALID_PARAMS", message, path=printable(target)) from failure


def _check_below(directory: JudgedDirectory, leaf: str, new: str, go_on: GoOn) -> None:
    """Raise what forbids anything below a directory that shall have another path: else a new name would free it."""
    with directory.enter(leaf, readable=True) as inner:
        for seen in walk(inner):
            go_on()
            if seen.failure is not None:
                raise seen.failure
            inner.policy.judge(os.path.join(new, seen.name), os.path.join(new, seen.name), None, WRITE)


def make_link(
    policy: PathPolicy, path: str, target: str, symbolic: bool, overwrite: bool, temps: TempFiles | None = None
) -> None:
    """Make a link; `temps` takes note of its temporary name. Raises RpcError, OSError."""
    directory, leaf = open_parent(policy, path, WRITE)
    with directory:
        directory.check(leaf, None)
        if symbolic:
            check_link(policy, directory, leaf, target)
            replace_link(
                directory.fd,
                leaf,
                lambda name: os.symlink(target, name, dir_fd=directory.fd),
                lambda: False,
                overwrite,
                TEMP_PREFIX,
                Noted(temps, directory.fd),
            )
            return
        source, source_leaf = open_parent(policy, target, WRITE)
        with source:
            status = os.stat(source_leaf, dir_fd=source.fd, follow_symlinks=False)
            if not overwrite and os.path.lexists(f"/proc/self/fd/{directory.fd}/{leaf}"):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            if not stat.S_ISREG(status.st_mode):
                shown = printable(target)
                raise error("WRONG_FILE_TYPE", f"Only files have hard links: {shown} (make a symbolic one)", path=shown)
            hard_link(source, source_leaf, directory, leaf, overwrite, temps)


def touch(policy: PathPolicy, path: str, mtime_ns: int | None, create: bool) -> bool:
    """Set a file's times, making it if it is not there; whether it was made. Links are followed."""
    directory, leaf = open_parent(policy, real_path(policy, path), WRITE)
    made = False
    with directory:
        try:
            status = os.stat(leaf, dir_fd=directory.fd, follow_symlinks=False)
        except FileNotFoundError:
            directory.check(leaf, None)
            if not create:
                return False
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(leaf, flags, 0o644, dir_fd=directory.fd))
            status, made = os.stat(leaf, dir_fd=directory.fd, follow_symlinks=False), True
        directory.check(leaf, status)
        if mtime_ns is None:
            os.utime(leaf, dir_fd=directory.fd, follow_symlinks=False)
        else:
            set_attributes(directory, leaf, Attributes(KEEP, mtime_ns=mtime_ns))
    return made


def real_path(policy: PathPolicy, path: str) -> str:
    """Where a path leads, links followed, or would lead. Raises RpcError where that may not be written."""
    fd, real = look(path)
    try:
        policy.judge(path, real, fd, WRITE)
    finally:
        if fd is not None:
            os.close(fd)
    return real


class AttributeChange:
    """A change of mode (as chmod(1) takes it), owner and group (KEEP for none), made on many files."""

    def __init__(self, mode: str, uid: int, gid: int) -> None:
        self._mode = parse_mode(mode) if mode else None
        self._uid, self._gid = uid, gid
        self.changed = 0

    def make(self, policy: PathPolicy, path: str, recursive: bool, failures: Failures, go_on: GoOn) -> None:
        """Change what the path leads to, and all below that if `recursive`. Raises RpcError, OSError for itself."""
        directory, leaf = open_parent(policy, real_path(policy, path), WRITE)
        with directory:
            status = os.stat(leaf, dir_fd=directory.fd, follow_symlinks=False)
            if recursive and stat.S_ISDIR(status.st_mode):
                with directory.enter(leaf, readable=True) as inner:
                    for seen in walk(inner):
                        go_on()
                        try:
                            if seen.failure is not None:
                                raise seen.failure
                            assert isinstance(seen.directory, JudgedDirectory)
                            assert seen.status is not None
                            self._set(seen.directory, seen.leaf, seen.status)
                        except Failure as failure:
                            failures(seen.name, failure)
            self._set(directory, leaf, status)

    def _set(self, directory: JudgedDirectory, leaf: str, status: os.stat_result) -> None:
        directory.check(leaf, status)
        mode = KEEP
        if self._mode is not None and not stat.S_ISLNK(status.st_mode):
            old = stat.S_IMODE(status.st_mode)
            mode = self._mode(old, stat.S_ISDIR(status.st_mode))
            if mode & ~old & SET_ID and not stat.S_ISDIR(status.st_mode):
                raise set_id_refused(f"{mode:04o}")
        set_attributes(directory, leaf, Attributes(mode, self._uid, self._gid))
        self.changed += 1


def parse_mode(text: str) -> Callable[[int, bool], int]:
    """The function from old permission bits, and whether it is a directory, to new ones. Raises INVALID_PARAMS.

    Octal, or clauses of chmod(1): "u+x,go-w". Without "ugoa", "a" is meant, whatever the daemon's umask.
    """
    if text[:1].isdigit():
        bits = mode_of(text, 0)
        return lambda old, is_directory: bits
    clauses: list[tuple[str, list[tuple[str, str]]]] = []
    for clause in text.split(","):
        match = _CLAUSE.match(clause)
        if match is None:
            message = f'mode {text[:64]!r} is neither octal ("0640") nor symbolic ("u+x,go-w")'
            raise error("INVALID_PARAMS", message, field="mode")
        clauses.append((match[1], _ACTION.findall(match[2])))

    def change(mode: int, is_directory: bool) -> int:
        for who, actions in clauses:
            mask = 0
            for each in who.replace("a", "ugo") or "ugo":
                mask |= _WHO[each]
            for sign, what in actions:
                bits = _bits(what, mask, mode, is_directory)
                if sign == "+":
                    mode |= bits
                elif sign == "-":
                    mode &= ~bits
                else:  # of a directory, chmod(1) leaves the bits for set-id
                    mode = mode & ~(mask & (0o777 if is_directory else 0o7777)) | bits
        return mode

    return change


def _bits(what: str, mask: int, mode: int, is_directory: bool) -> int:
    bits = 0
    for each in what:
        if each == "X":
            bits |= 0o111 if is_directory or mode & 0o111 else 0
        elif each == "s":
            bits |= 0o6000
        elif each == "t":
            bits |= 0o1000
        else:
            bits |= _WHAT[each]
    return bits & (mask | (0o1000 if "t" in what else 0))
