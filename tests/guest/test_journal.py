"""ServiceManager.Journal, with a journalctl of our own that reads a file; the real one is met in the VM's tests.

Ours understands the options that we use, as the real one does, of all versions: in particular --cursor, which gives the
entry itself as well, and stands for the next one where the filters do not let it through.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from servicer_helpers import context, refused

from guest.config import UNIT_ACTIONS
from guest.policy.units import UnitPolicy
from guest.services.service_manager import ServiceManagerService
from vsrpc.v1 import service_pb2 as pb

ANY = UnitPolicy(None, UNIT_ACTIONS)

_JOURNALCTL = """#!{python}
import json, os, sys, time
options = dict((arg.split("=", 1) + [""])[:2] for arg in sys.argv[1:])
with open("{here}/calls", "a") as calls:
    print(*sys.argv[1:], file=calls)
if os.path.exists("{here}/fails"):
    sys.exit(open("{here}/fails").read())
if os.path.exists("{here}/hangs"):
    open("{here}/pid", "w").write(str(os.getpid()))
    time.sleep(100)
unit, lines = options.get("--unit"), options.get("--lines")
first = int(options.get("--cursor", "i=0").split("=")[1], 16)
least, last = (float(options.get(name, "@" + str(default))[1:]) for name, default in (("--since", 0), ("--until", 9e9)))
follow = "--follow" in options
shown = 0
while True:
    entries = [json.loads(line) for line in open("{here}/journal")]
    entries = [each for each in entries
        if int(each["__CURSOR"].split("=")[1], 16) >= first
        and unit in (None, each.get("_SYSTEMD_UNIT"))
        and each.get("PRIORITY", "6") <= options.get("--priority", "~")
        and least <= int(each["__REALTIME_TIMESTAMP"]) / 1e6 <= last]
    if "--reverse" in options:
        entries = entries[::-1]
    if lines is not None:
        entries = entries[-int(lines):] if int(lines) else []
    for each in entries[shown:]:
        print(json.dumps(each), flush=True)
    shown = len(entries)
    if not follow:
        break
    time.sleep(0.01)
