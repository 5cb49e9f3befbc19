"""The audit log: a line for each call that runs or changes something, for each file that is read, and for each refusal.

    event     when
    start     the daemon starts; stop: it ends in good order
    begin     a call that may end the daemon or the guest takes effect (Exec, Control): what it ends is then known
    call      a call has ended, or was refused
    dropped   an upload has ended by no call: it was idle, could not be written, or the daemon stops
    removed   the temporary file of an upload was removed that ended with a daemon that died
    omitted   so many refusals were not written, since more came than a flood may fill the disk with
    gap       so many lines before could not be written; the daemon's log has them, unless it says `frozen`: then
              there were too many while file systems were frozen

What only reads and what comes by the thousand (System, Stat, UploadChunk) is written when it is refused; a download by
its first chunk, by which is meant one at offset 0, or of a file that was not read for a while: else a reader who begins
at offset 1 would leave no trace. Of a call for many files the first names are shown, and how many were refused. The
chunks of an upload are one story: InitUpload, then FinishUpload, AbortUpload or `dropped`.
"""

from __future__ import annotations

import datetime
import json
import threading
import time
from collections import OrderedDict
from typing import Any, Callable, Protocol

from guest.audit.arguments import arguments, shown
from guest.files.entries import asked_path
from vsrpc.admission import TokenBucket
from vsrpc.context import NotNow, ServicerContext
from vsrpc.dispatcher import Refusal
from vsrpc.errors import RpcError
from vsrpc.method import Idempotency, MethodDescriptor
from vsrpc.status import Code

_FILE = "/vsrpc.v1.File/"
_DOWNLOAD_CHUNK = _FILE + "DownloadChunk"
_DOWNLOADS = (_FILE + "Download", _DOWNLOAD_CHUNK, _FILE + "ReadFiles", _FILE + "Tail")
_JOB = "/vsrpc.v1.Job/"
# Parts of what has a line of its own: an upload, a job.
_PARTS = (_FILE + "UploadChunk", _JOB + "Write", _JOB + "Resize")

# Of a response, by its message's name: what happened, not what was said.
_RESULTS = {
    "ExecResponse": ("exit_code", "signal", "stdout_size", "stderr_size"),
    "UploadResponse": ("size", "md5"),
    "InitUploadResponse": ("session_id",),
    "FinishUploadResponse": ("path", "size", "md5", "chunks_received"),
    "DownloadResponse": ("size", "total_size", "md5"),
    "DownloadChunkResponse": ("size", "total_size"),
    "WriteFilesResponse": ("written",),
    "RemoveResponse": ("removed",),
    "SetAttributesResponse": ("changed",),
    "TailResponse": ("offset", "next_offset"),
    "ControlResponse": ("status", "pid"),
}
_REFUSED = (Code.INVALID_ARGUMENT, Code.PERMISSION_DENIED, Code.UNAUTHENTICATED)
# Of calls that reach no servicer: whose time was up, or for whom the daemon stops, was not refused.
_NOT_REFUSED = (Code.DEADLINE_EXCEEDED, Code.CANCELLED, Code.UNAVAILABLE)

_REFUSALS_AT_ONCE, _REFUSALS_PER_SECOND = 100, 5
_OMITTED_TOLD = 10.0  # seconds after which it is said how many were left out

_READ_AGAIN = 300.0  # seconds without a chunk after which a file counts as read anew
_FILES_READ = 256  # remembered
_LONGEST_PATH = 4096  # characters: a longer one is refused

_HELD_SIZE = 4 << 20  # bytes of lines that are kept while nothing may be written

_LONGEST_LINE = 40_000  # bytes: the journal cuts lines of 48 KiB (LineMax, journald.conf(5))


class Sink(Protocol):
    """Where lines go (guest.audit.sink)."""

    def write(self, line: str) -> bool:
        """Write a line of printable ASCII; False when it is not where it belongs."""

    def close(self) -> None:
        """No more lines come."""


