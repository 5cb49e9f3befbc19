"""Command lines that meet at one port: they take turns, and say for whom they wait."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from e2e_cli import Cli
from port_holders import holder

UNIX = len("unix:")
TOGETHER = 8


@pytest.mark.parametrize("how", ["plain", "debug", "log file"])
def test_who_is_waited_for_is_named(cli: Cli, target: str, tmp_path: Path, how: str) -> None:
    """One line on stderr, wherever the log goes."""
    (tmp_path / "host.yaml").write_text(f"logging: {{file: {tmp_path / 'log'}}}\n")
    options = {"plain": [], "debug": ["-d"], "log file": ["-c", str(tmp_path / "host.yaml")]}[how]
    with holder(target[UNIX:]) as other:
        with cli.start(*options, "-t", "60", "ping", stdout=-1, stderr=-1, text=True) as waiting:
            assert waiting.stdout is not None
            assert waiting.stderr is not None
            said = []
            while not said or "held by" not in said[-1]:
                said.append(waiting.stderr.readline())
                assert said[-1], said
            other.kill()
            said += waiting.stderr.readlines()
            assert "pong" in waiting.stdout.read()
        assert waiting.returncode == 0
    lines = [line for line in said if "held by" in line]
    assert len(lines) == 1, said
    assert lines[0].startswith(f"vsrpc-host: waiting: the port is held by process {other.pid} (")
    assert how == "debug" or said == lines


def test_a_turn_that_does_not_come(cli: Cli, target: str) -> None:
    with holder(target[UNIX:]) as other:
        done = cli("-t", "0.5", "ping")
        assert (done.code, done.err.count("\n")) == (6, 1), done.err
        assert f"held by process {other.pid} (" in done.err
        other.kill_parent()
        done = cli("-t", "0.5", "ping")
        assert (done.code, f"a child that process {other.pid} left behind" in done.err) == (6, True), done.err
    assert cli("-t", "60", "ping").code == 0, "the lock ends with the last process that has it"


def test_many_at_once_all_have_their_turn(cli: Cli) -> None:
    running = [
        cli.start("-t", "90", "exec", f"echo {number}", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for number in range(TOGETHER)
    ]
    ended = [(*process.communicate(timeout=100), process.returncode) for process in running]
    assert [(out, code) for out, _, code in ended] == [(b"%d\n" % number, 0) for number in range(TOGETHER)], ended
    for _, err, _ in ended:
        assert all(line.startswith(b"vsrpc-host: waiting: ") for line in err.splitlines())
