"""`vsrpc-guest explain`: asks the policy what the servicers would ask it, and prints what it decides.

No rule stands here; no command is run, and nothing is changed.
"""

from __future__ import annotations

import shlex
from typing import Any, Callable, Iterable

from guest import subcommands
from guest.config import GuestConfig
from guest.os_errors import printable
from guest.policies import policies
from guest.services.service_manager import ServiceManagerService
from guest.services.shell import ShellServicer
from vsrpc.errors import RpcError
from vsrpc.v1 import file_pb2, service_pb2, shell_pb2
from vsrpc.v1.file_vsrpc import FILE_DOWNLOAD, FILE_STAT, FILE_UPLOAD
from vsrpc.v1.service_vsrpc import SERVICE_MANAGER_CONTROL
from vsrpc.v1.shell_vsrpc import SHELL_EXEC

_EXIT_CODES = {
    "PERMISSION_DENIED": subcommands.EXIT_REFUSED,
    "INVALID_PARAMS": subcommands.EXIT_USAGE,
    "MISSING_REQUIRED": subcommands.EXIT_USAGE,
}


class Explainer:
    """Answers questions about one configuration. Each method prints the answer and returns the exit code."""

    def __init__(self, config: GuestConfig, config_file: str) -> None:
        self._policy = policies(config, config_file)
        self._limits = config.limits

    def command(self, line: str, directory: str) -> int:
        """Whether Exec may run a command line in a directory ("" for the default one), and what it would execute."""
        shell = ShellServicer(self._policy.commands, limits=self._limits)
        request = shell_pb2.ExecRequest(command=line, working_dir=directory)

        def ask() -> tuple[str, Iterable[str]]:
            self._policy.switches.check(SHELL_EXEC.path, request)
            judged = shell.explain(request)
            lines = (f"{each.program or 'not installed'}: {shlex.join(each.argv)}" for each in judged)
            return self._policy.commands.rule, lines

        return _answer("", ask)

    def path(self, path: str, accesses: Iterable[str]) -> int:
        """Whether File's calls may read, write or look at what a path names."""
        questions: dict[str, tuple[str, Any, Callable[[str], str]]] = {
            "read": (FILE_DOWNLOAD.path, file_pb2.DownloadRequest(path=path), self._policy.paths.check_read),
            "write": (FILE_UPLOAD.path, file_pb2.UploadRequest(path=path), self._policy.paths.check_write),
            "metadata": (FILE_STAT.path, file_pb2.StatRequest(path=path), self._policy.paths.check_metadata),
        }

        def ask(access: str) -> int:
            rpc, request, check = questions[access]

            def decide() -> tuple[str, Iterable[str]]:
                self._policy.switches.check(rpc, request)
                return check(path), ()

            return _answer(f"{access}: ", decide)

        return max([ask(access) for access in accesses], key=_SEVERITY.index)

    def service(self, name: str, action: str) -> int:
        """Whether ServiceManager may do something with a service, and which unit that is."""
        manager = ServiceManagerService(self._policy.units)
        request = service_pb2.ControlRequest(name=name, action=action)

        def ask() -> tuple[str, Iterable[str]]:
            self._policy.switches.check(SERVICE_MANAGER_CONTROL.path, request)
            unit, rule = manager.explain(request)
            return rule, [f"{action} {unit}"]

        return _answer("", ask)


_SEVERITY = (
    subcommands.EXIT_OK,
    subcommands.EXIT_IMPOSSIBLE,
    subcommands.EXIT_REFUSED,
    subcommands.EXIT_USAGE,
)


def _answer(label: str, ask: Callable[[], tuple[str, Iterable[str]]]) -> int:
    try:
        rule, details = ask()
    except RpcError as failure:
        code = _EXIT_CODES.get(failure.reason, subcommands.EXIT_IMPOSSIBLE)
        if code == subcommands.EXIT_REFUSED:
            print(f"{label}refused by {failure.data.get('rule', 'the operating system')}")
        else:
            print(f"{label}{'invalid' if code == subcommands.EXIT_USAGE else 'would fail'}")
        print(f"  {failure.details()}")
        return code
    print(f"{label}allowed by {rule}")
    for each in details:
        print(f"  {printable(each)}")
    return subcommands.EXIT_OK
