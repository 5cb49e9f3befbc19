"""What the commands write: JSON, bytes, one-line messages, a progress bar. Nothing here knows a call.

Text may come from a guest that means harm. Whatever a terminal obeys is shown, not sent to it; only the output of a
command goes through as it is, like that of ssh.
"""

from __future__ import annotations

import json
import re
import sys
from types import TracebackType
from typing import Any, Collection, Iterator, Sequence

from host.cli.parser import PROG, line_width
from host.transfer_options import SMALL_FILE

_BAR_WIDTH = 30

# Control characters (ISO/IEC 6429: C0, DEL, C1), and what reorders or breaks lines (Unicode Standard Annex 9, Zl, Zp).
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def printable(text: str, keep: str = "") -> str:
    """The text with what a terminal obeys written as \\x1b and the like; those in `keep` stay."""
    return _OBEYED.sub(lambda m: m.group() if m.group() in keep else ascii(m.group())[1:-1], text)


def write_bytes(stream: Any, data: bytes) -> None:
    """Bytes to sys.stdout or sys.stderr as they are; a stream that was closed by the caller takes none."""
    if stream is None or not data:
        return
    stream.flush()
    stream.buffer.write(data)
    stream.buffer.flush()


def print_line(text: str, keep: str = "") -> None:
    """A line on stdout, in UTF-8 whatever the locale; names that are no UTF-8 come out as they were given."""
    write_bytes(sys.stdout, _encoded(printable(text, keep)) + b"\n")


def print_bare(text: str) -> None:
    """Some lines on stdout, at once, as one is: nothing but their ends is obeyed by a terminal."""
    write_bytes(sys.stdout, _encoded(printable(text, keep="\n\t")) + b"\n")


def print_json(value: Any) -> None:
    """JSON for people and programs, in UTF-8."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    text = _OBEYED.sub(lambda m: m.group() if m.group() == "\n" else f"\\u{ord(m.group()):04x}", text)
    write_bytes(sys.stdout, _encoded(text) + b"\n")


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows in columns, each as wide as it must be; on a terminal no longer than its lines."""
    most = line_width() if sys.stdout is not None and sys.stdout.isatty() else None
    for line in columns([header, *([" ".join(cell.split()) for cell in row] for row in rows)]):
        print_line(line.rstrip()[:most])


def columns(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> Iterator[str]:
    """Rows with their cells below each other, those of the columns `right` at the right; the last one as it is."""
    widths = [max(map(len, column)) for column in zip(*rows)][:-1]
    for row in rows:
        cells = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        )
        yield "  ".join([*cells, row[-1]])


def complain(kind: str, message: str) -> None:
    """One line on stderr: "vsrpc-host: error: …"."""
    line = " ".join(message.split())
    write_bytes(sys.stderr, _encoded(f"{PROG}: {kind}: {printable(line)}\n"))


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a pair of surrogates, which JSON can carry
        return text.encode("utf-8", "backslashreplace")


class TransferProgress:
    """Tells of a large file: a message on stdout, and a bar on stderr if that is a terminal."""

    def __init__(self, direction: str) -> None:
        self._direction = direction
        self._bar = sys.stderr is not None and sys.stderr.isatty()
        self._announced = False
        self._line_open = False

    def __enter__(self) -> TransferProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._line_open:  # a failure is told on a line of its own
            print(file=sys.stderr, flush=True)

    def __call__(self, done: int, total: int) -> None:
        if total <= SMALL_FILE:
            return
        if not self._announced:
            print_line(f"Large file detected ({total} bytes), using chunked {self._direction}...")
            self._announced = True
        if self._bar:
            filled = _BAR_WIDTH * done // total
            bar = "=" * filled + " " * (_BAR_WIDTH - filled)
            self._line_open = done < total
            end = "" if self._line_open else "\n"
            print(f"\r[{bar}] {100 * done // total}% ({done}/{total} bytes)", end=end, file=sys.stderr, flush=True)
