"""The Job service: commands that run on their own, read and fed by offset."""

from __future__ import annotations

import functools
import re
import signal
import time
from typing import Callable

from guest.config import LimitsConfig
from guest.errors import error
from guest.files.buffers import BUFFERS
from guest.jobs.access import JobAccess
from guest.jobs.cgroup import ResourceLimits
from guest.jobs.live import LiveJob, Spec
from guest.jobs.store import JobStore
from guest.jobs.terminal import DEFAULT_COLUMNS, DEFAULT_ROWS, MAX_SIZE
from guest.policy.commands import CommandPolicy
from guest.services.command import Options, prepare
from vsrpc.bulk import bulk
from vsrpc.context import NotNow, ServicerContext, at_once
from vsrpc.deadline import Deadline
from vsrpc.v1 import job_pb2 as pb
from vsrpc.v1.job_vsrpc import JobServicer

LOG_SIZE = 1024 * 1024
"""Bytes kept of each output where the request does not say."""

LOG_SIZES = range(64 * 1024, 256 * 1024 * 1024 + 1)

MEMORY_LIMITS = range(1024 * 1024, (1 << 50) + 1)
"""Bytes."""

PROCESS_LIMITS = range(1, (1 << 22) + 1)

MAX_TIMEOUT = 7 * 86400.0
"""Seconds: a week. What runs longer is a service."""

READ_SIZE = 1024 * 1024
"""Bytes of each output in a reply where the request does not say."""

MAX_STDERR = 1024 * 1024
"""Most bytes of standard error in a reply, which stands in the message itself."""

_MAX_WAIT = 3600.0
_JUDGING_TIME = 10.0  # seconds
_ANSWER_TIME = 0.2  # seconds kept back from a call's deadline

_LARGE = 65536  # bytes from which on output is read into a buffer that was used before

_TERM = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}\Z")


class JobService(JobServicer):
    """Serves Job. `max_reply` is the largest reply in bytes; `stop` ends all jobs."""

    def __init__(self, policy: CommandPolicy, store: JobStore, max_reply: int, limits: LimitsConfig) -> None:
        self.policy = policy
        self.limits = limits
        self._store = store
        self._max_content = max_reply // 2

    def stop(self) -> None:
        """End all jobs and take no more."""
        self._store.stop()

    def Start(self, request: pb.JobStartRequest, context: ServicerContext) -> pb.JobStartResponse:
        """Start a command."""
        context.notes["rule"] = self.policy.rule
        spec = judge(self.policy, request, self.limits)
        context.begins()
        job = self._store.start(spec)
        context.notes["job_id"] = job.id
        _wait(job, request.wait, context, lambda: job.over or job.stdout.end > 0 or job.stderr.end > 0)
        _, stdout = job.stdout.content(0, READ_SIZE)
        _, stderr = job.stderr.content(0, MAX_STDERR)
        return pb.JobStartResponse(job=job_info(job), stdout=stdout, stderr=stderr)

    @bulk(response="stdout")
    def Read(self, request: pb.JobReadRequest, context: ServicerContext) -> pb.JobReadResponse:
        """Read output."""
        job = self._store.get(request.job_id)
        attend(job, request)
        wait_for_output(job, request, context)
        # `job` before the reading, so that `output_ended` is told with the last of it.
        return read(job, request, context, pb.JobReadResponse(job=job_info(job)), self._max_content)

    @at_once
    @bulk(request="content")
    def Write(self, request: pb.JobWriteRequest, context: ServicerContext) -> pb.JobWriteResponse:
        """Write input."""
        return write(self._store.get(request.job_id), request, context)

    def Signal(self, request: pb.JobSignalRequest, context: ServicerContext) -> pb.JobSignalResponse:
        """Send a signal."""
        job = self._store.get(request.job_id)
        number = _signal(request.signal)
        if not job.signal(number):
            raise error("WRONG_STATE", f"Job {job.id} has no process any more", job_id=job.id)
        return pb.JobSignalResponse(job=job_info(job))

    def Resize(self, request: pb.JobResizeRequest, context: ServicerContext) -> pb.JobResizeResponse:
        """Change the terminal's size."""
        job = self._store.get(request.job_id)
        if not job.resize(*_size(request.rows, request.columns)):
            why = "has ended" if job.spec.terminal else "has no terminal"
            raise error("WRONG_STATE", f"Job {job.id} {why}", job_id=job.id)
        return pb.JobResizeResponse()

    def Wait(self, request: pb.JobWaitRequest, context: ServicerContext) -> pb.JobWaitResponse:
        """Wait for the end."""
        job = self._store.get(request.job_id)
        _wait(job, request.wait, context, lambda: job.over)
        return pb.JobWaitResponse(job=job_info(job))

    def List(self, request: pb.JobListRequest, context: ServicerContext) -> pb.JobListResponse:
        """All jobs."""
        return pb.JobListResponse(jobs=map(job_info, self._store.all()))

    def Forget(self, request: pb.JobForgetRequest, context: ServicerContext) -> pb.JobForgetResponse:
        """Drop a job."""
        with context.waiting():
            self._store.forget(request.job_id, request.kill)
        return pb.JobForgetResponse(job_id=request.job_id)


