"""What a request asks to run: from its fields to something that runs on a Job, within the policy.

Shell and Job ask for commands in the same way, and the same rules hold for both.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from dataclasses import dataclass
from types import TracebackType
from typing import Callable, Iterator, Mapping, Protocol, Sequence

from guest.config import LimitsConfig
from guest.errors import error, too_large
from guest.jobs.job import CannotExecute, Job
from guest.jobs.process_tree import User
from guest.jobs.script import Judged, Script
from guest.jobs.stage import Stage, Status
from guest.jobs.terminal import with_controlling_terminal
from guest.os_errors import file_errors, printable
from guest.policy.commands import CommandPolicy, lookup, refused
from guest.policy.commands_parser import has_command, parse
from guest.policy.commands_syntax import CommandRefused, CommandSyntaxError
from guest.policy.environment import command_environment
from guest.policy.judge import always
from guest.policy.paths import Directory
from vsrpc.errors import RpcError

DEFAULT_DIRECTORY = "/"
"""Where commands run when the request does not say: the one directory that is there and that everyone may look into."""


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
class Options:
    """What only some requests say. `terminal` is TERM's value; "" for no terminal."""

    user: str = ""
    terminal: str = ""
    login_shell: bool = False


@dataclass(frozen=True)
class Command:
    """Something to run: a context manager, since its directory is open until the last process was started."""

    run: Callable[[Job], Status]
    """Runs it on a job made with the directory and user below."""
    judged: Sequence[Judged]
    shown: str
    user_name: str
    directory: str
    """Leads to the open directory, also in a child process: what was judged, whatever its name means by now."""
    close: Callable[[], None]
    user: User | None = None

    def __enter__(self) -> Command:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def prepare(
    policy: CommandPolicy,
    request: Request,
    limits: LimitsConfig,
    go_on: Callable[[], None] = always,
    options: Options = Options(),
) -> Command:
    """Judge a request; `go_on` is called often meanwhile, and raises when time is up.

    Raises RpcError: INVALID_PARAMS, MISSING_REQUIRED, TOO_LARGE, FILE_NOT_FOUND for its directory, CMD_NOT_FOUND,
    PERMISSION_DENIED.
    """
    _check_one_given(request, options.login_shell)
    _check_sizes(request, limits)
    user = _user(options.user)
    environment = _environment(policy, request, user, options.terminal)
    directory = _directory(policy, request.working_dir, environment["HOME"] if options.login_shell else "")
    way = f"/proc/self/fd/{directory.fd}"
    try:
        with command_errors():
            run, judged, shown = _judge(policy, request, environment, directory.real, user, go_on, options)
    except BaseException:
        os.close(directory.fd)
        raise
    return Command(run, judged, shown, environment["USER"], way, lambda: os.close(directory.fd), user)


def _judge(
    policy: CommandPolicy,
    request: Request,
    environment: Mapping[str, str],
    directory: str,
    user: User | None,
    go_on: Callable[[], None],
    options: Options,
) -> tuple[Callable[[Job], Status], Sequence[Judged], str]:
    if request.command and policy.restricted:
        line = parse(request.command)
        # Of several, none can be the one to which the terminal's keys belong.
        alone = len(line.commands) == 1
        adapt = (lambda stage: _on_terminal(stage, options)) if alone else None
        judged = Script(policy, environment, directory, go_on).judge(line)

        def run(job: Job) -> Status:
            return Script(policy, environment, directory, job.check, adapt).run_judged(line, job)

        return run, judged, request.command
    if options.login_shell:
        argv = [_login_shell(policy, user), "-l"]
        program = argv[0]
    else:
        # "--": a command line may begin with "-".
        argv = ["/bin/sh", "-c", "--", request.command] if request.command else list(request.argv)
        program = policy.check(argv, directory, go_on)
    stage = _on_terminal(Stage(argv, program, policy.environment(argv, environment)), options)
    shown = request.command or " ".join(argv)
    return (lambda job: job.run([stage], strict=True)), [Judged(argv, program)], shown


@contextlib.contextmanager
def command_errors() -> Iterator[None]:
    """Turns what parsing and running raise into RpcErrors."""
    try:
        yield
    except CannotExecute as failure:
        program = printable(failure.program)
        raise error("CMD_EXEC_FAILED", f"Cannot execute: {program} ({failure.why})", command=program) from None
    except CommandRefused as refusal:
        raise refused(refusal.what, refusal.way_out) from None
    except CommandSyntaxError as wrong:
        raise error("INVALID_PARAMS", f"command: {wrong}", field="command") from None


def _on_terminal(stage: Stage, options: Options) -> Stage:
    if not options.terminal:
        return stage
    setsid = lookup("setsid")
    if setsid is None:
        raise error("NOT_SUPPORTED", "This guest has no setsid (util-linux), which a terminal needs", command="setsid")
    argv = with_controlling_terminal(setsid, stage.program, stage.argv)
    return Stage(argv, setsid, stage.environment, stage.redirections, makes_session=True)


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


def _directory(policy: CommandPolicy, path: str, home: str) -> Directory:
    """The directory, open: commands are judged by, and run in, what was opened. `home`: a login shell's, not judged."""
    path = path or home or DEFAULT_DIRECTORY
    shown = printable(path)
    if not path.startswith("/") or "\0" in path:
        raise error("INVALID_PARAMS", f"working_dir: {shown} is not an absolute path", field="working_dir")
    try:
        return policy.paths.open_directory(path) if policy.restricted and not home else _open(path)
    except RpcError as failure:
        if failure.reason == "FILE_NOT_FOUND":
            raise error("FILE_NOT_FOUND", f"working_dir: no such directory: {shown}", path=shown) from None
        if failure.reason == "WRONG_FILE_TYPE":
            raise error("WRONG_FILE_TYPE", f"working_dir: not a directory: {shown}", path=shown) from None
        raise


def _open(path: str) -> Directory:
    if os.path.exists(path) and not os.path.isdir(path):
        raise error("WRONG_FILE_TYPE", f"Not a directory: {printable(path)}")
    with file_errors(path):
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return Directory(fd, path)


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
            "An interactive shell can run anything, and is not allowed (security.login_shell in the guest's "
            "configuration; allowed_commands: null allows it too)"
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


def _check_sizes(request: Request, limits: LimitsConfig) -> None:
    words = [request.command] if request.command else request.argv
    size = sum(len(word.encode()) + 1 for word in words)  # with a NUL each, as for execve(2)
    if size > limits.argument_size:
        what = "The command" if request.command else "argv"
        raise too_large(what, size, "limits.argument_size", limits.argument_size)
    size = sum(len(f"{name}={value}".encode()) + 1 for name, value in request.env.items())
    if size > limits.environment_size:
        raise too_large("env", size, "limits.environment_size", limits.environment_size)
