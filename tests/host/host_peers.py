"""Sockets that are no vsrpc guest, or an odd one."""

from __future__ import annotations

import re
import socket
import threading
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator, Mapping

from vsrpc.wire import MAGIC, response_sync
from vsrpc.wire.sync import take_magic_nonce

Behaviour = Callable[[socket.socket], None]

HELLO = (
    b"HTTP/1.1 200 OK\r\nvsrpc-version: 1\r\nvsrpc-instance: i\r\nvsrpc-agent: a\r\n"
    b"vsrpc-max-request-size: 1000\r\ncontent-length: 0\r\n\r\n"
)


def speak(answer: bytes) -> Behaviour:
    def behave(peer: socket.socket) -> None:
        peer.recv(65536)
        peer.sendall(answer)
        peer.recv(65536)  # until the client leaves

    return behave


def greet(version: int, then: bytes = b"") -> Behaviour:
    """A guest that speaks that version, and then says something."""

    def behave(peer: socket.socket) -> None:
        _greet(peer, version, then)
        peer.recv(65536)

    return behave


def _greet(peer: socket.socket, version: int, then: bytes = b"") -> None:
    nonce = take_magic_nonce(bytearray(peer.recv(65536).partition(MAGIC)[2]))
    assert nonce is not None
    peer.sendall(response_sync(nonce) + HELLO.replace(b"version: 1", b"version: %d" % version) + then)


def say_nothing(peer: socket.socket) -> None:
    while peer.recv(65536):
        pass


def hang_up(peer: socket.socket) -> None:
    peer.recv(1)


@contextmanager
def serving(path: Path, behave: Behaviour, clients: list[int] | None = None) -> Iterator[str]:
    """A socket that lets in one client after the other, as QEMU does; `clients` grows by one for each."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(8)

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            if clients is not None:
                clients.append(client.fileno())
            with client:
                try:
                    behave(client)
                except OSError:
                    pass  # the client left first

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield str(path)
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def answer(
    content_type: bytes,
    body: bytes | Mapping[bytes, bytes],
    head: bytes = b"",
    *,
    status: bytes = b"200 OK",
    length: int = 0,
) -> Behaviour:
    """A guest that greets, and answers every request with these bytes, or with those of its rpc's name.

    `head`: more lines of the head; `length`: what it says that the body has.
    """

    def behave(peer: socket.socket) -> None:
        _greet(peer, 1)
        received = b""
        while data := peer.recv(65536):
            received += data
            while b"\r\n\r\n" in received:
                request, _, received = received.partition(b"\r\n\r\n")
                announced = re.search(rb"(?i)\r\ncontent-length: (\d+)", request)
                missing = int(announced.group(1)) if announced else 0
                while len(received) < missing:
                    received += peer.recv(65536)
                received = received[missing:]
                number = re.search(rb"(?i)\r\nx-request-id: ([^\r]+)", request)
                assert number is not None
                rpc = request.split(b" ", 2)[1].rpartition(b"/")[2]
                content = body if isinstance(body, bytes) else body[rpc]
                peer.sendall(
                    b"HTTP/1.1 %s\r\nx-request-id: %s\r\ncontent-type: %s\r\n" % (status, number.group(1), content_type)
                    + b"content-length: %d\r\nvsrpc-crc32: %08x\r\n" % (length or len(content), zlib.crc32(content))
                    + b"%s\r\n%s" % (head, content)
                )

    return behave