def attend(job: JobAccess, request: pb.JobReadRequest) -> None:
    """Take note of a reader, and what it has. Raises RpcError INVALID_PARAMS for what cannot be read."""
    _check_offset("stdout_offset", request.stdout_offset, job.stdout.end)
    _check_offset("stderr_offset", request.stderr_offset, job.stderr.end)
    if not 0 <= request.stdout_behind <= request.stdout_offset:
        message = (
            f"stdout_behind {request.stdout_behind} is not between 0 and {request.stdout_offset}, the stdout_offset"
        )
        raise error("INVALID_PARAMS", message, field="stdout_behind")
    if request.max_bytes < 0:
        raise error("INVALID_PARAMS", f"max_bytes is {request.max_bytes}: give 1 or more", field="max_bytes")
    _check_wait(request.wait)
    job.attend(request.stdout_offset - request.stdout_behind, request.stderr_offset)


def wait_for_output(job: JobAccess, request: pb.JobReadRequest, context: ServicerContext) -> None:
    """Wait for the time asked for, until there is any, or the end."""
    _wait(job, request.wait, context, lambda: has_output(job, request))


def has_output(job: JobAccess, request: pb.JobReadRequest) -> bool:
    """Whether there is something to answer."""
    return job.over or job.stdout.end > request.stdout_offset or job.stderr.end > request.stderr_offset


def read(
    job: JobAccess, request: pb.JobReadRequest, context: ServicerContext, response: pb.JobReadResponse, max_content: int
) -> pb.JobReadResponse:
    """The response to a Read, now: to what is known of the job, the output. `max_content`: most bytes of one."""
    limit = min(request.max_bytes or READ_SIZE, max_content)
    if min(limit, job.stdout.end - request.stdout_offset) < _LARGE:
        out, stdout = job.stdout.content(request.stdout_offset, limit)
        context.send_content(stdout)
    else:
        buffer = BUFFERS.take(limit)
        content = memoryview(buffer)
        out, count = job.stdout.read_into(request.stdout_offset, content)
        context.send_content(content[:count], functools.partial(BUFFERS.give, buffer))
    response.stdout_offset, response.stderr_offset = out, request.stderr_offset
    if job.stderr.end > request.stderr_offset:
        response.stderr_offset, response.stderr = job.stderr.content(request.stderr_offset, min(limit, MAX_STDERR))
    return response


def write(job: JobAccess, request: pb.JobWriteRequest, context: ServicerContext) -> pb.JobWriteResponse:
    """Serve a Write."""
    if not job.takes_input:
        raise error("WRONG_STATE", f"Job {job.id} was started without input (stdin)", job_id=job.id)
    if request.offset < 0:
        raise error("INVALID_PARAMS", f"offset is {request.offset}: give 0 or more", field="offset")
    content = memoryview(context.content)
    try:
        if context.may_wait:
            until = patience(request.wait, context)
            if request.wait:
                context.add_callback(job.poke)
            with context.waiting():
                job.write(request.offset, content, request.eof, until, context.is_active)
        else:
            _check_wait(request.wait)
            if not job.takes_now(request.offset, len(content)):
                raise NotNow
            job.write(request.offset, content, request.eof, Deadline(0))
    except ValueError as wrong:
        raise error("INVALID_PARAMS", f"offset: {wrong}", field="offset", offset=job.input_offset) from None
    return pb.JobWriteResponse(offset=job.input_offset, closed=job.input_closed)


def judge(policy: CommandPolicy, request: pb.JobStartRequest, limits: LimitsConfig) -> Spec:
    """The job that a request asks for; close it where it is not started. Raises RpcError as
    guest.services.command.prepare does."""
    timeout, log_size = _timeout(request), _log_size(request.log_size)
    size = _size(request.terminal.rows, request.terminal.columns)
    has_terminal = request.HasField("terminal")
    term = (request.terminal.type or "xterm") if has_terminal else ""
    if term and not _TERM.match(term):
        raise error("INVALID_PARAMS", f"terminal.type {term[:64]!r} is not a terminal's name", field="terminal")
    _check_wait(request.wait)
    asked = ResourceLimits(
        _limit("memory_limit", request.memory_limit, MEMORY_LIMITS),
        _limit("process_limit", request.process_limit, PROCESS_LIMITS),
    )
    until = Deadline(_JUDGING_TIME)

    def go_on() -> None:
        if until.expired:
            message = f"It takes more than {_JUDGING_TIME:g} s to judge this command: give it fewer arguments"
            raise error("INVALID_PARAMS", message, field="command")

    command = prepare(policy, request, limits, go_on, Options(request.user, term, request.login_shell))
    return Spec(
        command.run,
        command.shown,
        command.directory,
        command.user_name,
        log_size,
        command.close,
        timeout=timeout,
        run_as=command.user,
        stdin=request.stdin,
        terminal=size if has_terminal else None,
        hold_output=request.hold_output,
        limits=asked.within(ResourceLimits(limits.job_memory, limits.job_processes)),
    )


