"""The client's role: reads responses, writes requests. See connection.py."""

from __future__ import annotations

from typing import Iterator

from . import sync
from .body import BodyReader, LengthReader, body_reader
from .connection import Connection
from .errors import RemoteProtocolError
from .head import HeadReader
from .headers import Headers
from .limits import Limits
from .messages import Buffer, ClientEvent, Request, Response, Sync
from .start_line import StatusLine, parse_status_line
from .writer import request_bytes


class ClientConnection(Connection[StatusLine, ClientEvent]):
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
