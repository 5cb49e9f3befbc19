"""What the commands write: JSON, bytes, one-line messages, a progress bar. Nothing here knows a call."""

from __future__ import annotations

import json
import shutil
import sys
from types import TracebackType
from typing import Any, Sequence

from host.cli.parser import PROG
from host.transfer_options import SMALL_FILE

_BAR_WIDTH = 30


def write_bytes(stream: Any, data: bytes) -> None:
    """Bytes to sys.stdout or sys.stderr as they are; a stream that was closed by the caller takes none."""
    if stream is None or not data:
        return
    stream.flush()
    stream.buffer.write(data)
    stream.buffer.flush()


def print_line(text: str) -> None:
    """A line on stdout, in UTF-8 whatever the locale; names that are no UTF-8 come out as they were given."""
    write_bytes(sys.stdout, text.encode("utf-8", "surrogateescape") + b"\n")


def print_json(value: Any) -> None:
    """JSON for people and programs, in UTF-8."""
    print_line(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows in columns, each as wide as it must be; on a terminal no longer than its lines."""
    lines = [header, *([" ".join(cell.split()) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header) - 1)]
    most = shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else None
    for line in lines:
        text = "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths)), line[-1]]).rstrip()
        print_line(text[:most])


def complain(kind: str, message: str) -> None:
    """One line on stderr: "vsrpc-host: error: …"."""
    line = " ".join(message.split())
    write_bytes(sys.stderr, f"{PROG}: {kind}: {line}\n".encode("utf-8", "surrogateescape"))


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
