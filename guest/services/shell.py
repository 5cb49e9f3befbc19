"""The Shell service: turns a request into a job, and the job's end into a reply or an error.

Nothing is decided here but what the request's fields mean; policy and execution live in guest.policy and guest.jobs.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from dataclasses import dataclass
from typing import Iterator

from guest.config import LimitsConfig
from guest.errors import error, too_large
from guest.jobs.job import MAX_OUTPUT, CannotExecute, Job, JobCancelled, JobTimeout, Stage, Status
from guest.jobs.script import Judged, Script
from guest.os_errors import file_errors, printable
from guest.policy.commands import CommandPolicy, refused
from guest.policy.commands_parser import has_command, parse
from guest.policy.commands_syntax import CommandRefused, CommandSyntaxError
from guest.policy.environment import command_environment
from guest.policy.paths import Directory
from vsrpc.context import ServicerContext
from vsrpc.errors import RpcError, busy
from vsrpc.v1 import shell_pb2, shell_vsrpc

DEFAULT_TIMEOUT = 30.0
"""Seconds that a command may run when the request does not say."""

MAX_TIMEOUT = 86400.0
"""Seconds: a day. What runs longer is a service."""

DEFAULT_DIRECTORY = "/"
"""Where commands run when the request does not say: the one directory that is there and that everyone may look into."""

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
        _check_one_given(request)
        _check_sizes(request, self._limits)
        timeout = _timeout(request)
        context.extend_deadline(timeout + _KILL_MARGIN)
        environment = command_environment(request.env, self._policy.restricted)
        context.notes["rule"] = self._policy.rule
        with self._slot(), self._directory(request.working_dir) as directory, _command_errors():
            deadline = context.deadline.sooner(timeout)
            job = Job(environment, directory.way, deadline, self._max_output, context.begins)
            try:
                if not context.add_callback(job.cancel):
                    raise JobCancelled
                try:
                    status = self._run(request, job, Script(self._policy, environment, directory.path), directory.path)
                finally:
                    job.finish()
                return _reply(job, status)
            except JobTimeout:
                raise _timed_out(job, timeout, context) from None
            except JobCancelled:
                raise error("CANCELLED", "The caller cancelled the call or left; the command was killed") from None
            finally:
                job.close()

    def explain(self, request: shell_pb2.ExecRequest) -> list[Judged]:
        """What Exec would execute now, command by command; raises RpcError as Exec would. Nothing is run."""
        _check_one_given(request)
        _check_sizes(request, self._limits)
        _timeout(request)
        environment = command_environment(request.env, self._policy.restricted)
        with self._directory(request.working_dir) as directory, _command_errors():
            if request.command and self._policy.restricted:
                return Script(self._policy, environment, directory.path).judge(parse(request.command))
            argv = _argv(request)
            return [Judged(argv, self._policy.check(argv, directory.path))]

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

    def _run(self, request: shell_pb2.ExecRequest, job: Job, script: Script, directory: str) -> Status:
        if request.command and self._policy.restricted:
            return script.run(parse(request.command), job)
        argv = _argv(request)
        program = self._policy.check(argv, directory)
        return job.run([Stage(argv, program)], strict=True)

    @contextlib.contextmanager
    def _directory(self, path: str) -> Iterator[_WorkingDirectory]:
        """The directory, open: commands are judged by, and run in, what was opened, whatever its name means then."""
        path = path or DEFAULT_DIRECTORY
        shown = printable(path)
        if not path.startswith("/") or "\0" in path:
            raise error("INVALID_PARAMS", f"working_dir: {shown} is not an absolute path", field="working_dir")
        try:
            fd, real = self._policy.paths.open_directory(path) if self._policy.restricted else _open(path)
        except RpcError as failure:
            if failure.reason == "FILE_NOT_FOUND":
                raise error("FILE_NOT_FOUND", f"working_dir: no such directory: {shown}", path=shown) from None
            if failure.reason == "WRONG_FILE_TYPE":
                raise error("WRONG_FILE_TYPE", f"working_dir: not a directory: {shown}", path=shown) from None
            raise
        try:
            yield _WorkingDirectory(real, f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)


@dataclass(frozen=True)
class _WorkingDirectory:
    path: str
    way: str
    """Leads to the open directory, also in a child process."""


def _open(path: str) -> Directory:
    if os.path.exists(path) and not os.path.isdir(path):
        raise error("WRONG_FILE_TYPE", f"Not a directory: {printable(path)}")
    with file_errors(path):
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return Directory(fd, path)


@contextlib.contextmanager
def _command_errors() -> Iterator[None]:
    try:
        yield
    except CannotExecute as failure:
        program = printable(failure.program)
        raise error("CMD_EXEC_FAILED", f"Cannot execute: {program} ({failure.why})", command=program) from None
    except CommandRefused as refusal:
        raise refused(refusal.what, refusal.way_out) from None
    except CommandSyntaxError as wrong:
        raise error("INVALID_PARAMS", f"command: {wrong}", field="command") from None


def _argv(request: shell_pb2.ExecRequest) -> list[str]:
    # "--": a command line may begin with "-".
    return ["/bin/sh", "-c", "--", request.command] if request.command else list(request.argv)


def _check_one_given(request: shell_pb2.ExecRequest) -> None:
    if request.command and request.argv:
        raise error("INVALID_PARAMS", "Both command and argv are given: give one of them", field="argv")
    if not has_command(request.command) and not request.argv:
        raise error("MISSING_REQUIRED", "command is missing or empty: give a command line, or argv", field="command")
    if request.argv and not request.argv[0]:
        raise error("INVALID_PARAMS", "argv: the program (the first element) is empty", field="argv")
    if "\0" in request.command or any("\0" in argument for argument in request.argv):
        field = "command" if request.command else "argv"
        raise error("INVALID_PARAMS", f"{field}: there is a NUL character in it", field=field)


def _check_sizes(request: shell_pb2.ExecRequest, limits: LimitsConfig) -> None:
    words = [request.command] if request.command else request.argv
    size = sum(len(word.encode()) + 1 for word in words)  # with a NUL each, as for execve(2)
    if size > limits.argument_size:
        what = "The command" if request.command else "argv"
        raise too_large(what, size, "limits.argument_size", limits.argument_size)
    size = sum(len(f"{name}={value}".encode()) + 1 for name, value in request.env.items())
    if size > limits.environment_size:
        raise too_large("env", size, "limits.environment_size", limits.environment_size)


def _timeout(request: shell_pb2.ExecRequest) -> float:
    timeout = request.timeout if request.HasField("timeout") else DEFAULT_TIMEOUT
    if not 0 < timeout <= MAX_TIMEOUT:  # NaN is refused too
        raise error(
            "INVALID_PARAMS", f"timeout: {timeout:g} is not more than 0 and at most {MAX_TIMEOUT:g} s", field="timeout"
        )
    return timeout


def _reply(job: Job, status: Status) -> shell_pb2.ExecResponse:
    return shell_pb2.ExecResponse(
        exit_code=status.code,
        signal=status.signal,
        stdout=job.stdout.content,
        stderr=job.stderr.content,
        stdout_truncated=job.stdout.truncated,
        stderr_truncated=job.stderr.truncated,
        stdout_size=job.stdout.size,
        stderr_size=job.stderr.size,
        duration_ms=math.ceil(job.duration * 1000),
    )


def _timed_out(job: Job, timeout: float, context: ServicerContext) -> RpcError:
    facts = {
        "timeout": f"{timeout:g}",
        "stdout": job.stdout.content[:_ERROR_OUTPUT].decode("utf-8", "replace"),
        "stderr": job.stderr.content[:_ERROR_OUTPUT].decode("utf-8", "replace"),
    }
    if context.deadline.expired:
        return error(
            "DEADLINE_EXCEEDED",
            f"The call's deadline passed after {job.duration:.1f} s, before the command's timeout of {timeout:g} s; "
            "the command was killed. Give the call a longer deadline than the command",
            **facts,
        )
    return error(
        "CMD_TIMEOUT", f"Command timed out after {timeout:g} s and was killed; give it a longer timeout", **facts
    )
