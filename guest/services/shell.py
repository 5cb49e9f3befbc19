"""The Shell service: turns a request into a job, and the job's end into a reply or an error.

Nothing is decided here but what the request's fields mean; policy and execution live in guest.policy and guest.jobs.
"""

from __future__ import annotations

import math
import os
from typing import Mapping

from guest.errors import error
from guest.jobs.job import MAX_OUTPUT, CannotExecute, Job, JobCancelled, JobTimeout, Stage, Status
from guest.jobs.script import Script
from guest.os_errors import printable
from guest.policy.commands import CommandPolicy, refused
from guest.policy.commands_parser import has_command, parse
from guest.policy.commands_syntax import CommandRefused, CommandSyntaxError
from guest.policy.environment import command_environment
from guest.policy.judge import PathJudge
from vsrpc.context import ServicerContext
from vsrpc.errors import RpcError
from vsrpc.v1 import shell_pb2, shell_vsrpc

DEFAULT_TIMEOUT = 30.0
"""Seconds that a command may run when the request does not say."""

MAX_TIMEOUT = 86400.0
"""Seconds: a day. What runs longer is a service."""

DEFAULT_DIRECTORY = "/"
"""Where commands run when the request does not say: the one directory that is there and that everyone may look into."""

_KILL_MARGIN = 10.0  # seconds beyond the timeout within which the reply is made, killing included

_ERROR_OUTPUT = 16 * 1024  # bytes of each output in the data of an error: enough to see what hung


class ShellServicer(shell_vsrpc.ShellServicer):
    """Runs commands within a policy, keeping at most `max_output` bytes of each output."""

    def __init__(self, policy: CommandPolicy, max_output: int = MAX_OUTPUT) -> None:
        self._policy = policy
        self._max_output = max_output

    def Exec(self, request: shell_pb2.ExecRequest, context: ServicerContext) -> shell_pb2.ExecResponse:
        """Run one command to its end."""
        _check_one_given(request)
        timeout = _timeout(request)
        context.extend_deadline(timeout + _KILL_MARGIN)
        directory = self._directory(request.working_dir)
        environment = command_environment(request.env, self._policy.restricted)
        job = Job(directory, context.deadline.sooner(timeout), self._max_output)
        try:
            if not context.add_callback(job.cancel):
                raise JobCancelled
            try:
                status = self._run(request, job, environment, directory)
            finally:
                job.finish()
            return _reply(job, status)
        except JobTimeout:
            raise _timed_out(job, timeout, context) from None
        except JobCancelled:
            raise error("CANCELLED", "The caller cancelled the call or left; the command was killed") from None
        except CannotExecute as failure:
            program = printable(failure.program)
            raise error("CMD_EXEC_FAILED", f"Cannot execute: {program} ({failure.why})", command=program) from None
        except CommandRefused as refusal:
            raise refused(refusal.what, refusal.way_out) from None
        except CommandSyntaxError as wrong:
            raise error("INVALID_PARAMS", f"command: {wrong}", field="command") from None
        finally:
            job.close()

    def _run(self, request: shell_pb2.ExecRequest, job: Job, environment: Mapping[str, str], directory: str) -> Status:
        if request.command and self._policy.restricted:
            return Script(self._policy, environment, directory, job.check).run(parse(request.command), job)
        # "--": a command line may begin with "-".
        argv = ["/bin/sh", "-c", "--", request.command] if request.command else list(request.argv)
        program = self._policy.check(argv, directory, job.check)
        return job.run([Stage(argv, program, self._policy.environment(argv, environment))], strict=True)

    def _directory(self, path: str) -> str:
        path = path or DEFAULT_DIRECTORY
        shown = printable(path)
        if not path.startswith("/") or "\0" in path:
            raise error("INVALID_PARAMS", f"working_dir: {shown} is not an absolute path", field="working_dir")
        if self._policy.restricted:
            PathJudge(self._policy.paths, "/").metadata(path)
        if not os.path.exists(path):
            raise error("FILE_NOT_FOUND", f"working_dir: no such directory: {shown}", path=shown)
        if not os.path.isdir(path):
            raise error("WRONG_FILE_TYPE", f"working_dir: not a directory: {shown}", path=shown)
        return path


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
