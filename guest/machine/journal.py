"""The journal, through journalctl(1): entries as they come, no more than are asked for, however many there are.

A place in it is a cursor. The one after which to go on need not belong to an entry that the filters let through, nor be
there any more; journalctl's --after-cursor, in some versions, then leaves one out, so --cursor is what is used here.
"""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import time
from dataclasses import dataclass
from typing import Any, Callable, Iterator, Mapping, Sequence

from guest.machine.systemd import DIRECTORIES, TimedOut, Unusable, start

LONGEST_MESSAGE = 64 * 1024
"""Bytes of a message that are given, at most."""

OVERHEAD = 256
"""Bytes that an entry counts for beside its message."""

CURSOR = re.compile(r"[a-z]=[0-9a-f]+(?:;[a-z]=[0-9a-f]+)*\Z")
"""What sd_journal_get_cursor(3) gives: it is opaque, but harmless on a command line."""

_LONGEST_LINE = 4 * 1024 * 1024  # bytes of an entry as JSON; of a longer one only its place is told
_PLACE = re.compile(rb'"__CURSOR" ?: ?"([^"]*)"')
_QUIET = 0.1  # seconds without another entry after which those that came are given

_FIELDS = ("MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "_COMM", "_PID", "SYSLOG_PID", "_SYSTEMD_UNIT", "UNIT")
_LESS_URGENT = 6  # what a message counts as that says nothing: info


@dataclass(frozen=True)
class Query:
    """Which entries: the last `lines` of those that match, or, with a cursor, the first of those after it. Times in
    microseconds since 1970, 0 for none."""

    unit: str = ""
    lines: int | None = None
    since: int = 0
    until: int = 0
    priority: int | None = None
    cursor: str = ""


@dataclass(frozen=True)
class Entry:
    """A message; `size` is that of all of it in bytes."""

    cursor: str
    time_us: int
    unit: str
    identifier: str
    pid: int
    priority: int
    message: bytes
    size: int


@dataclass(frozen=True)
class Part:
    """Entries, the place after them, and whether there was no room for more."""

    entries: Sequence[Entry]
    cursor: str
    more: bool = False


class JournalReader:
    """Runs journalctl. `remaining` and `on_cancel` are those of guest.machine.systemd.Systemctl; `longest`: bytes of a
    message that are given."""

    def __init__(
        self,
        remaining: Callable[[], float],
        on_cancel: Callable[[Callable[[], None]], bool],
        directories: Sequence[str] = DIRECTORIES,
        longest: int = LONGEST_MESSAGE,
    ) -> None:
        self._longest = longest
        self._remaining = remaining
        self._on_cancel = on_cancel
        self._directories = directories

    def read(self, query: Query, room: int, wait: float = 0.0) -> Part:
        """What matches, at most `room` bytes of it but at least one entry; where nothing does, wait for it for so many
        seconds. Raises Unusable, and TimedOut where what is there could not be read in time."""
        cursor = query.cursor
        if cursor and wait and not query.until:
            return self._after(query, cursor, room, wait)
        if not cursor:
            cursor = self._end()  # before the rest is read, so that what is logged meanwhile is not missed
        if cursor and query.lines != 0:
            by_time = query.until and query.lines
            arguments = self._from_last_until(query) if by_time else self._arguments(query)
            if arguments is not None:
                part = self._collect(arguments, query, room, self._remaining(), follow=False)
                if part.entries:
                    return part
        if not wait or query.until:
            return Part((), cursor)
        return self._after(query, cursor, room, wait)

    def _end(self) -> str:
        """The place of the last entry of all; empty where there is none."""
        return self._collect(["--lines=1"], Query(), OVERHEAD, self._remaining(), follow=False).cursor

    def _from_last_until(self, query: Query) -> list[str] | None:
        """What gives the last so many until then, for which journalctl has no way in all versions; None where there
        are none."""
        first, left = "", query.lines or 0
        arguments = self._arguments(Query(query.unit, until=query.until, priority=query.priority))
        for entry in self._entries([*arguments, "--reverse"], self._remaining(), follow=False):
            if 0 < entry.time_us < query.since:
                break
            first, left = entry.cursor, left - 1
            if not left:
                break
        return [*arguments, f"--cursor={first}"] if first else None

    def _after(self, query: Query, cursor: str, room: int, wait: float) -> Part:
        arguments = self._arguments(Query(query.unit, cursor=cursor, priority=query.priority))
        lines = query.lines or None  # 0: of what was there
        patience = min(wait, self._remaining())
        query = Query(query.unit, lines, cursor=cursor)
        return self._collect([*arguments, "--follow", "--no-tail"], query, room, patience, follow=True)

    def _arguments(self, query: Query) -> list[str]:
        arguments = []
        if query.unit:
            arguments.append(f"--unit={query.unit}")
        if query.priority is not None:
            arguments.append(f"--priority={query.priority}")
        if query.until:
            arguments.append(f"--until={_time(query.until)}")
        if query.cursor:
            arguments.append(f"--cursor={query.cursor}")
        else:
            if query.lines is not None:
                arguments.append(f"--lines={query.lines}")
            elif query.since:  # both together mean the first so many since then, in some versions
                arguments.append(f"--since={_time(query.since)}")
        return arguments

    def _collect(self, arguments: Sequence[str], query: Query, room: int, patience: float, *, follow: bool) -> Part:
        entries: list[Entry] = []
        cursor = query.cursor
        for entry in self._entries(arguments, patience, follow):
            if entry.cursor == query.cursor or 0 < entry.time_us < query.since:
                continue
            room -= OVERHEAD + len(entry.message)
            if room < 0 and entries:
                return Part(entries, cursor, more=True)
            entries.append(entry)
            cursor = entry.cursor
            if len(entries) == query.lines:
                break
        return Part(entries, cursor)

    def _entries(self, arguments: Sequence[str], patience: float, follow: bool) -> Iterator[Entry]:
        options = ["--no-pager", "--quiet", "--all", "--output=json", f"--output-fields={','.join(_FIELDS)}"]
        process = start("journalctl", *options, *arguments, directories=self._directories)
        with process:
            try:
                if not self._on_cancel(process.kill):
                    raise TimedOut
                assert process.stdout is not None
                for line in _lines(process.stdout.fileno(), time.monotonic() + patience, follow):
                    entry = _entry(line, self._longest)
                    if entry is not None:
                        yield entry
                if process.poll() is None and not follow:
                    process.wait(max(0.0, patience))
            except subprocess.TimeoutExpired:
                raise TimedOut from None
            finally:
                ended = process.poll()
                process.kill()
            assert process.stderr is not None
            if ended:
                said = process.stderr.read(4096).decode("utf-8", "replace").strip()
                if ended > 0 and said:
                    raise Unusable(said)


def _lines(fd: int, deadline: float, follow: bool) -> Iterator[bytes]:
    """What comes, line by line, of very long ones the beginning. Ends at the end, and with `follow` when nothing comes
    for a moment, or did until the deadline. Raises TimedOut."""
    kept = b""
    cut = False
    came = False
    while True:
        left = deadline - time.monotonic()
        if not select.select([fd], [], [], max(0.0, min(left, _QUIET) if came and follow else left))[0]:
            if follow:
                return
            raise TimedOut
        piece = os.read(fd, 65536)
        if not piece:
            return
        *lines, rest = piece.split(b"\n")
        for line in lines:
            yield kept + line[: max(0, _LONGEST_LINE - len(kept))]
            kept, cut, came = b"", False, True
        if not cut:
            kept += rest
            cut = len(kept) > _LONGEST_LINE


def _entry(line: bytes, longest: int) -> Entry | None:
    try:
        fields = json.loads(line)
    except ValueError:
        place = _PLACE.search(line)
        if place is None:
            return None
        text = b"(a message that is too long to be shown here)"
        return Entry(place.group(1).decode(), 0, "", "", 0, _LESS_URGENT, text, len(line))
    message = _bytes(fields.get("MESSAGE"))
    about = _text(fields, "UNIT") if _text(fields, "_PID") == "1" else ""  # only systemd's word counts
    return Entry(
        cursor=_text(fields, "__CURSOR"),
        time_us=_number(fields, "__REALTIME_TIMESTAMP", 0, 18),
        unit=about or _text(fields, "_SYSTEMD_UNIT"),
        identifier=_text(fields, "SYSLOG_IDENTIFIER") or _text(fields, "_COMM"),
        pid=_number(fields, "_PID", 0) or _number(fields, "SYSLOG_PID", 0),
        priority=_number(fields, "PRIORITY", _LESS_URGENT),
        message=message[:longest],
        size=len(message),
    )


def _bytes(value: Any) -> bytes:
    """A field: text, or the numbers of its bytes where it is none; a list of these where it occurs several times."""
    if isinstance(value, list):
        if value and not all(isinstance(each, int) for each in value):
            return _bytes(value[0])
        return bytes(value)
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else b""


def _text(fields: Mapping[str, Any], name: str) -> str:
    return _bytes(fields.get(name)).decode("utf-8", "replace")


def _number(fields: Mapping[str, Any], name: str, default: int, digits: int = 9) -> int:
    """A field that any program may have set to anything."""
    text = _text(fields, name)
    return int(text) if text.isascii() and text.isdigit() and len(text) <= digits else default


def _time(microseconds: int) -> str:
    return f"@{microseconds // 10**6}.{microseconds % 10**6:06}"