class Audit:
    """The audit log of one daemon, `instance`. An interceptor of its server, and told of what reaches no servicer.

    `method` finds an rpc path's method. Thread-safe; nothing raises for what it cannot write.
    """

    def __init__(
        self,
        sink: Sink,
        instance: str,
        method: Callable[[str], MethodDescriptor[Any, Any] | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sink = sink
        self._instance = instance
        self._method = method
        self._clock = clock
        self._quiet: dict[str, bool] = {**dict.fromkeys(_PARTS, True), **dict.fromkeys(_DOWNLOADS, False)}
        self._lock = threading.Lock()  # all below
        self._read: OrderedDict[str, float] = OrderedDict()  # files, and when
        # What the policy refuses is not to be hidden by a flood of what does not get that far.
        self._policy_bucket = TokenBucket(_REFUSALS_PER_SECOND, _REFUSALS_AT_ONCE, clock)
        self._early_bucket = TokenBucket(_REFUSALS_PER_SECOND, _REFUSALS_AT_ONCE, clock)
        self._omitted = 0
        self._timer: threading.Timer | None = None
        self._lost = 0
        self._held: list[str] | None = None
        self._held_size = 0
        self._dropped = 0
        self._closed = False

    def __call__(self, proceed: Callable[[Any, ServicerContext], Any], request: Any, context: ServicerContext) -> Any:
        """Serve a call and write of it (vsrpc.interceptor.ServerInterceptor)."""
        quiet = self._quiet.get(context.path)
        if quiet is None:
            quiet = self._quiet[context.path] = self._only_reads(context.path)
        if context.path == _DOWNLOAD_CHUNK:
            quiet = not self._is_first_chunk(request)
        started = time.monotonic()
        if quiet:
            try:
                return proceed(request, context)
            except RpcError as failure:
                if _is_refusal(failure):
                    self._call(context, arguments(request, len(context.content)), started, failure)
                raise
        fields = arguments(request, len(context.content))
        context.on_begin = lambda: self._write("begin", **_of(context), args=fields, **_rule(context, None))
        try:
            response = proceed(request, context)
        except NotNow:
            raise
        except RpcError as failure:
            self._call(context, fields, started, failure)
            raise
        except BaseException:
            self._call(context, fields, started, RpcError(Code.INTERNAL, reason="INTERNAL_ERROR"))
            raise
        finally:
            context.on_begin = None  # it knows the context: each would keep the other, and all content, in memory
        self._call(context, fields, started, None, response)
        return response

    def refused(self, refusal: Refusal) -> None:
        """A request reached no servicer (vsrpc.dispatcher.Dispatcher's `on_refused`)."""
        context, error = refusal.context, refusal.error
        if error.code() in _NOT_REFUSED or not self._may_write(self._early_bucket):
            return
        result = {"status": error.code().name, "reason": error.reason, "message": shown(error.details(), 256)}
        http = {"http_method": shown(refusal.http_method, 32)} if refusal.http_method else {}
        self._write("call", **_of(context), **http, decision="refused", **_rule(context, error), result=result)

    def event(self, event: str, **fields: Any) -> None:
        """Write of what is no call. Texts may be of any sort and length."""
        self._write(event, **{key: shown(value) if isinstance(value, str) else value for key, value in fields.items()})

    def hold(self, held: bool) -> None:
        """Keep lines in memory, as nothing may be written (file systems are frozen); or write them now."""
        with self._lock:
            if held:
                self._held = [] if self._held is None else self._held
                return
            lines, dropped = self._held or [], self._dropped
            self._held, self._held_size, self._dropped = None, 0, 0
            for line in lines:
                self._put(line)
            if dropped:
                self._put(self._line("gap", {"lost": dropped, "frozen": True}))

    def close(self) -> None:
        """Write what is still to be said. What comes afterwards is not written."""
        self._tell_omitted()
        self._write("stop")
        with self._lock:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
        self._sink.close()

    # -- what is written

    def _only_reads(self, path: str) -> bool:
        method = self._method(path)
        return method is not None and method.idempotency is Idempotency.NO_SIDE_EFFECTS

    def _is_first_chunk(self, request: Any) -> bool:
        now, path = self._clock(), asked_path(request)[:_LONGEST_PATH]
        with self._lock:
            last = self._read.pop(path, None)
            self._read[path] = now
            if len(self._read) > _FILES_READ:
                self._read.popitem(last=False)
        return request.offset == 0 or last is None or now - last > _READ_AGAIN

    def _call(
        self, context: ServicerContext, fields: Any, started: float, failure: RpcError | None, response: Any = None
    ) -> None:
        decision = "allowed"
        if failure is None:
            result = {"status": "OK", **_result(response), **_job(context), **_failed(context)}
        else:
            result = {"status": failure.code().name, "reason": failure.reason}
            if _is_refusal(failure):
                decision = "refused"
                if not self._may_write(self._policy_bucket):
                    return
        self._write(
            "call",
            **_of(context),
            args=fields,
            decision=decision,
            **_rule(context, failure),
            result=result,
            duration_ms=round((time.monotonic() - started) * 1000, 1),
        )

    # -- floods

    def _may_write(self, bucket: TokenBucket) -> bool:
        """Whether one more refusal may be written; else it is counted."""
        if bucket.take():
            return True
        with self._lock:
            self._omitted += 1
            if self._timer is None and not self._closed:
                self._timer = threading.Timer(_OMITTED_TOLD, self._tell_omitted)
                self._timer.daemon = True
                self._timer.start()
        return False

    def _tell_omitted(self) -> None:
        with self._lock:
            omitted, self._omitted, self._timer = self._omitted, 0, None
        if omitted:
            self._write("omitted", refused=omitted)

    # -- lines

    def _write(self, event: str, **fields: Any) -> None:
        line = self._line(event, fields)
        if len(line) > _LONGEST_LINE:  # a message of very many fields
            line = self._line(event, {**fields, "args": {"...": f"({len(line)} bytes)"}})
        with self._lock:
            if self._closed:
                return
            if self._held is None:
                self._put(line)
                return
            self._held_size += len(line)
            if self._held_size > _HELD_SIZE:
                self._dropped += 1
            else:
                self._held.append(line)

    def _put(self, line: str) -> None:
        if self._lost and self._sink.write(self._line("gap", {"lost": self._lost})):
            self._lost = 0
        if not self._sink.write(line):
            self._lost += 1

    def _line(self, event: str, fields: dict[str, Any]) -> str:
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        # ASCII: neither a line's end nor what moves a terminal's cursor gets through.
        text = json.dumps({"time": now, "event": event, "instance": self._instance, **fields}, separators=(",", ":"))
        return text.replace("\x7f", "\\u007f")


def _of(context: ServicerContext) -> dict[str, Any]:
    """Who calls what."""
    return {
        "peer": shown(context.peer(), 256),
        **({"key": context.key} if context.key else {}),
        "request_id": context.request_id,
        "rpc": shown(context.path, 256),
    }


def _rule(context: ServicerContext, failure: RpcError | None) -> dict[str, str]:
    """By which rule it was decided, where that is known."""
    rule = (failure.data.get("rule") if failure is not None else None) or context.notes.get("rule")
    return {} if rule is None else {"rule": shown(str(rule), 256)}


def _failed(context: ServicerContext) -> dict[str, int]:
    """Of a call for many files: how many of them the policy has refused, and with how many something else was wrong."""
    return {name: context.notes[name] for name in ("refused", "failed") if context.notes.get(name)}


def _is_refusal(failure: RpcError) -> bool:
    """Whether it was decided that the call is not to be served, and not only that it did not succeed."""
    return failure.code() in _REFUSED or "rule" in failure.data


def _job(context: ServicerContext) -> dict[str, Any]:
    return {"job_id": context.notes["job_id"]} if "job_id" in context.notes else {}


def _result(response: Any) -> dict[str, Any]:
    names = _RESULTS.get(response.DESCRIPTOR.name, ()) if hasattr(response, "DESCRIPTOR") else ()
    result = {name: getattr(response, name) for name in names}
    if "session_id" in result:
        result["session_id"] = result["session_id"][:8]
    return {name: shown(value) if isinstance(value, str) else value for name, value in result.items() if value != ""}
