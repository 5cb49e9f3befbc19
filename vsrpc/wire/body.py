"""Readers for message bodies, and the choice of the reader from the head (RFC 9112 6).

A body reader's contract: ``read(data)`` takes what is its own from the unparsed input and returns the whole
body when it is complete, or None when more is needed, or raises: RemoteProtocolError for broken framing,
BodyRefused when the framing is sound and only the size is not. After ``discard()`` a reader goes on by
the same framing, keeps nothing, raises no BodyRefused and returns an empty body at the end.

``room``, where an owner gives one, is asked before memory is allocated, and told when that is let go: by
``discard()``, or later by whoever got the body and the room with it.
"""

from __future__ import annotations

from typing import Callable, Protocol, Union

from . import grammar
from .errors import BodyTooLarge, NoRoom, RemoteProtocolError, shown
from .head import SectionReader
from .headers import Headers
from .limits import Limits


class Room(Protocol):
    """The memory of one body."""

    def take(self, count: int, /) -> bool:
        """Take so many bytes more, if they are there."""

    def release(self) -> None:
        """Give all back; does nothing the second time."""


class LengthReader:
    """A body of known length, received into one buffer that is allocated once, when first read."""

    def __init__(self, length: int, limit: int, room: Room | None = None) -> None:
        self.room = room
        self._length = length
        self._limit = limit
        self._left = length
        self._body: bytearray | None = None
        self._keep = True

    def discard(self) -> None:
        self._keep = False
        self._body = None
        if self.room is not None:
            self.room.release()

    def read(self, data: bytearray) -> bytes | bytearray | None:
        taken = min(len(data), self._left)
        if not self._keep:
            del data[:taken]
            self._left -= taken
            return None if self._left else b""
        if self._length == 0:
            return b""
        if self._body is None:
            if self._length > self._limit:
                raise BodyTooLarge(
                    f"Content-Length {self._length} is over the limit of {self._limit} bytes: send it in parts"
                )
            if self.room is not None and not self.room.take(self._length):
                raise NoRoom(self._length)
            self._body = bytearray(self._length)
        if taken:
            with memoryview(data)[:taken] as part:
                self._rest(self._body)[:taken] = part
            del data[:taken]
            self._left -= taken
        return None if self._left else self._body

    def _rest(self, body: bytearray) -> memoryview:
        return memoryview(body)[self._length - self._left :]

    @property
    def left(self) -> int:
        """Bytes that are still to come."""
        return self._left

    def buffer(self) -> memoryview | None:
        """The rest of the body's own buffer, for the owner to receive into; None if there is none (left)."""
        return None if self._body is None or not self._left else self._rest(self._body)

    def received(self, nbytes: int) -> None:
        """``nbytes`` were written to the start of ``buffer()``."""
        self._left -= nbytes


