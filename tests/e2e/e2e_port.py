"""A port in front of a guest, which clients may find in a bad state."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator, Sequence

Fault = Callable[[socket.socket], bool]
"""What happens to a client first; whether it then gets to the guest."""


def silence(client: socket.socket) -> bool:
    while client.recv(65536):
        pass
    return False


def stale_bytes(client: socket.socket) -> bool:
    client.sendall(b"the end of a reply to somebody else")
    return True


@contextmanager
def port(
    path: Path, guest: str, faults: Sequence[Fault] = (), edit: Callable[[bytes], bytes] = lambda answer: answer
) -> Iterator[str]:
    """A socket that lets in one client at a time, and relays it to the socket `guest`.

    The first clients meet one of `faults` each; `edit` changes what the guest says.
    """
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(8)

    def serve() -> None:
        left = list(faults)
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                if not left or left.pop(0)(client):
                    _relay(client, guest, edit)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield str(path)
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def _relay(client: socket.socket, guest: str, edit: Callable[[bytes], bytes]) -> None:
    with socket.socket(socket.AF_UNIX) as there:
        there.connect(guest)
        while True:
            for source in select.select([client, there], [], [])[0]:
                data = source.recv(1 << 20)
                if not data:
                    return
                if source is client:
                    there.sendall(data)
                else:
                    client.sendall(edit(data))