def job_info(job: LiveJob) -> pb.JobInfo:
    """What is known of a job now."""
    with job.changed:
        status = job.status
        return pb.JobInfo(
            job_id=job.id,
            command=job.spec.shown,
            user=job.spec.user,
            state=pb.JOB_STATE_RUNNING if status is None else pb.JOB_STATE_ENDED,
            exit_code=0 if status is None else status.code,
            signal="" if status is None else status.signal,
            timed_out=job.timed_out,
            out_of_memory=job.out_of_memory,
            failure=job.failure.details() if job.failure else "",
            started_ms=int(job.started * 1000),
            ended_ms=int(job.ended * 1000),
            pid=job.pid,
            terminal=job.spec.terminal is not None,
            stdout_size=job.stdout.end,
            stdout_start=job.stdout.start,
            stderr_size=job.stderr.end,
            stderr_start=job.stderr.start,
            stdin_size=job.input_offset,
            output_ended=job.over,
        )


def _wait(job: JobAccess, asked: float, context: ServicerContext, until: Callable[[], bool]) -> None:
    """Wait until `until()`, for the time asked for at most, or until the caller goes."""
    deadline = patience(asked, context)
    if until() or not asked or not context.add_callback(job.poke):
        return
    with context.waiting():
        job.wait(deadline, lambda: until() or not context.is_active())


def patience(asked: float, context: ServicerContext, since: float | None = None) -> Deadline:
    """How long a call may wait, from now on or `since` (monotonic): what it asks for, within its deadline, with time
    left for the answer."""
    _check_wait(asked)
    left = asked if since is None else asked - (time.monotonic() - since)
    remaining = context.time_remaining()
    return Deadline(max(0.0, left if remaining is None else min(left, remaining - _ANSWER_TIME)))


def _check_wait(asked: float) -> None:
    if not 0 <= asked <= _MAX_WAIT:  # NaN is refused too
        raise error("INVALID_PARAMS", f"wait: {asked:g} is not between 0 and {_MAX_WAIT:g} s", field="wait")


def _timeout(request: pb.JobStartRequest) -> float | None:
    if not request.HasField("timeout"):
        return None
    if not 0 < request.timeout <= MAX_TIMEOUT:
        message = f"timeout: {request.timeout:g} is not more than 0 and at most {MAX_TIMEOUT:g} s"
        raise error("INVALID_PARAMS", message, field="timeout")
    return request.timeout


def _log_size(size: int) -> int:
    if size and size not in LOG_SIZES:
        message = f"log_size: {size} is not between {LOG_SIZES.start} and {LOG_SIZES.stop - 1} bytes"
        raise error("INVALID_PARAMS", message, field="log_size")
    return size or LOG_SIZE


def _limit(field: str, limit: int, allowed: range) -> int | None:
    if limit and limit not in allowed:
        message = f"{field}: {limit} is not between {allowed.start} and {allowed.stop - 1}; 0 is no limit"
        raise error("INVALID_PARAMS", message, field=field)
    return limit or None


def _size(rows: int, columns: int) -> tuple[int, int]:
    for field, value in (("rows", rows), ("columns", columns)):
        if not 0 <= value <= MAX_SIZE:
            raise error("INVALID_PARAMS", f"{field}: {value} is not between 0 and {MAX_SIZE}", field=field)
    return rows or DEFAULT_ROWS, columns or DEFAULT_COLUMNS


def _signal(text: str) -> int:
    if not text:
        raise error("MISSING_REQUIRED", "signal is missing: give a name such as TERM, or a number", field="signal")
    name = text.upper()
    name = name if name.startswith("SIG") else f"SIG{name}"
    if text.isascii() and text.isdigit() and 0 < int(text) < signal.NSIG:
        return int(text)
    try:
        return int(signal.Signals[name])
    except KeyError:
        known = ", ".join(each.name[3:] for each in sorted(signal.Signals))
        raise error("INVALID_PARAMS", f"No such signal: {text[:32]!r} (there are {known})", field="signal") from None


def _check_offset(field: str, offset: int, end: int) -> None:
    if not 0 <= offset <= end:
        message = f"{field} {offset} is not between 0 and {end}, the bytes that were written"
        raise error("INVALID_PARAMS", message, field=field, size=end)
