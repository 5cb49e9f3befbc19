"""Calling the Shell service in a test: real policy, real processes, no transport."""

from __future__ import annotations

from typing import Sequence

from guest.policy.commands import CommandPolicy
from guest.policy.paths import PathPolicy
from guest.services.shell import ShellServicer
from vsrpc.context import ServicerContext
from vsrpc.deadline import Deadline
from vsrpc.v1 import shell_pb2

_DOCUMENTED = (
    "ls cat echo head tail grep find wc df du free top ps uptime date hostname uname whoami id pwd env which file stat "
    "md5sum sha256sum ip ss netstat ping systemctl journalctl sleep true false"
)
SPEC_COMMANDS = _DOCUMENTED.split()


def new_context(seconds: float = 60) -> ServicerContext:
    return ServicerContext("/vsrpc.v1.Shell/Exec", "test", Deadline(seconds))


class Guest:
    """A Shell service over one directory: all of the guest that may be read and written."""

    def __init__(self, directory: str, allowed: Sequence[str] | None = (), max_output: int = 100_000) -> None:
        self.directory = directory
        self.policy = CommandPolicy(allowed, PathPolicy([directory]))
        self._servicer = ShellServicer(self.policy, max_output)

    def exec(
        self, command: str = "", *, context: ServicerContext | None = None, **fields: object
    ) -> shell_pb2.ExecResponse:
        fields.setdefault("working_dir", self.directory)
        request = shell_pb2.ExecRequest(command=command, **fields)  # type: ignore[arg-type]
        return self._servicer.Exec(request, context or new_context())
