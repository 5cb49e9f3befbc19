"""`vsrpc-host doctor` on guests that answer: all fine, healed, worn, or with a policy that refuses."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Iterator, Sequence

import pytest
from e2e_cli import Cli
from e2e_port import Fault, port, silence, stale_bytes
from port_holders import holder

from host.local import LocalGuest
from vsrpc._version import __version__

UNIX = len("unix:")


@pytest.fixture(scope="module")
def local() -> Iterator[str]:
    """The socket of an embedded guest."""
    with LocalGuest() as guest:
        yield guest.target[UNIX:]


def doctor(path: str, *argv: str) -> tuple[int, list[str]]:
    command = [sys.executable, "-m", "host", "-s", path, "doctor", *argv]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def test_all_fine(any_cli: Cli, target: str) -> None:
    done = any_cli("doctor")
    assert (done.code, done.err) == (0, "")
    lines = done.out.decode().splitlines()
    assert lines[-1] == "verdict  fine: the guest can be called"
    checks = ["socket", "turn", "clients", "guest", "ping", *(["output"] if len(lines) == 8 else []), "policy"]
    # What earlier tests may have cost the VM's port is noted.
    assert [line.split()[:2] for line in lines[:-1] if line.split()[0] != "output"] == [
        [check, "ok"] for check in checks if check != "output"
    ]
    assert [line.split()[0] for line in lines[:-1]] == checks
    assert f"vsrpc-guest/{__version__}, protocol version 1, instance " in lines[3]
    assert re.search(r"round trip \d+\.\d ms", lines[4])

    data = any_cli("-r", "doctor").json["data"]
    assert (data["target"], data["verdict"], data["reason"]) == (target, "fine", "")
    facts = data["facts"]
    assert (facts["agent"], facts["attempts"]) == (f"vsrpc-guest/{__version__}", 1)
    assert 0 <= facts["lost_output"] < 64
    assert len(facts["instance"]) == 32
    assert facts["round_trip_ms"] > 0


def test_local_target() -> None:
    for mode in ([], ["--json"]):
        code, lines = doctor("local:", *mode)
        assert (code, lines[-1]) == (0, "verdict  fine: the guest can be called")


@pytest.mark.parametrize(
    ("faults", "attempts", "fragments"),
    [
        ([silence], 2, ["attempt 2", "no answer in 0."]),
        ([silence, silence], 3, ["attempt 3", "1. no answer in 0.", "2. no answer in 0."]),
        ([stale_bytes], 1, ["the first attempt", "'the end of a reply to somebody else' came before the answer"]),
        ([silence, stale_bytes], 2, ["attempt 2", "1. no answer", "2. 'the end of a reply"]),
    ],
)
def test_wedged_and_healed(
    tmp_path: Path, local: str, faults: Sequence[Fault], attempts: int, fragments: list[str]
) -> None:
    with port(tmp_path / "s", local, faults) as path:
        code, lines = doctor(path)
    assert (code, lines[-1].startswith("verdict  healed: the guest can be called; ")) == (0, True), lines
    for fragment in fragments:
        assert fragment in lines[3]
        assert fragment in lines[-1]


@pytest.mark.parametrize(
    ("lost", "faults", "verdict"),
    [(0, [], "fine"), (5, [], "fine"), (64, [], "output_lost"), (127, [silence], "healed")],
)
def test_lost_output(tmp_path: Path, local: str, lost: int, faults: Sequence[Fault], verdict: str) -> None:
    def edit(answer: bytes) -> bytes:
        fields = b"vsrpc-window: 1048576\r\nvsrpc-lost-output: %d\r\nvsrpc-max-request-size" % lost
        return answer.replace(b"vsrpc-max-request-size", fields)

    with port(tmp_path / "s", local, faults, edit) as path:
        code, lines = doctor(path)
    assert (code, lines[-1].startswith(f"verdict  {verdict}: the guest can be called")) == (0, True), lines
    assert ("allow_rebind" in lines[-1]) == (lost >= 64)
    assert f"{lost or 'none'} of the port's 128 output descriptors" in lines[-3]


@pytest.mark.parametrize("mode", [[], ["--json"]])
def test_a_policy_that_refuses_is_no_defect(monkeypatch: pytest.MonkeyPatch, mode: list[str]) -> None:
    monkeypatch.setattr("host.local._config", lambda: '{"security": {"allowed_commands": ["id"]}}')
    with LocalGuest() as guest:
        code, lines = doctor(guest.target, *mode)
    assert (code, lines[-1].startswith("verdict  refused_by_policy: ")) == (4, True), lines
    assert "Command not allowed: true" in lines[-2]
    assert "security.allowed_commands" in lines[-1]
    assert [line.split()[1] for line in lines[:-1]] == ["ok"] * 5 + ["note"]


def test_held_by_another_client(cli: Cli, target: str) -> None:
    with holder(target[UNIX:]) as other:
        done = cli("doctor", "-t", "0.5")
        lines = done.out.decode().splitlines()
        assert (done.code, lines[-1].startswith("verdict  held: ")) == (6, True), lines
        assert f"held by process {other.pid} (" in lines[-1]
        other.kill_parent()
        done = cli("doctor", "-t", "0.5")
        assert done.code == 6
        assert f"a child that process {other.pid} left behind" in done.out.decode().splitlines()[-1]
        with cli.start("doctor", "-t", "60", stdout=subprocess.PIPE, text=True) as waiting:
            assert waiting.stdout is not None
            assert waiting.stdout.readline().startswith("socket ")
            other.kill()
            lines = waiting.stdout.read().splitlines()
        assert waiting.returncode == 0
        assert lines[0].startswith(("turn     ok     free after ", "turn     ok     free: "))
        assert lines[-1] == "verdict  fine: the guest can be called"
