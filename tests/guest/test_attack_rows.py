"""The tables of attacks on commands, as far as the policy alone decides: nothing is run, and no guest is needed.

On the real VM (tests/vm/test_vm_attacks.py) they all are made, and what comes of them is watched.
"""

from __future__ import annotations

from typing import Sequence

import pytest
from attacks import rows_requests, rows_syntax, rows_system
from attacks.rows import HARMLESS, Attack

from guest.config import GuestConfig
from guest.jobs.script import Script
from guest.jobs.stage import FailedStage, Stage, Status
from guest.policy.commands import CommandPolicy
from guest.policy.commands_parser import parse
from guest.policy.commands_syntax import CommandSyntaxError
from guest.policy.environment import command_environment
from guest.policy.paths import PathPolicy
from vsrpc.errors import RpcError

# Those whose outcome depends on files of the guest, on limits, or on the request's other fields, are left to the VM.
ROWS = [
    row
    for row in (*rows_system.ROWS, *rows_syntax.PROGRAMS, *rows_syntax.SHELL, *rows_requests.ENVIRONMENT)
    if row.expected != HARMLESS and "sysv" not in row.expected and "limits." not in row.expected
]


class Runner:
    def run(self, stages: Sequence[Stage | FailedStage], strict: bool = False) -> Status:
        raise AssertionError("nothing may run")


def attempt(row: Attack) -> None:
    policy = CommandPolicy([], PathPolicy([each.path for each in GuestConfig().security.allowed_paths]))
    fields = row.fields
    environment = command_environment(fields.get("env", {}), restricted=True)
    if "command" in fields:
        Script(policy, environment, fields["working_dir"]).run(parse(fields["command"]), Runner())
    else:
        policy.check(fields["argv"], fields["working_dir"])


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_refused(monkeypatch: pytest.MonkeyPatch, row: Attack) -> None:
    monkeypatch.setattr("guest.policy.commands._find", lambda program, directory: f"/usr/bin/{program}")
    with pytest.raises((RpcError, CommandSyntaxError)) as caught:
        attempt(row)
    error = caught.value
    assert row.expected in (error.details() if isinstance(error, RpcError) else f"Command not allowed: {error}")
