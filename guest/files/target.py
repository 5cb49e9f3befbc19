"""A file that is written out of sight and put in place whole.

It is written without a name (O_TMPFILE), so that nothing is left when the daemon or the guest dies. Where the file
system cannot do that, and for the moment before it replaces another file, it has a name that begins with TEMP_PREFIX,
in the target's directory; that is noted (temps.py), so that the next daemon removes what a crash leaves.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guest.errors import error
from guest.files.content import read_full
from guest.files.entries import Owners, asked_path, new_mode
from guest.files.temps import TEMP_PREFIX, Noted, TempFiles
from guest.os_errors import as_rpc_error, file_errors, free_bytes, printable
from guest.policy.paths import PathPolicy
from guest.policy.resolve import kind
from vsrpc.errors import RpcError
from vsrpc.filesystem import punch_hole
from vsrpc.newfile import Attributes, NewFile
from vsrpc.wire import Buffer

if TYPE_CHECKING:
    from vsrpc.v1.file_pb2 import InitUploadRequest, UploadRequest


@dataclass(frozen=True)
class TargetSpec:
    """What the file in place shall be."""

    path: str
    attributes: Attributes
    overwrite: bool

    @classmethod
    def of(cls, request: UploadRequest | InitUploadRequest) -> TargetSpec:
        """Read it from a request; raises INVALID_PARAMS for a wrong mode, an unknown owner or group."""
        mode, owners = new_mode(request.mode, 0o644), Owners()
        attributes = Attributes(mode, owners.user_id(request.owner), owners.group_id(request.group), *_kept(request))
        return cls(asked_path(request), attributes, request.overwrite if request.HasField("overwrite") else True)


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
        self.resumable = False
        """Whether what was written is to be kept, when it is discarded, for another upload."""
        self._keep_free = keep_free
        self._temps = temps
        self._new: NewFile | None = None
        self._policy = policy
        self._parent = policy.open_parent(spec.path)
        self._dirfd, self._name, self.rule = self._parent
        try:
            self._check_place()
            with file_errors(spec.path, self._dirfd):
                self._new = self._create()
        except BaseException:
            self.discard()
            raise

    @property
    def fd(self) -> int:
        """Its descriptor."""
        assert self._new is not None, "it has been discarded"
        return self._new.fd

    def check_space(self, size: int) -> None:
        """Raises NO_SPACE where its file system has no room for so many bytes."""
        check_space(self.fd, size, self._keep_free, self.spec.path)

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

    def punch(self, offset: int, length: int) -> None:
        """Make a part a hole; raises RpcError."""
        with file_errors(self.spec.path, self._dirfd):
            punch_hole(self.fd, offset, length)

    def set_size(self, size: int) -> None:
        """Cut it, or let it end with a hole; raises RpcError."""
        with file_errors(self.spec.path, self._dirfd):
            os.ftruncate(self.fd, size)

    def commit(self) -> None:
        """Give it owner, mode and time, make it durable, put it in place in one step; on failure nothing is left."""
        assert self._new is not None, "it has been discarded"
        try:
            self._policy.check_parent(self._parent, self.spec.path)
            existing = self._check_place()
            attributes = self.spec.attributes
            if existing is not None and stat.S_ISREG(existing.st_mode):
                attributes = attributes.like(existing)
            with file_errors(self.spec.path, self._dirfd):
                try:
                    attributes.set_on(self.fd)
                except PermissionError:
                    raise _not_given_away(self.spec.path) from None
                os.fsync(self.fd)
                if self.spec.overwrite:
                    self._new.put(self._name)
                else:
                    self._new.put_new(self._name)
                self._sync_directory()
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove what is not in place; does nothing the second time."""
        if self._new is not None:
            self._new.discard()
            os.close(self._new.fd)
            self._new = None
        if self._dirfd >= 0:
            os.close(self._dirfd)
        self._dirfd = -1

    def _check_place(self) -> os.stat_result | None:
        shown = printable(self.spec.path)
        try:
            status = os.stat(self._name, dir_fd=self._dirfd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as failure:
            raise as_rpc_error(failure, self.spec.path) from failure
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
            hint = "; name the file in it" if stat.S_ISDIR(status.st_mode) else ""
            raise error("WRONG_FILE_TYPE", f"The target is a {kind(status)}: {shown}{hint}", path=shown)
        if not self.spec.overwrite:
            raise as_rpc_error(FileExistsError(errno.EEXIST, ""), self.spec.path)
        return status

    def _create(self) -> NewFile:
        return NewFile(self._dirfd, TEMP_PREFIX, note=Noted(self._temps, self._dirfd))

    def _sync_directory(self) -> None:
        try:
            fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._dirfd)
        except PermissionError:  # a directory that the daemon may write but not list
            return
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def check_space(fd: int, size: int, keep_free: int, path: str) -> None:
    """Raises NO_SPACE where the file system of an open file has no room for so many bytes beside those kept free."""
    free = free_bytes(fd)
    if size <= free - keep_free:
        return
    shown = printable(path)
    kept = f", and limits.free_space keeps {keep_free} of them" if keep_free else ""
    rule = {"rule": "limits.free_space", "limit": keep_free} if size <= free else {}
    message = f"No space left on the file system for {size} bytes ({free} bytes are free{kept}): {shown}"
    raise error("NO_SPACE", message, path=shown, free=free, **rule)


def _not_given_away(path: str) -> RpcError:
    message = f"The daemon runs as user {os.geteuid()} and may not give files to others: leave owner and group out"
    return error("PERMISSION_DENIED", message, path=printable(path))


def _kept(request: Any) -> tuple[int | None, bool]:
    """What only an upload in chunks can keep: its source's time, and the attributes of the file that it replaces."""
    if "keep_attributes" not in request.DESCRIPTOR.fields_by_name:
        return None, False
    nanos: int = request.mtime_nanos
    if not 0 <= nanos < 10**9:
        raise error("INVALID_PARAMS", f"mtime_nanos is {nanos}: give 0 to 999999999", field="mtime_nanos")
    return request.mtime * 10**9 + nanos if request.HasField("mtime") else None, request.keep_attributes
