"""The Job service where a keeper runs the jobs (guest.keeper): what comes is judged here, and passed on. What a job
writes and reads goes straight from and into its memory (guest.jobs.sharing)."""

from __future__ import annotations

import copy
import subprocess
import threading
from typing import Any, Callable

from guest.config import LimitsConfig
from guest.errors import error
from guest.jobs.memory import NAP
from guest.jobs.sharing import socket_beside
from guest.jobs.store import LEAVING
from guest.jobs.view import JobView, MemoryClient
from guest.keeper import SOCKET, UNIT
from guest.policy.commands import CommandPolicy
from guest.services.job import attend, has_output, judge, patience, read, wait_for_output, write
from vsrpc.bulk import BulkMethod, bulk
from vsrpc.channel import Channel, ChannelOptions
from vsrpc.context import NotNow, ServicerContext, at_once
from vsrpc.errors import RpcError
from vsrpc.transports import connector
from vsrpc.v1 import error_pb2, job_vsrpc
from vsrpc.v1 import job_pb2 as pb
from vsrpc.v1.error_tables import ERROR_CODES

_REASONS = {entry.number: entry.reason for entry in ERROR_CODES}

_START_TIME = 30.0  # seconds for systemd to start the keeper
_CONNECT_TIME = 5.0  # seconds
_IDLE_TIME = 10.0  # seconds without a call after which the keeper is left: a connection costs CPU time
_READ_AT_ONCE = 65536  # bytes of output
_ATTEMPTS = 3  # to start a job: the keeper may be about to leave, and the next one's start waits for that

# Why a call did not get to the keeper.
_ABSENT = frozenset(("CONNECTION_REFUSED", "CONNECTION_LOST", "READ_TIMEOUT"))


def start_unit() -> None:
    """Have systemd start the keeper, and wait until it serves. Raises OSError, SubprocessError."""
    command = ["systemctl", "start", UNIT]
    subprocess.run(command, check=True, timeout=_START_TIME, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)


