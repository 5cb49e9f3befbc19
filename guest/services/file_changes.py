"""The File service's calls for single files and directories: made, removed, renamed, changed; space; a file's end."""

from __future__ import annotations

import functools
import os
import time
from typing import Callable

from guest.errors import error
from guest.files.changing import AttributeChange, make_directory, make_link, remove_below, rename, touch
from guest.files.content import read_full
from guest.files.entries import Failures, Owners, as_error, asked_path, mode_of
from guest.files.tail import MAX_LINES, start_of_lines
from guest.files.temps import TempFiles
from guest.machine.mounts import usage
from guest.os_errors import file_errors
from guest.policy.paths import WRITE, PathPolicy
from guest.policy.tree import open_parent, open_place
from guest.services.file_trees import go_on, note_failures
from vsrpc.context import ServicerContext
from vsrpc.errors import RpcError
from vsrpc.filetree import Parents
from vsrpc.v1 import file_pb2 as pb
from vsrpc.v1.file_vsrpc import FileServicer

_LOOK = 0.25  # seconds between looks at a file whose end is followed
_MAX_WAIT = 3600.0
_ANSWER_TIME = 0.2  # seconds kept back from a call's deadline


class FileChanges(FileServicer):
    """Serves a part of File; see FileService."""

    _policy: PathPolicy
    _max_content: int
    _temps: TempFiles | None

    def MakeDirectory(self, request: pb.MakeDirectoryRequest, context: ServicerContext) -> pb.MakeDirectoryResponse:
        """Make a directory."""
        path, mode = asked_path(request), mode_of(request.mode, 0o755)
        with _told(path):
            return pb.MakeDirectoryResponse(made=make_directory(self._policy, path, mode, request.parents))

    def Remove(self, request: pb.RemoveRequest, context: ServicerContext) -> pb.RemoveResponse:
        """Remove files and directories."""
        path = asked_path(request)
        going = functools.partial(go_on, context)
        if not request.names:
            directory, leaf = open_parent(self._policy, path, WRITE)
            context.notes["rule"] = directory.rule
            failures = Failures(directory.path)
            with directory:
                removed = remove_below(directory, leaf, request.recursive, _unless_ended(failures), going)
            if not removed and failures.count == 1 and failures.first is not None:
                raise failures.first
            note_failures(context, failures.told)
            return pb.RemoveResponse(removed=removed, failures=failures.told)
        removed, failures = 0, Failures(path)
        with open_place(self._policy, path, WRITE) as directory, Parents(directory) as parents:
            context.notes["rule"] = directory.rule
            for each in request.names:
                name = os.fsdecode(each)
                try:
                    parent, leaf = parents.of(name)
                except (OSError, RpcError) as failure:
                    failures(name, failure)
                    continue
                above = name[: len(name) - len(leaf)]
                told = _unless_ended(failures, above)
                removed += remove_below(parent, leaf, request.recursive, told, going)
        note_failures(context, failures.told)
        return pb.RemoveResponse(removed=removed, failures=failures.told)

    def Rename(self, request: pb.RenameRequest, context: ServicerContext) -> pb.RenameResponse:
        """Rename."""
        path, target = asked_path(request), asked_path(request, "target")
        overwrite = request.overwrite if request.HasField("overwrite") else True
        with _told(path, target):
            rename(self._policy, path, target, overwrite, functools.partial(go_on, context))
        return pb.RenameResponse()

    def SetAttributes(self, request: pb.SetAttributesRequest, context: ServicerContext) -> pb.SetAttributesResponse:
        """Change mode and owner."""
        path, owners = asked_path(request), Owners()
        if not (request.mode or request.owner or request.group):
            raise error("MISSING_REQUIRED", "mode, owner and group are missing: give one of them", field="mode")
        change = AttributeChange(request.mode, owners.user_id(request.owner), owners.group_id(request.group))
        failures = Failures(path)
        with _told(path):
            going = functools.partial(go_on, context)
            change.make(self._policy, path, request.recursive, failures, going)
        note_failures(context, failures.told)
        return pb.SetAttributesResponse(changed=change.changed, failures=failures.told)

    def Link(self, request: pb.LinkRequest, context: ServicerContext) -> pb.LinkResponse:
        """Make a link."""
        path, target = asked_path(request), asked_path(request, "target")
        if not target:
            raise error("MISSING_REQUIRED", "target is missing: say what the link leads to", field="target")
        with _told(path):
            make_link(self._policy, path, target, request.symbolic, request.overwrite, self._temps)
        return pb.LinkResponse()

    def Touch(self, request: pb.TouchRequest, context: ServicerContext) -> pb.TouchResponse:
        """Set a file's times."""
        path = asked_path(request)
        mtime_ns = request.mtime * 10**9 if request.HasField("mtime") else None
        with _told(path):
            return pb.TouchResponse(made=touch(self._policy, path, mtime_ns, not request.no_create))

    def FileSystems(self, request: pb.FileSystemsRequest, context: ServicerContext) -> pb.FileSystemsResponse:
        """Space on file systems."""
        path = asked_path(request)
        if path:
            self._policy.check_metadata(path)
        with file_errors(path or "/"):
            return pb.FileSystemsResponse(filesystems=[pb.FileSystemUsage(**vars(each)) for each in usage(path)])

    def Tail(self, request: pb.TailRequest, context: ServicerContext) -> pb.TailResponse:
        """Read the end of a file, or what was added."""
        path = asked_path(request)
        lines = request.lines if request.HasField("lines") else 10
        if not 0 <= lines <= MAX_LINES:
            raise error("INVALID_PARAMS", f"lines is {lines}: give 0 to {MAX_LINES}", field="lines")
        if request.offset < 0 or request.max_bytes < 0:
            field = "offset" if request.offset < 0 else "max_bytes"
            raise error("INVALID_PARAMS", f"{field} is negative: give 0 or more", field=field)
        if not 0 <= request.wait <= _MAX_WAIT:  # NaN is refused too
            raise error("INVALID_PARAMS", f"wait: {request.wait:g} is not between 0 and {_MAX_WAIT:g} s", field="wait")
        room = min(request.max_bytes or self._max_content, self._max_content)
        remaining = context.time_remaining()
        wait = request.wait if remaining is None else max(0.0, min(request.wait, remaining - _ANSWER_TIME))
        until = time.monotonic() + wait
        while True:
            reply = self._tail(path, request, lines, room)
            if reply.content or reply.restarted or time.monotonic() >= until or not context.is_active():
                return reply
            with context.waiting():
                time.sleep(min(_LOOK, max(0.0, until - time.monotonic())))

    def _tail(self, path: str, request: pb.TailRequest, lines: int, room: int) -> pb.TailResponse:
        fd, _ = self._policy.open_read(path)
        try:
            with file_errors(path):
                status = os.fstat(fd)
                size, file_id = status.st_size, f"{status.st_dev:x}:{status.st_ino:x}"
                restarted = False
                if request.HasField("offset"):
                    offset = request.offset
                    restarted = offset > size or bool(request.file_id and request.file_id != file_id)
                    offset = 0 if restarted else offset
                else:
                    offset = start_of_lines(fd, size, lines, room)
                content = read_full(fd, min(room, size - offset), offset)
        finally:
            os.close(fd)
        return pb.TailResponse(
            offset=offset,
            next_offset=offset + len(content),
            file_id=file_id,
            total_size=size,
            restarted=restarted,
            content=content,
        )


class _told:  # used like a function
    """Turn what goes wrong with the path, or with two of which one may not be there, into the RpcError for it."""

    def __init__(self, path: str, target: str = "") -> None:
        self._path = path
        self._target = target

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, failure: BaseException | None, tb: object) -> None:
        if isinstance(failure, OSError):
            missing = isinstance(failure, FileNotFoundError)
            raise as_error(self._path if missing or not self._target else self._target, failure) from failure


def _unless_ended(failures: Failures, above: str = "") -> Callable[[str, Exception], None]:
    def told(name: str, failure: Exception) -> None:
        if isinstance(failure, RpcError) and failure.reason in ("DEADLINE_EXCEEDED", "CANCELLED"):
            raise failure
        failures(above + name, failure)

    return told
