"""The server's role: reads requests, writes responses. See connection.py."""

from __future__ import annotations

from typing import Callable, Iterator

from . import sync
from .body import LengthReader, Room, body_reader
from .connection import Connection
from .errors import BodyRefused, shown
from .head import HeadReader
from .headers import Headers
from .limits import Limits
from .messages import Acks, Buffer, ExpectContinue, Leave, Refused, Request, Response, ServerEvent, Sync
from .start_line import RequestLine, check_host, parse_request_line
from .writer import response_bytes

_FEW_ACKS = 8
_DEFAULT_LIMITS = Limits()


class ServerConnection(Connection[RequestLine, ServerEvent]):
    """Reads requests, writes responses. Events: Request, ExpectContinue, Refused; Sync, and after it Acks and Leave."""

    _marker = sync.MAGIC
    _sync_size = len(sync.request_sync(sync.NO_NONCE))

    def __init__(self, limits: Limits = _DEFAULT_LIMITS, room: Callable[[], Room] | None = None) -> None:
        """``room`` gives each body the room that it must ask for its bytes."""
        self._new_room = room
        super().__init__(limits)

    def send(self, response: Response, request_method: str = "") -> list[Buffer]:
        """The response as buffers for one gathering write; Content-Length is set from the body.

        ``request_method``: the method of the request it answers; needed where that may be HEAD, whose
        response says how long the body would be and carries none. Raises LocalProtocolError.
        """
        # A plain client takes any body as it is.
        return response_bytes(response, request_method, self._limits, None if self._finder is None else sync.MARK)

    _session = ""
    _suspect: sync.Finder | None = None  # in the body of a plain client

    magic_in_content = False
    """A plain client's body has the magic in it. That is content; but its client may have gone, and another one be
    waiting for an answer to its sync. Set once in a body; for the owner to reset."""

    def take_acks(self, nbytes: int) -> bool:
        """What was received into the buffer from the last ``get_buffer``, if that is acknowledgements between messages
        and nothing else; True if it was taken: the buffer may be received into again. A short cut: they come by the
        thousand."""
        if (
            not 0 < nbytes <= _FEW_ACKS
            or self._finder is None
            or self._input
            or self._body is not None
            or self._after is not None
            or self._failure is not None
            or not self._head.fresh
            or self._scratch.count(sync.ACK, 0, nbytes) != nbytes
        ):
            return False
        self.received += nbytes
        self._finder.forget()
        return True

    def reset(self) -> None:
        super().reset()
        self._session = ""
        self.magic_in_content = False

    def _search(self, source: bytearray, start: int, end: int) -> int:
        body = self._body if self._finder is None else None
        if self._suspect is not None and isinstance(body, LengthReader):
            found = self._suspect.find(source, start, min(end, start + body.left))
            if found is not None:
                self._suspect = None
                self.magic_in_content = True
        return super()._search(source, start, end)

    def _leave_session(self) -> None:
        """The head of a plain client's request came: what looks like a sync in its body is content."""
        self._finder = None
        if self._after is not None:
            self._input += self._marker[-1:] + self._after
            self._after = None

    def _new_head(self) -> HeadReader[RequestLine]:
        return HeadReader(parse_request_line, self._limits, self._limits.max_empty_lines)

    def _take_nonce(self, data: bytearray) -> bytes | None:
        return sync.take_magic_nonce(data)

    def _on_sync(self, nonce: bytes) -> ServerEvent:
        self._session = sync.session_name(nonce)
        return Sync(nonce)

    def _messages(self) -> Iterator[ServerEvent | None]:
        while True:
            if self._finder is not None and self._input[:1] == sync.ACK and self._head.fresh:
                rest = self._input.lstrip(sync.ACK)
                count = len(self._input) - len(rest)
                del self._input[:count]
                yield Acks(count)
                continue
            if self._finder is not None and self._input[:1] == sync.LEAVE and self._head.fresh:
                del self._input[:1]
                yield Leave()
                continue
            head = self._read_head()
            if head is None:
                yield None
                continue
            line, headers = head
            check_host(line, headers)
            if self._finder is not None and headers.get(sync.SESSION_HEADER) != self._session:
                self._leave_session()
            room = None if self._new_room is None else self._new_room()
            reader = body_reader(headers, self._limits, room) or LengthReader(0, 0)
            self._body = reader
            # In a body of chunks it is not known which bytes are content.
            if self._finder is None and isinstance(reader, LengthReader):
                self._suspect = sync.Finder(self._marker)
                self._search(self._input, 0, len(self._input))
            refused = _refusal(line, headers)
            if refused is not None:
                reader.discard()
                yield refused
            # RFC 9110 10.1.1: the 100 may be left out when some of the body is here already.
            told = "expect" not in headers or bool(self._input)
            while True:
                try:
                    body = reader.read(self._input)
                except BodyRefused as error:
                    reader.discard()
                    refused = Refused(line.method, line.target, headers, error.status, str(error))
                    yield refused
                    continue
                if body is not None:
                    break
                if told or refused is not None:
                    yield None
                else:
                    told = True
                    yield ExpectContinue()
            self._suspect = None
            opened = body if refused is not None or self._finder is None else sync.unseal(headers, body)
            self._body = None
            if refused is None:
                yield Request(line.method, line.target, headers, opened, room=room)

    def _read_head(self) -> tuple[RequestLine, Headers] | None:
        """Like HeadReader.read(), but a sync, or what may become one, inside a head or before it is no error.

        What comes before its first byte, which no head can carry, is judged by itself: so the outcome depends on
        the bytes alone and not on how they were cut into reads.
        """
        begun = self._input.find(self._marker[:1])
        if begun < 0:
            return self._head.read(self._input)
        rest = self._input[begun:]
        del self._input[begun:]
        try:
            head = self._head.read(self._input)
        finally:
            self._input += rest
        if head is not None:
            return head
        size = len(self._marker)
        if rest[:size] != self._marker[: len(rest)]:
            return self._head.read(self._input)
        if len(rest) >= size and self._after is None:  # the first one: later ones have been found already
            self._after = rest[size:]
        return None


def _refusal(line: RequestLine, headers: Headers) -> Refused | None:
    """What the head alone condemns although its framing is sound."""
    if line.method == "TRACE":
        # RFC 9110 9.3.8: it would send the request back, credentials and all.
        return Refused(line.method, line.target, headers, 501, "method TRACE is not implemented")
    expectations = headers.get_all("expect")
    if expectations and [value.lower() for value in expectations] != ["100-continue"]:
        message = f"Expect {shown(', '.join(expectations))} cannot be met: only 100-continue is known"
        return Refused(line.method, line.target, headers, 417, message)
    return None
