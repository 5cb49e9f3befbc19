"""What a request asks to run: from its fields to something that runs on a Job, within the policy.

Shell and Job ask for commands in the same way, and the same rules hold for both.
"""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from typing import Callable, Mapping, Protocol, Sequence

from guest.errors import error
from guest.jobs.job import Job, Stage, Status
from guest.jobs.process_tree import User
from guest.jobs.script import Script
from guest.jobs.terminal import with_controlling_terminal
from guest.os_errors import printable
from guest.policy.commands import CommandPolicy, lookup, refused
from guest.policy.commands_parser import has_command, parse
from guest.policy.commands_syntax import CommandLine, CommandRefused, CommandSyntaxError
from guest.policy.environment import command_environment
from guest.policy.judge import PathJudge

DEFAULT_DIRECTORY = "/"
"""Where commands run when the request does not say: the one directory that is there and that everyone may look into."""

MAX_TIMEOUT = 7 * 86400.0
"""Seconds: a week. What runs longer is a service."""


class Request(Protocol):
    """The fields that requests for commands share."""

    command: str
    working_dir: str

    @property
    def argv(self) -> Sequence[str]:
        """Instead of `command`."""

    @property
    def env(self) -> Mapping[str, str]:
        """Variables."""


@dataclass(frozen=True)
class Command:
    """Something to run."""

    run: Callable[[Job], Status]
    """Runs it on a job made with the environment, directory and user below."""
    shown: str
    environment: Mapping[str, str]
    directory: str
    user: User | None = None


@dataclass(frozen=True)
class Options:
    """What only some requests say. `terminal` is TERM's value; "" for no terminal."""

    user: str = ""
    terminal: str = ""
    login_shell: bool = False


def prepare(policy: CommandPolicy, request: Request, options: Options = Options()) -> Command:
    """Judge a request. Raises RpcError: INVALID_PARAMS, MISSING_REQUIRED, FILE_NOT_FOUND for its directory,
    CMD_NOT_FOUND, PERMISSION_DENIED."""
    _check_one_given(request, options.login_shell)
    user = _user(options.user)
    environment = _environment(policy, request, user, options.terminal)
    if options.login_shell:
        return _shell(policy, request, environment, user, options)
    directory = _directory(request.working_dir)
    if policy.restricted:
        PathJudge(policy.paths, "/").metadata(directory)
    try:
        if request.command and policy.restricted:
            line = parse(request.command)
            return _script(policy, line, request.command, environment, directory, user, options)
    except CommandRefused as refusal:
        raise refused(refusal.what, refusal.way_out) from None
    except CommandSyntaxError as wrong:
        raise error("INVALID_PARAMS", f"command: {wrong}", field="command") from None
    # "--": a command line may begin with "-".
    argv = ["/bin/sh", "-c", "--", request.command] if request.command else list(request.argv)
    program = policy.check(argv, directory)
    stage = _with_terminal(Stage(argv, program), options)
    shown = request.command or " ".join(argv)
    return Command(lambda job: job.run([stage], strict=True), shown, environment, directory, user)


def _shell(
    policy: CommandPolicy, request: Request, environment: dict[str, str], user: User | None, options: Options
) -> Command:
    shell = _login_shell(policy, user)
    stage = _with_terminal(Stage([shell, "-l"], shell), options)
    directory = _directory(request.working_dir or environment["HOME"])
    return Command(lambda job: job.run([stage], strict=True), f"{shell} -l", environment, directory, user)


def _script(
    policy: CommandPolicy,
    line: CommandLine,
    text: str,
    environment: Mapping[str, str],
    directory: str,
    user: User | None,
    options: Options,
) -> Command:
    alone = len(line.commands) == 1
    script = Script(policy, environment, directory, (lambda stage: _with_terminal(stage, options)) if alone else None)
    script.judge(line)
    return Command(lambda job: script.run_judged(line, job), text, environment, directory, user)


def _with_terminal(stage: Stage, options: Options) -> Stage:
    if not options.terminal:
        return stage
    setsid = lookup("setsid")
    if setsid is None:
        raise error("NOT_SUPPORTED", "This guest has no setsid (util-linux), which a terminal needs", command="setsid")
    return Stage(with_controlling_terminal(setsid, stage.program, stage.argv), setsid, stage.redirections, True)


def _environment(policy: CommandPolicy, request: Request, user: User | None, terminal: str) -> dict[str, str]:
    environment = command_environment(request.env, policy.restricted)
    if user is not None:
        entry = pwd.getpwuid(user.uid)
        own = {"HOME": entry.pw_dir, "USER": user.name, "LOGNAME": user.name, "SHELL": entry.pw_shell or "/bin/sh"}
        environment = {**environment, **{name: own[name] for name in own if name not in request.env}}
    if terminal:
        environment["TERM"] = request.env.get("TERM", terminal)
        if not policy.restricted:  # people may page as they like
            for name in ("PAGER", "SYSTEMD_PAGER", "SYSTEMD_COLORS"):
                if name not in request.env:
                    environment.pop(name, None)
    return environment


def _directory(path: str) -> str:
    path = path or DEFAULT_DIRECTORY
    shown = printable(path)
    if not path.startswith("/") or "\0" in path:
        raise error("INVALID_PARAMS", f"working_dir: {shown} is not an absolute path", field="working_dir")
    if not os.path.exists(path):
        raise error("FILE_NOT_FOUND", f"working_dir: no such directory: {shown}", path=shown)
    if not os.path.isdir(path):
        raise error("WRONG_FILE_TYPE", f"working_dir: not a directory: {shown}", path=shown)
    return path


def _user(name: str) -> User | None:
    if not name:
        return None
    try:
        entry = pwd.getpwuid(int(name)) if name.isascii() and name.isdigit() else pwd.getpwnam(name)
    except (KeyError, ValueError, OverflowError):
        raise error(
            "INVALID_PARAMS", f"user: no such user in the guest: {printable(name[:64])}", field="user"
        ) from None
    if entry.pw_uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        message = f"user: the daemon runs as user {os.geteuid()}, and only root can start processes of others"
        raise error("PERMISSION_DENIED", message, field="user")
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid, groups)


def _login_shell(policy: CommandPolicy, user: User | None) -> str:
    if policy.restricted and not policy.login_shell:
        message = (
            "An interactive shell can run anything, and is not allowed (security.allowed_commands: null allows it, or "
            "security.login_shell: true)"
        )
        raise error("PERMISSION_DENIED", message, rule="security.login_shell")
    entry = pwd.getpwuid(os.geteuid() if user is None else user.uid)
    shell = entry.pw_shell or "/bin/sh"
    if not os.access(shell, os.X_OK):
        raise error("CMD_EXEC_FAILED", f"The login shell of {entry.pw_name} cannot be executed: {printable(shell)}")
    return shell


def _check_one_given(request: Request, login_shell: bool) -> None:
    if login_shell:
        if request.command or request.argv:
            raise error(
                "INVALID_PARAMS", "login_shell is given beside a command: give one of them", field="login_shell"
            )
        return
    if request.command and request.argv:
        raise error("INVALID_PARAMS", "Both command and argv are given: give one of them", field="argv")
    if not has_command(request.command) and not request.argv:
        raise error("MISSING_REQUIRED", "command is missing or empty: give a command line, or argv", field="command")
    if request.argv and not request.argv[0]:
        raise error("INVALID_PARAMS", "argv: the program (the first element) is empty", field="argv")
    if "\0" in request.command or any("\0" in argument for argument in request.argv):
        field = "command" if request.command else "argv"
        raise error("INVALID_PARAMS", f"{field}: there is a NUL character in it", field=field)
