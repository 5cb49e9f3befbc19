"""The two roles of a connection: bytes in, events out; messages in, bytes out. No socket, thread or clock.

    owner                                       connection
    n = recv_into(c.get_buffer())
    c.buffer_updated(n)                   ──>   input, or straight into the body being received
    while (event := c.next_event()): ...  <──   head reader, body reader, event; and again
    writev(c.send(message))               <──   bytes of one message

Messages are read strictly one after the other: a head, then its body by the head's framing. Each role's
order of events is one generator, ``_messages``, that yields an event, or None when it needs more input.
After a RemoteProtocolError a connection discards what it is given and raises again, until ``reset()`` or a sync.

A sync (sync.py) makes void what came before it. Where one counts:

    server, until the first one     between messages and in heads: in the body of a plain client it is content, and
                                    after an error it may be
    server, after it                everywhere, also after an error: bodies are now clear of it; until a request comes
                                    that does not name the session, which is a plain client's
    client, after ``sync()``        everywhere; until the one with its own nonce, nothing else counts
Not thread-safe: receiving is for one thread at a time; ``send`` touches no state and may be called from any.
"""

from __future__ import annotations

from typing import Generic, Iterator, TypeVar, cast

from . import sync
from .body import BodyReader, LengthReader, body_reader
from .errors import BodyTooLarge, LocalProtocolError, RemoteProtocolError, shown
from .head import HeadReader
from .headers import Headers
from .limits import Limits
from .messages import Acks, Buffer, ClientEvent, ExpectContinue, Leave, Refused, Request, Response, ServerEvent, Sync
from .start_line import RequestLine, StatusLine, check_host, parse_request_line, parse_status_line
from .writer import request_bytes, response_bytes

# What one read can bring: a gathering read of a virtio-serial port fills 16 pages, a UNIX socket gives more.
_SCRATCH = 65536

_DEFAULT_LIMITS = Limits()

S = TypeVar("S")  # start line
E = TypeVar("E")  # event


