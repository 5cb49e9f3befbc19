"""Readers for the head of a message: start line and field section. Nothing here knows what a body is.

A reader's contract: ``read(data)`` looks at the unparsed input and returns its result and removes what it
consumed, or returns None when more input is needed (nothing removed, nothing scanned twice), or raises
RemoteProtocolError. The start line is judged as soon as it ends, so that a peer that speaks no HTTP/1.1 at
all hears of it at once; the fields are judged together.
"""

from __future__ import annotations

from typing import Callable, Generic, NoReturn, Pattern, TypeVar

from . import grammar
from .errors import RemoteProtocolError, shown
from .headers import Headers
from .limits import Limits

S = TypeVar("S")

_STOPS = {
    b"\n": "a bare LF; lines end with CRLF",
    b"\r": "a bare CR; lines end with CRLF",
}


def _refuse_byte(data: bytearray, end: int) -> NoReturn:
    """The byte before ``end`` may not be in a head: say so, and quote its line up to it."""
    bad = bytes(data[end - 1 : end])
    line = data[data.rfind(b"\n", 0, end - 1) + 1 : end]
    cause = _STOPS.get(bad, f"the control character {shown(bad)}")
    raise RemoteProtocolError(f"line {shown(line[-40:])} contains {cause}")


class _Scanner:
    """Finds the end of one element, resuming where the last call stopped: linear in the input."""

    def __init__(self, stop: Pattern[bytes], end: bytes) -> None:
        self._stop = stop
        self._end = end
        self._scanned = 0

    def find(self, data: bytearray, limit: int) -> int | None:
        """Where the end mark begins, if that is at most ``limit`` bytes in; None if it has not come yet.

        Raises RemoteProtocolError for a byte that may not be in the element. That the limit is passed is
        known (and the same for every split of the input) once ``limit + len(end)`` bytes are there
        without a result; the caller then asks ``len(data)``.
        """
        bound = min(len(data), limit + len(self._end))
        found = self._stop.search(data, self._scanned, bound)
        if found is None:
            self._scanned = max(0, bound - len(self._end) + 1)
            return None
        if found.end() - found.start() < len(self._end):
            _refuse_byte(data, found.end())
        self._scanned = 0
        return found.start()


class SectionReader:
    """Reads a field section: the fields of a head, or the trailers of a chunked body.

    The section is taken from the CRLF that ends the line before it to its own empty line, so that the end
    mark is the same whether there are fields or none. ``limit``: bytes up to the empty line.
    """

    def __init__(self, limit: int, max_headers: int) -> None:
        self._max_headers = max_headers
        self._scanner = _Scanner(grammar.SECTION_STOP, grammar.SECTION_END)
        self.limit = limit

    def read(self, data: bytearray) -> Headers | None:
        end = self._scanner.find(data, self.limit)
        if end is None:
            if len(data) >= self.limit + len(grammar.SECTION_END):
                raise RemoteProtocolError(
                    f"the header fields are longer than {self.limit} bytes: send fewer or shorter ones", 431
                )
            return None
        text = data[2 : end + 2].decode("latin-1")
        del data[: end + 4]
        return self._parse(text)

    def _parse(self, text: str) -> Headers:
        count = text.count("\n")
        if count > self._max_headers:
            raise RemoteProtocolError(f"{count} header fields are more than the limit of {self._max_headers}", 431)
        fields = grammar.FIELD_LINES.findall(text)
        if len(fields) != count:
            _refuse_field(text.split("\r\n")[:-1])
        return Headers.parsed([(name.lower(), value.rstrip(" \t")) for name, value in fields])


def _refuse_field(lines: list[str]) -> NoReturn:
    """Name the first malformed line of a section that has one."""
    line = next(line for line in lines if not grammar.FIELD_LINES.fullmatch(line + "\r\n"))
    name, colon, _ = line.partition(":")
    if line[0] in " \t":
        cause = "begins with white space: folded lines are obsolete (RFC 9112 5.2)"
    elif not colon:
        cause = "has no colon"
    elif not name:
        cause = "has an empty name"
    elif name[-1] in " \t":
        cause = "has white space before the colon (RFC 9112 5.1)"
    else:
        cause = f"has the name {shown(name)}, which is not a token (RFC 9110 5.6.2)"
    raise RemoteProtocolError(f"header line {shown(line)} {cause}")


class HeadReader(Generic[S]):
    """Reads heads, one after another: start line (parsed by ``parse_start``) and fields."""

    def __init__(self, parse_start: Callable[[str], S], limits: Limits, max_empty_lines: int) -> None:
        self._parse_start = parse_start
        self._limits = limits
        self._max_empty_lines = max_empty_lines
        self._line = _Scanner(grammar.LINE_STOP, grammar.LINE_END)
        self._section = SectionReader(limits.max_head, limits.max_headers)
        self._next()

    def _next(self) -> None:
        """A new head; the scanners are fit for one once they have found an end."""
        self._empty_lines = 0
        self._start: S | None = None
        self._fields: SectionReader | None = None

    @property
    def fresh(self) -> bool:
        """Nothing of a message, nor an empty line before it, has been taken."""
        return self._fields is None and not self._empty_lines

    @property
    def started(self) -> bool:
        """A start line has been taken whose fields are still to come."""
        return self._fields is not None

    def read(self, data: bytearray) -> tuple[S, Headers] | None:
        if self._fields is None and not self._read_start(data):
            return None
        assert self._fields is not None
        headers = self._fields.read(data)
        if headers is None:
            return None
        assert self._start is not None
        head = self._start, headers
        self._next()
        return head

    def _read_start(self, data: bytearray) -> bool:
        limits = self._limits
        while True:
            end = self._line.find(data, limits.max_line)
            if end is None:
                if len(data) >= limits.max_line + len(grammar.LINE_END):
                    raise RemoteProtocolError(
                        f"the first line {shown(data)} is longer than {limits.max_line} bytes: "
                        "send the parameters in the body",
                        414,
                    )
                return False
            if end > 0:
                break
            if self._empty_lines == self._max_empty_lines:
                raise RemoteProtocolError(f"more than {self._max_empty_lines} empty line(s) before a message")
            self._empty_lines += 1
            del data[:2]
        line = data[:end].decode("latin-1")
        self._start = self._parse_start(line)
        # The section reader wants the CRLF of this line too.
        del data[:end]
        self._section.limit = limits.max_head - end
        self._fields = self._section
        return True