class ChunkedReader:
    """A body in chunks (RFC 9112 7.1). Extensions are refused; trailers are checked like a head, then dropped.

    States, each a method that returns the next one, or None when more input is needed:

        size ──> data ──> data_end ──> size        (a chunk)
          └────> trailers ──> done                 (size 0)
    """

    def __init__(self, limits: Limits, room: Room | None = None) -> None:
        self.room = room
        self._limits = limits
        self._body = bytearray()
        self._size = 0
        self._left = 0
        self._keep = True
        self._state = "size"
        self._trailers = SectionReader(limits.max_head, limits.max_headers)
        self._steps: dict[str, Callable[[bytearray], str | None]] = {
            "size": self._read_size,
            "data": self._read_data,
            "data_end": self._read_data_end,
            "trailers": self._read_trailers,
        }

    def discard(self) -> None:
        self._keep = False
        self._body = bytearray()
        if self.room is not None:
            self.room.release()

    def read(self, data: bytearray) -> bytearray | None:
        while self._state != "done":
            state = self._steps[self._state](data)
            if state is None:
                return None
            self._state = state
        return self._body

    def buffer(self) -> memoryview | None:
        """None: where a chunk's data ends up is not known before it is all there."""
        return None

    def _read_size(self, data: bytearray) -> str | None:
        found = grammar.CHUNK_SIZE.match(data, 0, self._limits.max_chunk_line - 1)
        assert found is not None, "the pattern matches the empty string"
        end = found.end()
        if end > self._limits.max_chunk_line - 2:
            raise RemoteProtocolError(
                f"chunk size {shown(data[:end])} is longer than {self._limits.max_chunk_line - 2} digits"
            )
        if len(data) == end:
            return None
        if end == 0 or data[end] != 0x0D:
            cause = "carries a chunk extension" if data[end] == 0x3B and end else "is not hexadecimal digits and CRLF"
            raise RemoteProtocolError(f"chunk size line {shown(data[: end + 1])} {cause}")
        if len(data) == end + 1:
            return None
        if data[end + 1] != 0x0A:
            raise RemoteProtocolError(f"chunk size line {shown(data[: end + 2])} contains a bare CR")
        size = int(data[:end], 16)
        if size == 0:
            # The trailer section begins with the CRLF of this line.
            del data[:end]
            return "trailers"
        self._size += size
        self._left = size
        del data[: end + 2]
        # The state is moved on here: BodyRefused leaves the reader fit to go on.
        self._state = "data"
        if self._keep and self._size > self._limits.max_body:
            raise BodyTooLarge(f"chunked body is over the limit of {self._limits.max_body} bytes: send it in parts")
        if self._keep and self.room is not None and not self.room.take(size):
            raise NoRoom(size)
        return "data"

    def _read_data(self, data: bytearray) -> str | None:
        taken = min(len(data), self._left)
        if self._keep:
            with memoryview(data)[:taken] as part:
                self._body += part
        del data[:taken]
        self._left -= taken
        return None if self._left else "data_end"

    def _read_data_end(self, data: bytearray) -> str | None:
        if not b"\r\n".startswith(data[:2]):
            bad = data[:1] if data[0] != 0x0D else data[:2]
            raise RemoteProtocolError(
                f"chunk data is followed by {shown(bad)} instead of CRLF: is the chunk size right?"
            )
        if len(data) < 2:
            return None
        del data[:2]
        return "size"

    def _read_trailers(self, data: bytearray) -> str | None:
        return None if self._trailers.read(data) is None else "done"


BodyReader = Union[LengthReader, ChunkedReader]


def body_reader(headers: Headers, limits: Limits, room: Room | None = None) -> BodyReader | None:
    """The reader that the framing fields ask for; None if there are none.

    RFC 9112 6.3 lets a recipient repair some of the combinations refused here (identical duplicate
    lengths, Transfer-Encoding overriding Content-Length). A repair is a guess, and a wrong guess is a
    smuggled request.
    """
    lengths = headers.get_all("content-length")
    codings = headers.get_all("transfer-encoding")
    if codings:
        if lengths:
            raise RemoteProtocolError(
                f"both Content-Length {shown(', '.join(lengths))} and "
                f"Transfer-Encoding {shown(', '.join(codings))}: send one"
            )
        if codings != ["chunked"]:
            _refuse_codings(codings)
        return ChunkedReader(limits, room)
    if not lengths:
        return None
    if len(lengths) > 1:
        raise RemoteProtocolError(f"{len(lengths)} Content-Length fields {shown(', '.join(lengths))}: send exactly one")
    if not grammar.CONTENT_LENGTH.fullmatch(lengths[0]):
        raise RemoteProtocolError(f"Content-Length {shown(lengths[0])} is not a number of 1 to 18 digits")
    return LengthReader(int(lengths[0]), limits.max_body, room)


def _refuse_codings(values: list[str]) -> None:
    """RFC 9112 6.1: 501 for a coding not implemented; 6.3: 400 if chunked is not the last, applied once."""
    codings = [coding.strip(" \t").lower() for coding in ",".join(values).split(",")]
    status = 501 if codings[-1] == "chunked" and codings.count("chunked") == 1 and len(codings) > 1 else 400
    raise RemoteProtocolError(f"Transfer-Encoding {shown(', '.join(values))} is not exactly 'chunked'", status)
