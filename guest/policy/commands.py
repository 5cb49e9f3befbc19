"""Which programs callers may run.

A program is judged by what would be executed: a plain name is looked up on a fixed path, and a name with a slash is
only another spelling of a listed name, or is itself listed. Then its arguments are judged (arguments.py). The same
judgement holds for command lines and for argument vectors.
"""

from __future__ import annotations

import os
import stat
from typing import Callable, Iterable, Mapping, Sequence

from guest.errors import error
from guest.os_errors import printable
from guest.policy.arguments import RULES
from guest.policy.environment import SAFE_PATH, harmless_environment
from guest.policy.getopt import ArgumentRefused
from guest.policy.judge import PathJudge, PathRules, always
from vsrpc.errors import RpcError

DEFAULT_COMMANDS = frozenset(RULES)
"""The list that `security.allowed_commands: []` stands for: commands that look and do not touch."""

_KEY = "security.allowed_commands"
_WAY_OUT = f"{_KEY} in the guest's configuration lists what may run"
_INSTEAD = {
    "cd": "set working_dir of the request instead",
    "export": "set env of the request instead",
    "sudo": "commands run as the daemon's user already",
}


class CommandPolicy:
    """The rules for one list: names, absolute paths, or None for any command. An empty list is the default one."""

    def __init__(self, allowed: Iterable[str] | None, paths: PathRules, login_shell: bool = False) -> None:
        listed = None if allowed is None else frozenset(allowed)
        self._allowed = None if listed is None else listed or DEFAULT_COMMANDS
        self.paths = paths
        self.rule = _KEY if listed else f"{_KEY}: {'null' if listed is None else 'built-in list'}"
        """What allows the commands that are."""
        self.login_shell = login_shell
        """Whether callers may have an interactive shell, in which the list does not hold."""

    @property
    def restricted(self) -> bool:
        """Whether an allow list is in force. If not, command lines are run by a shell."""
        return self._allowed is not None

    def check(self, argv: Sequence[str], directory: str, go_on: Callable[[], None] = always) -> str:
        """The path of the program to execute for `argv` in the directory (absolute); `go_on` as for PathJudge.

        Raises RpcError: PERMISSION_DENIED for a program, an argument or a path that is not allowed; CMD_NOT_FOUND,
        CMD_EXEC_FAILED.
        """
        if self._allowed is None:
            return _find(argv[0], directory)
        name = self._listed_name(argv[0])
        program = _find(argv[0] if argv[0] in self._allowed else name, directory)
        rule = RULES.get(name)
        if rule:
            try:
                rule(argv[1:], PathJudge(self.paths, directory, go_on))
            except ArgumentRefused as refusal:
                raise refused(f"{name} {refusal.argument}", refusal.why, f"arguments of {name}") from None
        return program

    def environment(self, argv: Sequence[str], environment: Mapping[str, str]) -> Mapping[str, str]:
        """What of the environment (command_environment's) the command gets, which `check` has let pass."""
        name = os.path.basename(argv[0])
        # env reads no variable, it shows them.
        return (
            environment
            if self._allowed is None or name not in RULES or name == "env"
            else harmless_environment(environment)
        )

    def _listed_name(self, program: str) -> str:
        assert self._allowed is not None
        name = os.path.basename(program)
        if program in self._allowed or ("/" not in program and lookup(program) in self._allowed):
            return name
        if "/" in program and name in self._allowed and program.startswith("/"):
            # The base name counts too: in BusyBox every program is the same file.
            listed = lookup(name)
            if listed and os.path.realpath(program) == os.path.realpath(listed):
                return name
        raise refused(program, _INSTEAD.get(program, ""))


def refused(what: str, why: str = "", rule: str = _KEY) -> RpcError:
    """The error for what may not run, and the rule that says so."""
    what = printable(what)
    reason = f"{printable(why)}; " if why else ""
    return error(
        "PERMISSION_DENIED", f"Command not allowed: {what} ({reason}{_WAY_OUT})", command=what, rule=printable(rule)
    )


def lookup(name: str) -> str | None:
    """Where a plain name is found on the fixed path, as execvp(3) would find it."""
    for directory in SAFE_PATH.split(":"):
        path = f"{directory}/{name}"
        if is_program(path):
            return path
    return None


def _find(program: str, directory: str) -> str:
    shown = printable(program)
    if "/" not in program:
        path = lookup(program)
        if path is None:
            raise error("CMD_NOT_FOUND", f"Command not found: {shown} (looked in {SAFE_PATH})", command=shown)
        return path
    path = os.path.join(directory, program)
    if not os.path.exists(path):
        raise error("CMD_NOT_FOUND", f"Command not found: {shown} (no such file)", command=shown)
    if not is_program(path):
        raise error("CMD_EXEC_FAILED", f"Cannot execute: {shown} (not an executable file)", command=shown)
    return path


def is_program(path: str) -> bool:
    """Whether a path leads to an executable file."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode) and os.access(path, os.X_OK)
    except OSError:
        return False