"""


class Guest:
    """A guest whose journal is a file."""

    def __init__(self, here: Path, policy: UnitPolicy = ANY, max_reply: int = 10 << 20) -> None:
        self.here = here
        script = _JOURNALCTL.replace("{here}", str(here)).replace("{python}", sys.executable)
        systemctl = '#!/bin/sh\nfor unit; do :; done\n[ $unit = www.service ] && unit=web.service\necho "Id=$unit"\n'
        for name, text in (("journalctl", script), ("systemctl", systemctl)):
            (here / name).write_text(text)
            (here / name).chmod(0o755)
        (here / "journal").touch()
        self.count = 0
        self.service = ServiceManagerService(policy, (str(here),), lambda: True, max_reply)

    def log(self, message: Any, unit: str = "web.service", priority: int = 6, **fields: Any) -> int:
        """Add an entry; its number, which is also its time in seconds."""
        self.count += 1
        entry = {
            "__CURSOR": f"i={self.count:x}",
            "__REALTIME_TIMESTAMP": str(self.count * 10**6),
            "MESSAGE": message,
            "PRIORITY": str(priority),
            "_SYSTEMD_UNIT": unit,
            "SYSLOG_IDENTIFIER": "prog",
            "_PID": "7",
            **fields,
        }
        line = json.dumps({name: value for name, value in entry.items() if value is not None}) + "\n"
        with (self.here / "journal").open("a") as stream:
            stream.write(line)
        return self.count

    def read(self, call: Any = None, **fields: Any) -> pb.JournalResponse:
        return self.service.Journal(pb.JournalRequest(**fields), call or context())

    def texts(self, **fields: Any) -> list[str]:
        return [entry.message.decode() for entry in self.read(**fields).entries]


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path)


@pytest.fixture
def full(guest: Guest) -> Guest:
    for number in range(1, 9):
        guest.log(str(number), "web.service" if number % 2 else "db.service", number % 8)
    return guest


def test_an_entry(guest: Guest) -> None:
    guest.log("über\nzwei")
    reply = guest.read()
    assert list(reply.entries) == [
        pb.JournalEntry(
            cursor="i=1",
            time_us=10**6,
            unit="web.service",
            identifier="prog",
            pid=7,
            priority=6,
            message="über\nzwei".encode(),
            message_size=10,
        )
    ]
    assert (reply.cursor, reply.more) == ("i=1", False)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([0, 255, 10], b"\x00\xff\n"),
        (None, b""),
        (["first", "second"], b"first"),
        ([[1, 2], "second"], b"\x01\x02"),
        ("", b""),
        (12, b""),
    ],
)
def test_messages_of_any_form(guest: Guest, value: Any, expected: bytes) -> None:
    guest.log(value)
    assert guest.read().entries[0].message == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"SYSLOG_IDENTIFIER": None, "_COMM": "comm"}, ("web.service", "comm", 7, 6)),
        ({"_PID": None, "SYSLOG_PID": "9"}, ("web.service", "prog", 9, 6)),
        ({"_PID": "1", "UNIT": "about.service"}, ("about.service", "prog", 1, 6)),
        ({"UNIT": "forged.service"}, ("web.service", "prog", 7, 6)),
        ({"PRIORITY": "9999999999", "_PID": "4294967296"}, ("web.service", "prog", 0, 6)),
        ({"PRIORITY": "x", "_PID": "-1"}, ("web.service", "prog", 0, 6)),
        ({"_SYSTEMD_UNIT": None, "PRIORITY": None}, ("", "prog", 7, 6)),
    ],
)
def test_who_says_it(guest: Guest, fields: dict[str, Any], expected: tuple[str, str, int, int]) -> None:
    guest.log("text", **fields)
    entry = guest.read().entries[0]
    assert (entry.unit, entry.identifier, entry.pid, entry.priority) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "1 2 3 4 5 6 7 8"),
        ({"lines": 3}, "6 7 8"),
        ({"lines": 0}, ""),
        ({"unit": "web", "lines": 2}, "5 7"),
        ({"unit": "www"}, "1 3 5 7"),
        ({"unit": "none"}, ""),
        ({"priority": 2}, "1 2 8"),
        ({"priority": 0}, "8"),
        ({"since_us": 6_000_000}, "6 7 8"),
        ({"since_us": 6_000_000, "lines": 2}, "7 8"),
        ({"since_us": 6_000_000, "lines": 7}, "6 7 8"),
        ({"until_us": 3_000_000}, "1 2 3"),
        ({"until_us": 3_000_000, "lines": 2}, "2 3"),
        ({"since_us": 3_000_000, "until_us": 4_000_000, "lines": 7}, "3 4"),
        ({"until_us": 500_000, "lines": 2}, ""),
        ({"until_us": 3_000_000, "wait": 60}, "1 2 3"),
        ({"until_us": 500_000, "wait": 60}, ""),
        ({"after_cursor": "i=6"}, "7 8"),
        ({"after_cursor": "i=5", "unit": "db"}, "6 8"),
        ({"after_cursor": "i=2", "lines": 2}, "3 4"),
        ({"after_cursor": "i=8"}, ""),
    ],
)
def test_what_is_asked_for(full: Guest, fields: dict[str, Any], expected: str) -> None:
    assert full.texts(**fields) == expected.split()


def test_times_before_now(guest: Guest) -> None:
    now = int(time.time() * 1e6)
    guest.log("old", __REALTIME_TIMESTAMP=str(now - 7_200_000_000))
    guest.log("new", __REALTIME_TIMESTAMP=str(now - 1_800_000_000))
    assert guest.texts(since_us=-3_600_000_000) == ["new"]
    assert guest.texts(until_us=-3_600_000_000) == ["old"]


def test_the_rest_of_what_does_not_fit_in_a_reply(guest: Guest) -> None:
    for number in range(20):
        guest.log(f"{number:04}" * 100)
    got, cursor = [], ""
    while True:
        reply = guest.read(after_cursor=cursor, max_bytes=2000)
        assert 1 <= len(reply.entries) <= 3
        got += [int(entry.message[:4]) for entry in reply.entries]
        cursor = reply.cursor
        if not reply.more:
            break
    assert got == list(range(20))
    assert len(guest.read(max_bytes=1).entries) == 1  # it goes on, whatever there is room for


def test_long_messages_are_cut(tmp_path: Path) -> None:
    guest = Guest(tmp_path)
    guest.log("x" * 100_000)
    guest.log("y" * 5_000_000)
    guest.log("after")
    cut, huge, after = guest.read().entries
    assert (len(cut.message), cut.message_size) == (65536, 100_000)
    assert (huge.cursor, huge.message_size > len(huge.message)) == ("i=2", True)
    assert (after.cursor, after.message) == ("i=3", b"after")
    small = ServiceManagerService(ANY, (str(tmp_path),), lambda: True, 65536)
    reply = small.Journal(pb.JournalRequest(), context())
    assert (len(reply.entries), len(reply.entries[0].message)) == (1, 4096)


def test_waiting_for_what_is_to_come(full: Guest) -> None:
    reply = full.read(lines=0, unit="web")
    assert reply.cursor == "i=8"

    def later() -> None:
        while "--follow" not in (full.here / "calls").read_text():
            time.sleep(0.01)
        full.log("not it", "db.service")
        full.log("new")

    thread = threading.Thread(target=later)
    thread.start()
    try:
        came = full.read(unit="web", after_cursor=reply.cursor, wait=60)
    finally:
        thread.join()
    assert [entry.message for entry in came.entries] == [b"new"]
    assert came.cursor == "i=a"
    reply = full.read(unit="web", after_cursor=came.cursor, wait=0.1)
    assert (list(reply.entries), reply.cursor) == ([], came.cursor)


def test_what_is_there_is_not_waited_for(full: Guest) -> None:
    assert full.texts(after_cursor="i=7", wait=60) == ["8"]
    assert full.texts(lines=1, wait=60) == ["8"]


def test_a_wait_ends_with_the_calls_time(full: Guest) -> None:
    assert list(full.read(context(1), after_cursor="i=8", wait=60).entries) == []


def test_an_empty_journal(guest: Guest) -> None:
    assert guest.read() == pb.JournalResponse()
    assert guest.read(wait=0.1) == pb.JournalResponse()


def test_a_caller_who_leaves_ends_the_program(guest: Guest) -> None:
    (guest.here / "hangs").touch()
    call = context(60)

    def leave() -> None:
        while not (guest.here / "pid").exists() or not (guest.here / "pid").read_text():
            time.sleep(0.01)
        call.cancel()

    thread = threading.Thread(target=leave)
    thread.start()
    try:
        guest.read(call, after_cursor="i=1", wait=60)
    finally:
        thread.join()
    assert not os.path.exists(f"/proc/{(guest.here / 'pid').read_text()}")


def test_what_takes_too_long(guest: Guest) -> None:
    (guest.here / "hangs").touch()
    failure = refused("DEADLINE_EXCEEDED", lambda: guest.read(context(1)))
    assert failure.details() == "The journal could not be read in time: ask for less of it"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"unit": "-x"}, "Not a service: '-x'"),
        ({"unit": "a*"}, "Not a service: 'a*'"),
        ({"lines": -1}, "lines: -1 is not between"),
        ({"priority": 8}, "priority: 8 is not between 0 and 7"),
        ({"priority": -1}, "priority: -1"),
        ({"after_cursor": "--rotate"}, "after_cursor: '--rotate' is not a place in the journal"),
        ({"after_cursor": "s=1\n"}, "after_cursor: "),
        ({"since_us": 2**62}, "since_us: "),
        ({"until_us": -(2**62)}, "until_us: "),
        ({"wait": -1}, "wait: -1 is not between"),
        ({"wait": float("nan")}, "wait: nan"),
        ({"max_bytes": -1}, "max_bytes: -1"),
        ({"max_bytes": 2**21}, "max_bytes: 2097152 is not between 0 and 1048576"),
    ],
)
def test_mistakes(guest: Guest, fields: dict[str, Any], message: str) -> None:
    assert message in refused("INVALID_PARAMS", lambda: guest.read(**fields)).details()
    assert not (guest.here / "calls").exists()


def test_a_journal_that_cannot_be_read(guest: Guest) -> None:
    (guest.here / "fails").write_text("Failed to open files: Too many")
    failure = refused("NOT_SUPPORTED", guest.read)
    assert failure.details() == "The journal cannot be read: Failed to open files: Too many"
    (guest.here / "journalctl").unlink()
    assert "journalctl is not installed" in refused("NOT_SUPPORTED", guest.read).details()
    guest.service = ServiceManagerService(ANY, (str(guest.here),), lambda: False)
    assert "and so no journal" in refused("NOT_SUPPORTED", guest.read).details()


def test_whose_messages_may_be_read(tmp_path: Path) -> None:
    guest = Guest(tmp_path, UnitPolicy(["web"], ["status"]))
    guest.log("text")
    guest.log("secret", "db.service")
    call = context()
    assert [entry.message for entry in guest.read(call, unit="www").entries] == [b"text"]
    assert call.notes["rule"] == "security.allowed_units: web"
    assert "Service not allowed: db.service" in refused("PERMISSION_DENIED", lambda: guest.read(unit="db")).details()
    failure = refused("PERMISSION_DENIED", guest.read)
    way_out = "name a unit (security.allowed_units in the guest's configuration is not null)"
    assert failure.details() == f"The whole journal is not allowed: {way_out}"
    assert failure.data["rule"] == "security.allowed_units"
    guest.service = ServiceManagerService(UnitPolicy(None, ["start"]), (str(tmp_path),), lambda: True)
    refused("PERMISSION_DENIED", lambda: guest.read(unit="web"))