class JobProxy(job_vsrpc.JobServicer):
    """Serves Job by calls to the keeper at `path`, which `start` starts."""

    def __init__(
        self,
        policy: CommandPolicy,
        limits: LimitsConfig,
        max_reply: int,
        path: str = SOCKET,
        start: Callable[[], None] = start_unit,
    ) -> None:
        self._policy = policy
        self._limits = limits
        self._max_content = max_reply // 2
        self._start = start
        self._memory = MemoryClient(socket_beside(path))
        self._starting = threading.Lock()
        name, connect = connector(f"unix:{path}")
        options = ChannelOptions(
            connect_timeout=_CONNECT_TIME, max_retries=0, read_timeout=None, idle_timeout=_IDLE_TIME
        )
        self._channel = Channel(name, connect, options)
        self._methods = {
            method.name: self._channel.bulk(BulkMethod(method, request=request, response=response))
            for method, request, response in (
                (job_vsrpc.JOB_START, "", ""),
                (job_vsrpc.JOB_READ, "", "stdout"),
                (job_vsrpc.JOB_WRITE, "content", ""),
                (job_vsrpc.JOB_SIGNAL, "", ""),
                (job_vsrpc.JOB_RESIZE, "", ""),
                (job_vsrpc.JOB_WAIT, "", ""),
                (job_vsrpc.JOB_LIST, "", ""),
                (job_vsrpc.JOB_FORGET, "", ""),
            )
        }

    def stop(self) -> None:
        """Leave the keeper; its jobs go on."""
        self._memory.close()
        self._channel.close()

    def Start(self, request: pb.JobStartRequest, context: ServicerContext) -> Any:
        """Judge it, and have the keeper start it, which is started first if need be."""
        context.notes["rule"] = self._policy.rule
        judge(self._policy, request, self._limits).close()
        context.begins()
        for attempt in range(_ATTEMPTS):
            try:
                response = self._pass_on("Start", request, context)
                break
            except RpcError as failure:
                leaving = LEAVING in failure.data or (failure.reason in _ABSENT and failure.not_run)
                if not leaving or attempt == _ATTEMPTS - 1:
                    raise
            self._start_keeper()
        context.notes["job_id"] = response.job.job_id
        self._memory.expect(response.job.job_id)
        return response

    @at_once
    @bulk(response="stdout")
    def Read(self, request: pb.JobReadRequest, context: ServicerContext) -> Any:
        """Read output."""
        view: JobView | None = context.kept
        if view is None or view.over or not has_output(view, request):  # else it has waited for what is there now
            view = self._memory.view(request.job_id, ask=context.may_wait)
            if view is not None:
                attend(view, request)
                if context.may_wait:
                    wait_for_output(view, request, context)
                else:
                    context.kept = view
                    _await_output(view, request, context)
        if view is not None:
            response = pb.JobReadResponse()
            if _describe(view, response.job):
                if not context.may_wait and _output(response.job, request) >= _READ_AT_ONCE:
                    raise NotNow
                response = read(view, request, context, response, self._max_content)
                if not view.closed:
                    return response
        if not context.may_wait:
            raise NotNow
        return self._of_job("Read", request, context)

    @at_once
    @bulk(request="content")
    def Write(self, request: pb.JobWriteRequest, context: ServicerContext) -> Any:
        """Write input."""
        view = self._memory.view(request.job_id, ask=context.may_wait)
        if view is not None and not view.over:
            response = write(view, request, context)
            if not view.closed:
                return response
        if not context.may_wait:
            raise NotNow
        return self._of_job("Write", request, context)

    def Signal(self, request: pb.JobSignalRequest, context: ServicerContext) -> Any:
        """Send a signal."""
        return self._of_job("Signal", request, context)

    def Resize(self, request: pb.JobResizeRequest, context: ServicerContext) -> Any:
        """Change the terminal's size."""
        return self._of_job("Resize", request, context)

    def Wait(self, request: pb.JobWaitRequest, context: ServicerContext) -> Any:
        """Wait for the end."""
        return self._of_job("Wait", request, context)

    def List(self, request: pb.JobListRequest, context: ServicerContext) -> pb.JobListResponse:
        """All jobs."""
        try:
            response: pb.JobListResponse = self._pass_on("List", request, context)
            return response
        except RpcError as failure:
            if failure.reason not in _ABSENT:
                raise
            return pb.JobListResponse()  # no keeper, no jobs

    def Forget(self, request: pb.JobForgetRequest, context: ServicerContext) -> pb.JobForgetResponse:
        """Drop a job."""
        try:
            response: pb.JobForgetResponse = self._pass_on("Forget", request, context)
        except RpcError as failure:
            if failure.reason not in _ABSENT:
                raise
            response = pb.JobForgetResponse(job_id=request.job_id)
        self._memory.forget(request.job_id)
        return response

    def _of_job(self, name: str, request: Any, context: ServicerContext) -> Any:
        try:
            return self._pass_on(name, request, context)
        except RpcError as failure:
            if failure.reason not in _ABSENT:
                raise
            message = f"No such job: {request.job_id[:64]!r} (what runs jobs in this guest has ended, and they with it)"
            raise error("JOB_NOT_FOUND", message, job_id=request.job_id[:64]) from failure

    def _pass_on(self, name: str, request: Any, context: ServicerContext) -> Any:
        call = self._methods[name].future((request, context.content), timeout=context.time_remaining())
        if not context.add_callback(lambda: _cancel(call)):
            call.cancel()
        try:
            with context.waiting():
                response, content = call.result()
        except RpcError as failure:
            # The call knows it: its traceback would keep the call, and what the context has, in memory.
            raise _as_ours(failure) from failure.with_traceback(None)
        context.send_content(content)
        return response

    def _start_keeper(self) -> None:
        with self._starting:
            try:
                self._start()
            except (OSError, subprocess.SubprocessError) as failure:
                said = getattr(failure, "stderr", None) or str(failure).encode()
                message = f"{UNIT}, which runs jobs, cannot be started: {said.decode(errors='replace').strip()}"
                raise error("SERVICE_UNAVAILABLE", message) from failure


def _await_output(view: JobView, request: pb.JobReadRequest, context: ServicerContext) -> None:
    """Raises NotNow while there is none, and time to wait for it."""
    listen = view.watch_output()
    if not has_output(view, request):
        until = patience(request.wait, context, since=context.began)
        if not until.expired:
            raise NotNow(listen, until.sooner(NAP))


def _output(info: pb.JobInfo, request: pb.JobReadRequest) -> int:
    """Bytes of output that are there."""
    return info.stdout_size - request.stdout_offset + info.stderr_size - request.stderr_offset


def _describe(view: JobView, info: pb.JobInfo) -> bool:
    """Fill in what is known of a job; False where only the keeper knows."""
    if view.over:
        ending = view.ending
        info.MergeFromString(ending)
        return bool(ending)
    info.MergeFromString(view.info)
    info.pid = view.pid
    info.stdout_start, info.stdout_size, info.stderr_start, info.stderr_size, info.stdin_size = view.sizes
    return True


def _as_ours(failure: RpcError) -> RpcError:
    """The keeper's error as one of our own: with its reason and its facts."""
    for detail in failure.error_details:
        if detail.type == error_pb2.ErrorDetail.DESCRIPTOR.full_name:
            parsed = error_pb2.ErrorDetail.FromString(detail.value)
            return RpcError(failure.code(), failure.details(), reason=_REASONS[parsed.code], data=dict(parsed.data))
    return copy.copy(failure)


def _cancel(call: Any) -> None:
    call.cancel()