class _Connection(Generic[S, E]):
    """What both roles share: where input goes, what an error, a sync or the end of input means.

    `received`: bytes of input since the beginning of the last sync, or since there was any.
    """

    _marker: bytes
    _sync_size: int  # of a marker with its nonce

    def __init__(self, limits: Limits = _DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._scratch = bytearray(_SCRATCH)
        self.reset()

    def _new_head(self) -> HeadReader[S]:
        raise NotImplementedError

    def _messages(self) -> Iterator[E | None]:
        raise NotImplementedError

    def _take_nonce(self, data: bytearray) -> bytes | None:
        raise NotImplementedError

    def _on_sync(self, nonce: bytes) -> E | None:
        """A sync came: its event, or None if it is to be passed over."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forget all input, an error, a sync and an end of input too: a new peer begins at a known boundary."""
        self._finder: sync.Finder | None = None  # looks for a sync in all input
        self.received = 0
        self._begin()
        self._eof = False

    def _begin(self) -> None:
        """Expect the head of a message, whatever came before."""
        self._input = bytearray()
        self._after: bytearray | None = None  # what came after a marker, until the parser is done with what came before
        self._lent: memoryview | None = None
        self._lender: LengthReader | None = None
        self._head = self._new_head()
        self._body: BodyReader | None = None
        self._failure: RemoteProtocolError | None = None
        self._events = self._messages()

    def get_buffer(self) -> memoryview:
        """Where to receive next: writable, of at least one byte; valid until ``buffer_updated`` or ``reset``.

        While a body of known length is coming it is the rest of that body's own buffer, so that the body
        is received in place; else a scratch buffer. (The shape of asyncio.BufferedProtocol.)
        """
        self._lent = self._lender = None
        if isinstance(self._body, LengthReader) and not self._input and self._after is None:
            self._lent = self._body.buffer()
            self._lender = self._body
        if self._lent is None:
            self._lent = memoryview(self._scratch)
            self._lender = None
        return self._lent

    def buffer_updated(self, nbytes: int) -> None:
        """``nbytes`` (>= 1) were written to the start of the buffer from the last ``get_buffer``."""
        lent, self._lent = self._lent, None
        if lent is None:
            raise LocalProtocolError("buffer_updated without a get_buffer before it")
        if not 1 <= nbytes <= len(lent):
            raise LocalProtocolError(f"buffer_updated({nbytes}): the buffer takes 1 to {len(lent)} bytes")
        if self._eof:
            raise LocalProtocolError("input after receive_eof: reset() begins anew")
        self.received += nbytes
        if self._lender is None:
            self._take(self._scratch, 0, nbytes)
            return
        source = cast(bytearray, lent.obj)
        start = len(source) - len(lent)
        before = self._search(source, start, start + nbytes) - start
        if before:
            self._lender.received(before)

    def receive_data(self, data: Buffer) -> None:
        """Receive a copy of ``data``, of any size; for in-memory use."""
        view = memoryview(data)
        while view:
            buffer = self.get_buffer()
            taken = min(len(view), len(buffer))
            buffer[:taken] = view[:taken]
            self.buffer_updated(taken)
            view = view[taken:]

    def receive_eof(self) -> None:
        """The peer is gone. Inside a message that is an error, raised once ``next_event`` gets there."""
        self._eof = True

    def give_up(self, error: RemoteProtocolError) -> None:
        """The owner has found the peer to break rules of its own: read on as after an error."""
        if self._failure is None:
            self._fail(error)

    @property
    def mid_message(self) -> bool:
        """Part of a message is held; after ``next_event`` returned None, of an unfinished one. False after an error."""
        return bool(self._input) or self._body is not None or self._head.started or self._after is not None

    def next_event(self) -> E | None:
        """The next event, or None when more input is needed.

        Raises RemoteProtocolError when the input breaks the rules, and from then on at every call (until a sync).
        """
        while True:
            if self._failure is None:
                try:
                    event = next(self._events)
                except RemoteProtocolError as error:
                    self._fail(error)
                    if self._after is None:
                        raise
                else:
                    if event is not None:
                        return event
            elif self._after is None:
                raise RemoteProtocolError(str(self._failure), self._failure.status)
            nonce = None
            if self._after is not None:
                try:
                    nonce = self._take_nonce(self._after)
                except RemoteProtocolError as error:
                    # No sync after all: the error before it stands, and a sync may follow.
                    rest, self._after = self._after, None
                    if self._failure is None:
                        self._fail(error)
                    self._take(rest, 0, len(rest))
                    continue
            if nonce is None:
                if self._eof and self.mid_message:
                    self._after = None
                    self._fail(RemoteProtocolError("the peer closed the connection inside a message"))
                    continue
                return None
            event = self._synchronise(nonce)
            if event is not None:
                return event

    def _take(self, source: bytearray, start: int, end: int) -> None:
        """Input that has no place of its own."""
        end = self._search(source, start, end)
        if self._failure is None:
            with memoryview(source)[start:end] as part:
                self._input += part

    def _search(self, source: bytearray, start: int, end: int) -> int:
        """Look for a sync in source[start:end]: where what came before it ends."""
        if self._after is not None:
            self._after += source[start:end]
            return start
        found = None if self._finder is None else self._finder.find(source, start, end)
        if found is None:
            return end
        self._after = bytearray(source[found:end])
        # What cannot be told from content until the last byte is there is content until then, however it was cut.
        return max(start, found - 1)

    def _synchronise(self, nonce: bytes) -> E | None:
        rest = self._after
        assert rest is not None
        self._begin()
        self.received = self._sync_size + len(rest)
        self._finder = sync.Finder(self._marker)
        event = self._on_sync(nonce)
        self._take(rest, 0, len(rest))
        return event

    def _fail(self, error: RemoteProtocolError) -> None:
        self._failure = error
        self._input = bytearray()
        self._head = self._new_head()
        self._body = None


class ServerConnection(_Connection[RequestLine, ServerEvent]):
    """Reads requests, writes responses. Events: Request, ExpectContinue, Refused; Sync, and after it Acks and Leave."""

    _marker = sync.MAGIC
    _sync_size = len(sync.request_sync(sync.NO_NONCE))

    def send(self, response: Response, request_method: str = "") -> list[Buffer]:
        """The response as buffers for one gathering write; Content-Length is set from the body.

        ``request_method``: the method of the request it answers; needed where that may be HEAD, whose
        response says how long the body would be and carries none. Raises LocalProtocolError.
        """
        # A plain client takes any body as it is.
        return response_bytes(response, request_method, self._limits, None if self._finder is None else sync.MARK)

    _session = ""

    def reset(self) -> None:
        super().reset()
        self._session = ""

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
            reader = body_reader(headers, self._limits) or LengthReader(0, 0)
            self._body = reader
            refused = _refusal(line, headers)
            if refused is not None:
                reader.discard()
                yield refused
            # RFC 9110 10.1.1: the 100 may be left out when some of the body is here already.
            told = "expect" not in headers or bool(self._input)
            while True:
                try:
                    body = reader.read(self._input)
                except BodyTooLarge as error:
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
            self._body = None
            if refused is None:
                opened = body if self._finder is None else sync.unseal(headers, body)
                yield Request(line.method, line.target, headers, opened)

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


class ClientConnection(_Connection[StatusLine, ClientEvent]):
    """Reads responses, writes requests. Events: Response; Sync after ``sync()``. Interim responses are skipped."""

    _marker = sync.MARK
    _sync_size = len(sync.response_sync())
    _nonce: bytes | None = None
    _synchronised = False

    def sync(self, nonce: bytes) -> bytes:
        """What to send before the hello; from now on all is passed over until the server's echo of the nonce.

        Then comes Sync with that nonce. Any other Sync says that the server knows of no session with us.
        """
        self._nonce = nonce
        self._finder = sync.Finder(self._marker)
        self._synchronised = False
        self._fail(RemoteProtocolError("no sync has come"))
        return sync.request_sync(nonce)

    def reset(self) -> None:
        super().reset()
        self._nonce = None
        self._synchronised = False

    def send(self, request: Request) -> list[Buffer]:
        """The request as buffers for one gathering write; Content-Length is set from the body.

        It needs a Host header, and its target in origin-form or ``*``. Raises LocalProtocolError.
        """
        return request_bytes(request, self._limits, self._nonce)

    def next_event(self) -> ClientEvent | None:
        try:
            return super().next_event()
        except RemoteProtocolError:
            if self._nonce is None or self._synchronised:
                raise
            return None  # whatever it is, it is not for us

    def _take_nonce(self, data: bytearray) -> bytes | None:
        return sync.take_mark_nonce(data)

    def _on_sync(self, nonce: bytes) -> Sync | None:
        ours = nonce == self._nonce
        if not ours and not self._synchronised:
            self._fail(RemoteProtocolError("no sync has come"))
            if nonce != sync.NO_NONCE:
                return None  # the echo to somebody who left before us
        self._synchronised = ours
        return Sync(nonce)

    def _new_head(self) -> HeadReader[StatusLine]:
        return HeadReader(parse_status_line, self._limits, max_empty_lines=0)

    def _messages(self) -> Iterator[ClientEvent | None]:
        while True:
            head = self._head.read(self._input)
            if head is None:
                yield None
                continue
            line, headers = head
            reader = _response_reader(line, headers, self._limits)
            if reader is None:
                continue
            self._body = reader
            body = reader.read(self._input)
            while body is None:
                yield None
                body = reader.read(self._input)
            self._body = None
            opened = sync.unseal(headers, body) if self._synchronised else body
            yield Response(line.status, headers, opened, line.reason)


def _response_reader(line: StatusLine, headers: Headers, limits: Limits) -> BodyReader | None:
    """The reader of a response's body (RFC 9112 6.3); None for an interim response, which is skipped."""
    status = line.status
    if status == 101:
        raise RemoteProtocolError("status 101 switches to a protocol that was not asked for")
    if status < 200 or status in (204, 304):
        # Such a response ends with its head whatever its fields say; a server that says otherwise is not
        # to be trusted with framing. Only 304 may tell the length of the body it leaves out.
        forbidden = {"transfer-encoding"} if status == 304 else {"transfer-encoding", "content-length"}
        for name in sorted(forbidden):
            if name in headers:
                raise RemoteProtocolError(f"response of status {status}, which has no body, carries {name}")
        if status == 304:
            body_reader(headers, limits)  # refuses a Content-Length that is none
        return None if status < 200 else LengthReader(0, 0)
    reader = body_reader(headers, limits)
    if reader is None:
        raise RemoteProtocolError(
            f"response of status {status} has neither Content-Length nor chunked coding: a port has no close to end it"
        )
    return reader
