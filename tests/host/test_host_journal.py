"""Reading and following a guest's journal from here, by a guest of our own; and what the command line makes of it."""

from __future__ import annotations

import base64
import time
from typing import Any, Iterator, Mapping

import pytest

from host.backend import Reply
from host.cli.parser import CommandLineError, parse
from host.cli.units import _as_json, _moment, _short, _text
from host.errors import RPCError, UsageError, failure
from host.journal import WAIT, RemoteJournal


class Guest:
    """Answers as it is told: an entry's number each, and whether there is more, or an error."""

    def __init__(self, *answers: tuple[list[int], bool] | RPCError) -> None:
        self._answers = iter(answers)
        self.asked: list[dict[str, Any]] = []
        self.cursor = ""
        self.lost: list[str] = []
        self.journal = RemoteJournal(self, patience=60, on_lost=self.lost.append, sleep=lambda seconds: None)

    def give_way(self) -> None:
        """Nobody else waits."""

    def reply(self, service: str, rpc: str, fields: Mapping[str, Any], timeout: float | None = None) -> Reply:
        assert (service, rpc) == ("ServiceManager", "Journal")
        assert timeout is None or timeout > fields.get("wait", 0)
        self.asked.append(dict(fields))
        answer = next(self._answers, KeyboardInterrupt)
        if answer is KeyboardInterrupt:
            raise KeyboardInterrupt
        if isinstance(answer, RPCError):
            raise answer
        assert isinstance(answer, tuple)
        numbers, more = answer
        self.cursor = f"i={numbers[-1]}" if numbers else self.cursor
        entries = [{"cursor": f"i={number}", "message": str(number), "time_us": 0} for number in numbers]
        return Reply({"entries": entries, "cursor": self.cursor, "more": more}, b"")


def numbers(entries: Iterator[Mapping[str, Any]]) -> list[int]:
    got = []
    try:
        for entry in entries:
            got.append(int(entry["message"]))
    except KeyboardInterrupt:
        got.append(-1)
    return got


def test_what_does_not_fit_is_asked_for_again() -> None:
    guest = Guest(([1, 2], True), ([3], True), ([4], False))
    assert numbers(guest.journal.entries({"since_us": 5, "unit": "u"}, None, False)) == [1, 2, 3, 4]
    assert guest.asked == [
        {"since_us": 5, "unit": "u"},
        {"unit": "u", "after_cursor": "i=2"},
        {"unit": "u", "after_cursor": "i=3"},
    ]


def test_no_more_lines_than_wanted() -> None:
    guest = Guest(([1, 2], True), ([3], True))
    assert numbers(guest.journal.entries({}, 3, False)) == [1, 2, 3]
    assert guest.asked == [{"lines": 3}, {"lines": 1, "after_cursor": "i=2"}]


def test_what_is_followed_goes_on() -> None:
    guest = Guest(([1], False), ([], False), ([2, 3], True), ([4], False))
    assert numbers(guest.journal.entries({"priority": 3}, 1, True)) == [1, 2, 3, 4, -1]
    assert guest.asked[0] == {"priority": 3, "lines": 1}
    waits = [{"priority": 3, "after_cursor": f"i={number}", "wait": WAIT} for number in (1, 1, 3, 4)]
    assert guest.asked[1:] == waits


def test_a_broken_link_is_waited_for_once_it_is_followed() -> None:
    lost = failure("CONNECTION_LOST", "gone")
    guest = Guest(([1], False), lost, lost, ([2], False), lost, ([3], False))
    assert numbers(guest.journal.entries({}, 1, True)) == [1, 2, 3, -1]
    assert guest.lost == ["gone", "gone"]
    assert [each.get("after_cursor") for each in guest.asked] == [None, "i=1", "i=1", "i=1", "i=2", "i=2", "i=3"]


@pytest.mark.parametrize(
    ("answers", "follow", "patience"),
    [
        ((failure("CONNECTION_LOST", "x"),), True, 60),
        ((([1], False), failure("PERMISSION_DENIED", "x")), True, 60),
        ((([1], False), failure("CONNECTION_LOST", "x"), failure("CONNECTION_LOST", "x")), True, -1),
        ((failure("CONNECTION_LOST", "x"),), False, 60),
    ],
)
def test_what_is_not_waited_for(answers: Any, follow: bool, patience: float) -> None:
    guest = Guest(*answers)
    journal = RemoteJournal(guest, patience, sleep=lambda seconds: None)
    with pytest.raises(RPCError):
        list(journal.entries({}, 1, follow))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1h", -3600),
        ("-1h", -3600),
        ("90s", -90),
        ("10min ago", -600),
        ("1.5 hours ago", -5400),
        ("2 days ago", -172800),
        ("1w", -604800),
        ("@1700000000.5", 1700000000.5),
        ("1970-01-02 00:00:01", 86401),
        ("1970-01-02T00:00:02", 86402),
        ("1970-01-02", 86400),
        ("today", 20 * 86400),
        ("yesterday", 19 * 86400),
        ("06:30", 20 * 86400 + 6 * 3600 + 1800),
        ("06:30:01", 20 * 86400 + 6 * 3600 + 1801),
        ("now", -1e-6),
        ("tomorrow", None),
        ("1x", None),
        ("", None),
        ("25:00", None),
    ],
)
def test_times(text: str, seconds: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    try:
        if seconds is None:
            with pytest.raises(UsageError, match="no such time; write "):
                _moment("since", text, 20.5 * 86400)
        else:
            assert _moment("since", text, 20.5 * 86400) == round(seconds * 1e6)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    try:
        entry = {"time_us": 86400_123456, "identifier": "prog", "pid": 7, "message": b"one\ntwo\n", "message_size": 8}
        assert _short(entry) == "1970-01-02 00:00:00.123 prog[7]: one\n" + " " * 33 + "two"
        assert _short({**entry, "pid": 0, "message": b"x", "message_size": 10}).endswith(" prog: x ... (9 bytes more)")
        assert _text({**entry, "message": b"\xff", "message_size": 1}).encode("utf-8", "surrogateescape") == b"\xff"
        assert _as_json({**entry, "message": b"\xff\n"}) == (
            '{"time_us": 86400123456, "identifier": "prog", "pid": 7, "message": "\\ufffd\\n", "message_size": 8}'
        )
    finally:
        monkeypatch.undo()
        time.tzset()


def test_exact_bytes_beside_text() -> None:
    class Binary(Guest):
        def reply(self, *arguments: Any) -> Reply:
            encoded = base64.b64encode(b"\xff\0").decode()
            entry = {"message": "\ufffd\0", "message_base64": encoded, "message_invalid_utf8": True}
            return Reply({"entries": [entry], "cursor": "i=1", "more": False}, b"")

    (entry,) = Binary().journal.entries({}, None, False)
    assert entry["message"] == b"\xff\0"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["-n", "-1"], "'-1' is not a number of lines, or all"),
        (["-n", "x"], "'x' is not a number of lines, or all"),
        (["-p", "8"], "'8' is not a priority: emerg, alert"),
        (["-o", "xml"], "invalid choice"),
    ],
)
def test_command_lines_that_are_wrong(argv: list[str], message: str) -> None:
    with pytest.raises(CommandLineError, match=message):
        parse(["journal", *argv])


@pytest.mark.parametrize(("text", "priority"), [("err", 3), ("error", 3), ("warn", 4), ("0", 0), ("debug", 7)])
def test_priorities(text: str, priority: int) -> None:
    assert parse(["journal", "-p", text]).priority == priority
