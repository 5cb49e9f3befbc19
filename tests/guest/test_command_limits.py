"""Short command lines that would need much memory or time are refused, or end with their timeout."""

from __future__ import annotations

from pathlib import Path

import pytest
from exec_helpers import Guest

from guest.jobs.script import Script
from guest.jobs.stage import Status
from guest.policy.commands_parser import parse
from vsrpc.errors import RpcError

VALUE = "x" * 100_000


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("echo $A$A", "the word at column 6 has more than 131072 characters"),
        ("echo x >$A$A", "the word at column 9 has more than 131072 characters"),
        ("echo " + "$A " * 25, "the arguments of 'echo' have more than 2097152 characters"),
        ("; ".join(["echo " + "$A " * 15] * 2), "the arguments of all commands have more than 2097152 characters"),
        ("echo " + "*a" * 600, "a glob has more than 1024 characters between two slashes"),
        ("echo /tmp/" + "[!a" * 400 + "*", "a glob has more than 1024 characters between two slashes"),
    ],
)
def test_what_grows_when_it_is_filled_in(tmp_path: Path, command: str, message: str) -> None:
    with pytest.raises(RpcError) as caught:
        Guest(str(tmp_path)).exec(command, env={"A": VALUE})
    assert caught.value.reason == "INVALID_PARAMS"
    assert message in caught.value.details()


class Runner:
    def run(self, stages: object, strict: bool = False) -> Status:
        raise AssertionError("nothing may run")


class Late(Exception):
    pass


@pytest.mark.parametrize("command", ["echo d/*/*/*/x", "ls " + "d/x " * 300, "grep -r x ."])
def test_time_can_be_up_before_anything_runs(tmp_path: Path, command: str) -> None:
    for number in range(200):
        (tmp_path / "d" / str(number)).mkdir(parents=True)
        (tmp_path / "d" / str(number) / "f").touch()
    looks = 0

    def go_on() -> None:
        nonlocal looks
        looks += 1
        if looks > 100:
            raise Late

    policy = Guest(str(tmp_path)).policy
    with pytest.raises(Late):
        Script(policy, {}, str(tmp_path), go_on).run(parse(command), Runner())


def test_a_timeout_counts_from_the_beginning(tmp_path: Path) -> None:
    """Judging is part of the command's time: nobody learns after it what would have been refused."""
    with pytest.raises(RpcError) as caught:
        Guest(str(tmp_path)).exec("ls; rm x", timeout=1e-9)
    assert caught.value.reason == "CMD_TIMEOUT"
