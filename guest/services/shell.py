"""The Shell service: turns a request into a job, and the job's end into a reply or an error.

Nothing is decided here but what the request's fields mean; policy and execution live in guest.policy and guest.jobs.
"""

from __future__ import annotations

import contextlib
import math
import threading
from typing import Iterator, Sequence

from guest.config import LimitsConfig
from guest.errors import error
from guest.jobs.capture import Capture
from guest.jobs.job import MAX_OUTPUT, Job, JobCancelled, JobTimeout, NoInput
from guest.jobs.script import Judged
from guest.jobs.stage import Status
from guest.policy.commands import CommandPolicy
from guest.services.command import Command, command_errors, prepare
from vsrpc.context import ServicerContext
from vsrpc.deadline import Deadline
from vsrpc.errors import RpcError, busy
from vsrpc.v1 import shell_pb2, shell_vsrpc

DEFAULT_TIMEOUT = 30.0
"""Seconds that a command may run when the request does not say."""

MAX_TIMEOUT = 86400.0
"""Seconds: a day. What runs longer is a job."""

_KILL_MARGIN = 10.0  # seconds beyond the timeout within which the reply is made, killing included

_DEFAULT_LIMITS = LimitsConfig()

_ERROR_OUTPUT = 16 * 1024  # bytes of each output in the data of an error: enough to see what hung


class ShellServicer(shell_vsrpc.ShellServicer):
    """Runs commands within a policy and limits, keeping at most `max_output` bytes of each output."""

    def __init__(
        self, policy: CommandPolicy, max_output: int = MAX_OUTPUT, limits: LimitsConfig = _DEFAULT_LIMITS
    ) -> None:
        self._policy = policy
        self._max_output = max_output
        self._limits = limits
        self._slots = None if limits.commands is None else threading.BoundedSemaphore(limits.commands)

    def Exec(self, request: shell_pb2.ExecRequest, context: ServicerContext) -> shell_pb2.ExecResponse:
        """Run one command to its end."""
        timeout = _timeout(request)
        context.extend_deadline(timeout + _KILL_MARGIN)
        context.notes["rule"] = self._policy.rule
        deadline = context.deadline.sooner(timeout)  # judging counts too

        def go_on() -> None:
            if deadline.expired:
                raise JobTimeout
            if not context.is_active():
                raise JobCancelled

        stdout, stderr = Capture(self._max_output), Capture(self._max_output)
        with contextlib.closing(stdout), contextlib.closing(stderr), self._slot():
            try:
                with prepare(self._policy, request, self._limits, go_on) as command, command_errors():
                    return self._run(command, context, deadline, stdout, stderr)
            except JobTimeout:
                raise _timed_out(timeout, context, stdout, stderr) from None
            except JobCancelled:
                raise error("CANCELLED", "The caller cancelled the call or left; the command was killed") from None

    def _run(
        self, command: Command, context: ServicerContext, deadline: Deadline, stdout: Capture, stderr: Capture
    ) -> shell_pb2.ExecResponse:
        job = Job(command.directory, deadline, stdout, stderr, NoInput(), on_start=context.begins)
        try:
            if not context.add_callback(job.cancel):
                raise JobCancelled
            try:
                status = command.run(job)
            finally:
                job.finish()
            return _reply(job, status, stdout, stderr)
        finally:
            job.close()

    def explain(self, request: shell_pb2.ExecRequest) -> Sequence[Judged]:
        """What Exec would execute now, command by command; raises RpcError as Exec would. Nothing is run."""
        _timeout(request)
        with prepare(self._policy, request, self._limits) as command:
            return command.judged

    @contextlib.contextmanager
    def _slot(self) -> Iterator[None]:
        """One of the commands that may run at a time; raises BUSY."""
        if self._slots is not None and not self._slots.acquire(blocking=False):
            number = self._limits.commands
            raise busy(f"{number} commands run already", "limits.commands", number)
        try:
            yield
        finally:
            if self._slots is not None:
                self._slots.release()


def _timeout(request: shell_pb2.ExecRequest) -> float:
    timeout = request.timeout if request.HasField("timeout") else DEFAULT_TIMEOUT
    if not 0 < timeout <= MAX_TIMEOUT:  # NaN is refused too
        raise error(
            "INVALID_PARAMS", f"timeout: {timeout:g} is not more than 0 and at most {MAX_TIMEOUT:g} s", field="timeout"
        )
    return timeout


def _reply(job: Job, status: Status, stdout: Capture, stderr: Capture) -> shell_pb2.ExecResponse:
    return shell_pb2.ExecResponse(
        exit_code=status.code,
        signal=status.signal,
        stdout=stdout.content,
        stderr=stderr.content,
        stdout_truncated=stdout.truncated,
        stderr_truncated=stderr.truncated,
        stdout_size=stdout.size,
        stderr_size=stderr.size,
        duration_ms=math.ceil(job.duration * 1000),
    )


def _timed_out(timeout: float, context: ServicerContext, stdout: Capture, stderr: Capture) -> RpcError:
    facts = {
        "timeout": f"{timeout:g}",
        "stdout": stdout.content[:_ERROR_OUTPUT].decode("utf-8", "replace"),
        "stderr": stderr.content[:_ERROR_OUTPUT].decode("utf-8", "replace"),
    }
    if context.deadline.expired:
        return error(
            "DEADLINE_EXCEEDED",
            f"The call's deadline passed before the command's timeout of {timeout:g} s; the command was killed. Give "
            "the call a longer deadline than the command",
            **facts,
        )
    return error(
        "CMD_TIMEOUT", f"Command timed out after {timeout:g} s and was killed; give it a longer timeout", **facts
    )
