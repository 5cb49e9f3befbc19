"""What the two roles of a connection share: bytes in, events out. No socket, thread or clock.

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
from .body import BodyReader, LengthReader
from .errors import LocalProtocolError, RemoteProtocolError
from .head import HeadReader
from .limits import Limits
from .messages import Buffer

# What one read can bring: a gathering read of a virtio-serial port fills 16 pages, a UNIX socket gives more.
_SCRATCH = 65536

_DEFAULT_LIMITS = Limits()

S = TypeVar("S")  # start line
E = TypeVar("E")  # event


class Connection(Generic[S, E]):
    """What both roles share: where input goes, what an error, a sync or the end of input means.

    `received`: bytes of input since the beginning of the last sync, or since there was any.
    """

    _marker: bytes
    _sync_size: int  # of a marker with its nonce
    _body: BodyReader | None = None

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
        self._drop_body()
        self._input = bytearray()
        self._after: bytearray | None = None  # what came after a marker, until the parser is done with what came before
        self._lent: memoryview | None = None
        self._lender: LengthReader | None = None
        self._head = self._new_head()
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
        self._drop_body()

    def _drop_body(self) -> None:
        if self._body is not None:
            self._body.discard()
            self._body = None
