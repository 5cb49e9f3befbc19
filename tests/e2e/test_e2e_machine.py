"""The commands for the guest as a machine, its units and its journal, as a guest is configured at first."""

from __future__ import annotations

import json
import re

import pytest
from e2e_cli import Cli, Guest


@pytest.mark.parametrize(
    ("argv", "key"),
    [
        (["freeze"], "security.operations.freeze"),
        (["shutdown"], "security.operations.power"),
        (["reboot", "--delay", "60"], "security.operations.power"),
        (["shutdown", "--cancel"], "security.operations.power"),
    ],
)
def test_what_is_off_at_first(cli: Cli, argv: list[str], key: str) -> None:
    done = cli(*argv)
    assert (done.code, done.out) == (4, b"")
    assert f"({key} in the guest's configuration is false)" in done.err


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["time"], r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+ \(UTC[+-]\S+\), [+-]\d+\.\d{3} s from this host's clock\n"),
        (["hostname"], r"\S+\n"),
        (["thaw"], r"nothing was frozen\n"),
        (["top", "-n", "2"], r"PID +USER +CPU% +MEMORY +COMMAND\n(\d+ +\S+ +\d+\.\d +\d+\.\dM +.*\n){2}"),
        (["interfaces"], r"INTERFACE +MAC +ADDRESSES\n(.*\n)*lo .* 127\.0\.0\.1/8.*\n(.*\n)*"),
        (["users"], r"USER +TERMINAL +FROM +SINCE\n(.*\n)*"),
    ],
)
def test_what_is_told(cli: Cli, argv: list[str], shown: str) -> None:
    done = cli(*argv)
    assert (done.code, done.err) == (0, "")
    assert re.fullmatch(shown, done.out.decode()), done.out
    assert set(cli("-r", *argv).json) == {"code", "message", "timestamp", "data"}


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["hostname", "--", "-x"], 2, "'-x' is no host name"),
        (["time", "--hardware"], 2, "--hardware goes with --sync"),
        (["trim", "/proc"], 5, "No file system on a disk is mounted at /proc"),
        (["trim", "--minimum", "-1"], 2, "minimum: -1 is negative"),
        (["top", "-n", "1001"], 2, "limit: 1001 is not between 0 and 1000"),
        (["journal", "--since", "tomorrow"], 2, "--since tomorrow: no such time"),
        (["journal", "-f", "--until", "today"], 2, "--follow goes on for ever"),
    ],
)
def test_mistakes(cli: Cli, argv: list[str], code: int, message: str) -> None:
    done = cli(*argv)
    assert (done.code, done.out) == (code, b"")
    assert message in done.err


def test_a_guest_without_systemd(guest: Guest, any_cli: Cli) -> None:
    if guest.run(["sh", "-c", "test -d /run/systemd/system && echo it has it || true"]):
        return
    for argv in (["journal"], ["units"], ["service", "x", "status"]):
        done = any_cli(*argv)
        assert (done.code, done.out) == (5, b"")
        assert "This guest has no systemd" in done.err


@pytest.mark.systemd
def test_units(cli: Cli) -> None:
    done = cli("units", "systemd-j*")
    assert (done.code, done.err) == (0, "")
    head, *rows = done.out.decode().splitlines()
    assert head.split() == ["UNIT", "STATUS", "SUBSTATE", "DESCRIPTION"]
    assert any(re.fullmatch(r"systemd-journald\.service +running +running +Journal Service", row) for row in rows)
    assert cli("units", "--state", "failed", "systemd-journald").out.decode().splitlines() == [
        "UNIT  STATUS  SUBSTATE  DESCRIPTION"
    ]
    assert "Not a pattern of unit names" in cli("units", "a;b").err


@pytest.mark.systemd
def test_the_state_of_a_service(cli: Cli) -> None:
    """The first line stays what it was; more is for people."""
    lines = cli("service", "systemd-journald", "status", "-v").out.decode().splitlines()
    assert lines[0] == "running"
    assert lines[1].startswith("unit state: running, ")
    assert re.fullmatch(r"main pid: \d+", lines[2])
    assert re.fullmatch(r"memory: \d+\.\d MiB", lines[3])
    assert lines[4] == "last messages:"
    assert all(re.match(r"  \d{4}-\d\d-\d\d .* systemd-journald\[\d+\]: |   ", line) for line in lines[5:])
    shown = cli.on_terminal("service", "systemd-journald", "status")
    assert shown.decode().split("\r\n")[:2] == lines[:2]


@pytest.mark.systemd
def test_the_journal_of_a_service(cli: Cli) -> None:
    done = cli("journal", "-u", "systemd-journald", "-n", "2", "-o", "json")
    assert (done.code, done.err) == (0, "")
    first, second = map(json.loads, done.out.splitlines())
    assert first["unit"] == second["unit"] == "systemd-journald.service"
    assert 0 < first["time_us"] <= second["time_us"]
    texts = cli("journal", "-u", "systemd-journald", "-n", "2", "-o", "cat").out.decode().splitlines()
    assert texts == [first["message"], second["message"]]
    assert cli("journal", "-u", "no-such-unit").out == b""
    assert cli("journal", "-u", "a*").code == 2
