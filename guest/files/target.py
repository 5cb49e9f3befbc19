"""A file that is written out of sight and put in place whole.

It is written without a name (O_TMPFILE), so that nothing is left when the daemon or the guest dies. Where the file
system cannot do that, and for the moment before it replaces another file, it has a name that begins with TEMP_PREFIX,
in the target's directory; that is noted (temps.py), so that the next daemon removes what a crash leaves.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import grp
import os
import pwd
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable

from guest.errors import error
from guest.files.content import read_full
from guest.files.temps import TempFiles, temp_name
from guest.os_errors import as_rpc_error, file_errors, free_bytes, printable
from guest.policy.paths import PathPolicy
from guest.policy.resolve import kind
from vsrpc.wire import Buffer

if TYPE_CHECKING:
    from vsrpc.v1.file_pb2 import InitUploadRequest, UploadRequest

_SET_ID = stat.S_ISUID | stat.S_ISGID  # whoever runs it would be the daemon's user

_MODE = re.compile(r"0{0,2}[0-7]{1,4}\Z")
_KEEP = -1  # chown(2): leave as it is
_NO_ID = 2**32 - 1  # what chown(2) sees as -1
_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS)  # EISDIR: Linux before 3.11
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
_RENAME_NOREPLACE = 1  # linux/fs.h


@dataclass(frozen=True)
class TargetSpec:
    """What the file in place shall be; `uid` and `gid` are -1 for the daemon's own."""

    path: str
    mode: int
    uid: int
    gid: int
    overwrite: bool

    @classmethod
    def of(cls, request: UploadRequest | InitUploadRequest) -> TargetSpec:
        """Read it from a request; raises INVALID_PARAMS for a wrong mode, an unknown owner or group."""
        if request.mode and not _MODE.match(request.mode):
            message = f'mode {request.mode!r} is not octal permission bits: give 0 to 7777, for example "0644"'
            raise error("INVALID_PARAMS", message, field="mode")
        if int(request.mode or "0", 8) & _SET_ID:
            message = (
                f"mode {request.mode}: no file is written with set-user-ID or set-group-ID bits; set them in the guest"
            )
            raise error("PERMISSION_DENIED", message, field="mode", rule="set-ID bits")
        return cls(
            path=request.path,
            mode=int(request.mode or "0644", 8),
            uid=_id("owner", request.owner, lambda name: pwd.getpwnam(name).pw_uid),
            gid=_id("group", request.group, lambda name: grp.getgrnam(name).gr_gid),
            overwrite=request.overwrite if request.HasField("overwrite") else True,
        )


