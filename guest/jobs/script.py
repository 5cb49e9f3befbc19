"""Runs a parsed command line as a job, without a shell, within the policy.

The whole line is judged before anything of it runs, and each command again when its turn comes: a glob may by then
match other files. What is judged is the argument vector that is executed.
"""

from __future__ import annotations

import os
from typing import Callable, Mapping, NamedTuple, Protocol, Sequence

from guest.jobs import redirect
from guest.jobs.expand import MAX_ARGUMENTS, Expander, too_long
from guest.jobs.stage import CANNOT_EXECUTE, NOT_FOUND, Copy, FailedStage, OpenFile, Stage, Status
from guest.policy.commands import CommandPolicy
from guest.policy.commands_syntax import CommandLine, Condition, Duplication, SimpleCommand, Word
from guest.policy.judge import PathJudge, always
from vsrpc.errors import RpcError

_EXIT_CODES = {"CMD_NOT_FOUND": NOT_FOUND, "CMD_EXEC_FAILED": CANNOT_EXECUTE}
_REDIRECTION_FAILED = 1


class Judged(NamedTuple):
    """A command that is allowed: its arguments, and the program's path; "" for one that is not there."""

    argv: list[str]
    program: str


class Runner(Protocol):
    """What runs pipelines: a Job."""

    def run(self, stages: Sequence[Stage | FailedStage], strict: bool = False) -> Status:
        """Run one pipeline to its end."""


class Script:
    """Judges and runs command lines in one environment and one directory (absolute); `go_on` as for PathJudge."""

    def __init__(
        self,
        policy: CommandPolicy,
        environment: Mapping[str, str],
        directory: str,
        go_on: Callable[[], None] = always,
        adapt: Callable[[Stage], Stage] | None = None,
    ) -> None:
        """`adapt` changes how a judged command is executed."""
        self._policy = policy
        self._adapt = adapt
        self._environment = environment
        self._directory = directory
        self._go_on = go_on
        self._expander = Expander(environment, PathJudge(policy.paths, directory, go_on))

    def run(self, line: CommandLine, runner: Runner) -> Status:
        """Run the line; the status is that of the pipeline that ran last.

        Raises RpcError when the policy refuses any part of it, and what `runner` raises. A program that is not there
        is an error if it is the only command of the line; in a longer one it exits with 127, as in a shell.
        """
        self.judge(line)
        return self.run_judged(line, runner)

    def run_judged(self, line: CommandLine, runner: Runner) -> Status:
        """`run`, after `judge`."""
        alone = len(line.commands) == 1
        status = Status(0)
        for step in line.steps:
            if step.condition is Condition.IF_SUCCESS and status.code != 0:
                continue
            if step.condition is Condition.IF_FAILURE and status.code == 0:
                continue
            status = runner.run(self._stages(step.pipeline.commands, alone), strict=alone)
        return status

    def judge(self, line: CommandLine) -> list[Judged]:
        """Every command of the line as it would be executed now; raises RpcError as `run` does."""
        alone = len(line.commands) == 1
        judged: list[Judged] = []
        size = 0
        for command in line.commands:
            judged.append(self._judge(command, alone))
            size += sum(map(len, judged[-1].argv))
            if size > MAX_ARGUMENTS:
                raise too_long("the arguments of all commands have", MAX_ARGUMENTS)
        return judged

    def _judge(self, command: SimpleCommand, alone: bool) -> Judged:
        argv = self._expander.arguments(command)
        program = ""
        try:
            program = self._policy.check(argv, self._directory, self._go_on)
        except RpcError as failure:
            if alone or failure.reason not in _EXIT_CODES:
                raise
        for redirection in command.redirections:
            if not isinstance(redirection, Duplication):
                try:
                    redirect.check(self._policy.paths, self._path(redirection.target), redirection.mode)
                except RpcError as failure:
                    if failure.reason == "PERMISSION_DENIED":
                        raise
        return Judged(argv, program)

    def _stages(self, commands: Sequence[SimpleCommand], alone: bool) -> list[Stage | FailedStage]:
        stages: list[Stage | FailedStage] = []
        try:
            for command in commands:
                stages.append(self._stage(command, alone))
        except BaseException:
            for stage in stages:
                stage.close()
            raise
        return stages

    def _stage(self, command: SimpleCommand, alone: bool) -> Stage | FailedStage:
        argv = self._expander.arguments(command)
        try:
            program = self._policy.check(argv, self._directory, self._go_on)
        except RpcError as failure:
            if alone or failure.reason not in _EXIT_CODES:
                raise
            return FailedStage(_EXIT_CODES[failure.reason], failure.details())
        environment = self._policy.environment(argv, self._environment)
        opened: list[OpenFile | Copy] = []
        try:
            for redirection in command.redirections:
                if isinstance(redirection, Duplication):
                    opened.append(Copy(redirection.fd, redirection.source))
                else:
                    path = self._path(redirection.target)
                    file = redirect.open_file(self._policy.paths, path, redirection.mode)
                    opened.append(OpenFile(redirection.fd, file))
        except BaseException as failure:
            Stage(argv, program, environment, tuple(opened)).close()
            if isinstance(failure, RpcError) and failure.reason != "PERMISSION_DENIED":
                return FailedStage(_REDIRECTION_FAILED, failure.details())
            raise
        stage = Stage(argv, program, environment, tuple(opened))
        return self._adapt(stage) if self._adapt else stage

    def _path(self, target: Word) -> str:
        return os.path.join(self._directory, self._expander.text(target))
