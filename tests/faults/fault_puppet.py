"""A host client that does what it is told, and may be made to leave at any byte: by its process's death, say."""

from __future__ import annotations

import secrets
import socket
import time

from fault_victims import Read

from vsrpc.hello import MESSAGE_COST, hello_request, parse_hello
from vsrpc.v1.file_pb2 import DownloadChunkRequest, UploadChunkRequest
from vsrpc.v1.shell_pb2 import ExecRequest
from vsrpc.wire import NONCE_SIZE, ClientConnection, Headers, Request, Response, Sync

_PATIENCE = 30.0
_ANSWER = 2.0
_WINDOW = 170_000  # what a socket takes unread, and what clients of ours grant


class Puppet:
    """One client. Everything it sends is cut at what the methods say."""

    def __init__(self, path: str, step: int | None = None) -> None:
        """`step`: bytes that it sends and reads at a time."""
        self._step = step
        self._connection = ClientConnection()
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_PATIENCE)
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                self.sock.connect(path)
                return
            except BlockingIOError:  # its queue is full
                assert time.monotonic() < deadline, "the port's queue never had room"
                time.sleep(0.005)

    def send(self, data: bytes, cut: int | None = None) -> None:
        """Send the first `cut` bytes."""
        data = data[:cut]
        for start in range(0, len(data), self._step or len(data) or 1):
            self.sock.sendall(data[start : start + (self._step or len(data))])

    def greeting(self) -> bytes:
        """A sync and a hello."""
        sync = self._connection.sync(secrets.token_bytes(NONCE_SIZE))
        return sync + b"".join(self._connection.send(hello_request(secrets.token_hex(8), _WINDOW)))

    def greet(self) -> None:
        """Sync, say hello, and hear the answer. Raises AnotherTime where the server asks for that, TimeoutError."""
        self.sock.settimeout(_ANSWER)
        self.send(self.greeting())
        while True:
            event = self._event()
            if isinstance(event, Response):
                self._half = (parse_hello(event).window or 1 << 40) // 2
                self.sock.settimeout(_PATIENCE)
                return
            if event.nonce == bytes(NONCE_SIZE):
                raise AnotherTime

    def _event(self) -> Response | Sync:
        while True:
            event = self._connection.next_event()
            if event is not None:
                return event
            self._receive()

    def _receive(self) -> int:
        count = self.sock.recv_into(self._connection.get_buffer()[: self._step])
        assert count, "QEMU closed the connection"
        self._connection.buffer_updated(count)
        return count

    def reading(self, count: int) -> Read:
        """The step that reads as many bytes, acknowledging them as a client of ours does."""
        return Read(count, self._connection.received + MESSAGE_COST, self._half)

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Puppet:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # -- requests, as a client of ours sends them

    def request(self, path: str, body: bytes, key: str = "") -> bytes:
        fields = [("host", "guest"), ("x-request-id", secrets.token_hex(8)), ("content-type", "application/proto")]
        if key:
            fields.append(("idempotency-key", key))
        return b"".join(self._connection.send(Request("POST", path, Headers(fields), body)))

    def exec(self, command: str) -> bytes:
        body = ExecRequest(command=command).SerializeToString()
        return self.request("/vsrpc.v1.Shell/Exec", body, secrets.token_hex(16))

    def download(self, path: str, size: int) -> bytes:
        return self.request(
            "/vsrpc.v1.File/DownloadChunk", DownloadChunkRequest(path=path, size=size).SerializeToString()
        )

    def upload_chunk(self, content: bytes) -> bytes:
        body = UploadChunkRequest(session_id="none", content=content).SerializeToString()
        return self.request("/vsrpc.v1.File/UploadChunk", body)


class AnotherTime(Exception):
    """The server asks to connect anew."""