class TargetFile:
    """A new file for the target, open for writing. End it with `commit` or `discard`.

    Making one raises RpcError: what the policy says, FILE_NOT_FOUND (no such directory), WRONG_FILE_TYPE (the target
    is a directory or special), FILE_EXISTS, NO_SPACE, PERMISSION_DENIED. A symbolic link at the target's place is
    replaced, never followed. `rule` is the rule of the policy that allows it. `keep_free` bytes of its file system are
    left.
    """

    def __init__(
        self, policy: PathPolicy, spec: TargetSpec, keep_free: int = 0, temps: TempFiles | None = None
    ) -> None:
        self.spec = spec
        self.fd = -1
        self._keep_free = keep_free
        self._temps = temps
        self._temp = self._note = ""
        self._policy = policy
        self._parent = policy.open_parent(spec.path)
        self._dirfd, self._name, self.rule = self._parent
        try:
            self._check_place()
            with file_errors(spec.path, self._dirfd):
                self._create()
        except BaseException:
            self.discard()
            raise

    def check_space(self, size: int) -> None:
        """Raises NO_SPACE where its file system has no room for so many bytes."""
        free = free_bytes(self.fd)
        if size <= free - self._keep_free:
            return
        shown = printable(self.spec.path)
        kept = f", and limits.free_space keeps {self._keep_free} of them" if self._keep_free else ""
        rule = {"rule": "limits.free_space", "limit": self._keep_free} if size <= free else {}
        message = f"No space left on the file system for {size} bytes ({free} bytes are free{kept}): {shown}"
        raise error("NO_SPACE", message, path=shown, free=free, **rule)

    def write(self, content: Buffer, offset: int) -> None:
        """Write at an offset; raises RpcError (NO_SPACE and so on)."""
        if self._keep_free:
            self.check_space(len(content))
        view = memoryview(content)
        with file_errors(self.spec.path, self._dirfd):
            while view:
                written = os.pwrite(self.fd, view, offset)
                # Have the kernel begin to write it to the disk (mm/fadvise.c), so that commit() has less to wait for.
                with contextlib.suppress(OSError):  # it is only a hint, which not every kernel takes
                    os.posix_fadvise(self.fd, offset, written, os.POSIX_FADV_DONTNEED)
                view = view[written:]
                offset += written

    def read(self, length: int, offset: int) -> bytes:
        """Read back what was written: `length` bytes, fewer only at the end."""
        with file_errors(self.spec.path):
            return read_full(self.fd, length, offset)

    def commit(self) -> None:
        """Give it owner and mode, make it durable, put it in place in one step; on failure nothing is left of it."""
        try:
            self._policy.check_parent(self._parent, self.spec.path)
            self._check_place()
            with file_errors(self.spec.path, self._dirfd):
                self._set_owner()
                os.fchmod(self.fd, self.spec.mode)
                os.fsync(self.fd)
                self._put_in_place()
                self._sync_directory()
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove what is not in place; does nothing the second time."""
        if self._temp:
            try:
                os.unlink(self._temp, dir_fd=self._dirfd)
            except FileNotFoundError:
                pass
            except OSError:  # its file system has become read-only, say: the next daemon may remove it
                self._note = ""
            self._named("")
        for fd in (self.fd, self._dirfd):
            if fd >= 0:
                os.close(fd)
        self.fd = self._dirfd = -1

    def _check_place(self) -> None:
        shown = printable(self.spec.path)
        try:
            status = os.stat(self._name, dir_fd=self._dirfd, follow_symlinks=False)
        except FileNotFoundError:
            return
        except OSError as failure:
            raise as_rpc_error(failure, self.spec.path) from failure
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
            hint = "; name the file in it" if stat.S_ISDIR(status.st_mode) else ""
            raise error("WRONG_FILE_TYPE", f"The target is a {kind(status)}: {shown}{hint}", path=shown)
        if not self.spec.overwrite:
            raise as_rpc_error(FileExistsError(errno.EEXIST, ""), self.spec.path)

    def _create(self) -> None:
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            self.fd = os.open(".", flags | os.O_TMPFILE, 0o600, dir_fd=self._dirfd)
            return
        except OSError as failure:
            if failure.errno not in _NO_TMPFILE:
                raise
        self._named(temp_name(), durable=True)
        self.fd = os.open(self._temp, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=self._dirfd)

    def _named(self, name: str, *, durable: bool = False) -> None:
        """It is about to get a name, or has ("") none of its own any more."""
        if self._temps is not None:
            if name:
                directory = os.readlink(f"/proc/self/fd/{self._dirfd}")
                self._note = self._temps.note(directory, name, durable=durable)
            else:
                self._temps.forget(self._note)
        self._temp = name

    def _set_owner(self) -> None:
        spec = self.spec
        if (spec.uid, spec.gid) == (_KEEP, _KEEP):
            return
        try:
            os.fchown(self.fd, spec.uid, spec.gid)
        except PermissionError:
            message = (
                f"The daemon runs as user {os.geteuid()} and may not give files to others: leave owner and group out"
            )
            raise error("PERMISSION_DENIED", message, path=printable(spec.path)) from None

    def _put_in_place(self) -> None:
        if not self.spec.overwrite:
            self._put_as_new()
            return
        if not self._temp:
            self._named(temp_name())
            self._link(self._temp)
        os.rename(self._temp, self._name, src_dir_fd=self._dirfd, dst_dir_fd=self._dirfd)
        self._named("")

    def _put_as_new(self) -> None:
        try:
            self._link(self._name)
        except OSError as failure:
            if failure.errno not in _NO_LINKS or not self._temp:
                raise
            rename_new(self._dirfd, self._temp, self._name)
            self._named("")

    def _link(self, name: str) -> None:
        os.link(f"/proc/self/fd/{self.fd}", name, dst_dir_fd=self._dirfd, follow_symlinks=True)

    def _sync_directory(self) -> None:
        try:
            fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._dirfd)
        except PermissionError:  # a directory that the daemon may write but not list
            return
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def rename_new(dirfd: int, source: str, target: str) -> None:
    """Rename within a directory, and fail if the target exists: renameat2(2), for file systems without hard links.

    Raises OSError; EOPNOTSUPP where the C library (glibc before 2.28) or the file system cannot do it.
    """
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        raise OSError(errno.EOPNOTSUPP, "create without overwriting")
    if function(dirfd, os.fsencode(source), dirfd, os.fsencode(target), _RENAME_NOREPLACE) != 0:
        number = ctypes.get_errno()
        if number in (errno.EINVAL, errno.ENOSYS):
            raise OSError(errno.EOPNOTSUPP, "create without overwriting")
        raise OSError(number, os.strerror(number))


def _id(field: str, name: str, look_up: Callable[[str], int]) -> int:
    """A user's or group's number: by name if there is one of that name, else the number itself (as chown(1) does)."""
    if not name:
        return _KEEP
    try:
        return look_up(name)
    except (KeyError, ValueError):
        pass
    if name.isascii() and name.isdigit() and len(name) <= 10 and int(name) < _NO_ID:
        return int(name)
    raise error("INVALID_PARAMS", f"No such {field} in the guest: {name!r} (give a name or a number)", field=field)
