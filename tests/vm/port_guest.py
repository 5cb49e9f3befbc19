"""Runs in the guest: serves a port by SerialListener as each client's first line asks, and logs what happens.

    python3 port_guest.py DEVICE LOG [close-listener-after SECONDS]

The first line of a client names what is done with it; each line of the log is a JSON array [event, details…].
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import threading
import time
from typing import Any, Callable

sys.path.insert(0, "/opt/vsrpc/current")

from vsrpc.transports import TransportClosed, TransportTimeout, send_all
from vsrpc.transports.serial import SerialListener
from vsrpc.transports.serial_transport import SerialTransport

DEVICE, LOG = sys.argv[1], sys.argv[2]
PIECE = bytes(range(256)) * 4096  # 1 MiB


def log(*event: Any) -> None:
    with open(LOG, "a") as file:
        file.write(json.dumps(event) + "\n")


class Warnings(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        log("warning", record.getMessage())


def receive(transport: SerialTransport, count: int, size: int = 1 << 18) -> bytes:
    data = bytearray()
    while len(data) < count:
        buffer = memoryview(bytearray(min(size, count - len(data))))
        got = transport.recv_into(buffer, 60)
        if not got:
            break
        data += buffer[:got]
    return bytes(data)


def line(transport: SerialTransport) -> str:
    data = b""
    while not data.endswith(b"\n"):
        byte = receive(transport, 1)
        if not byte:
            break
        data += byte
    return data.decode()


def outcome(function: Callable[[], Any]) -> list[Any]:
    """How a call ends, and after how many seconds."""
    begun = time.monotonic()
    try:
        result = function()
    except (TransportClosed, TransportTimeout) as error:
        result = type(error).__name__
    return [result, round(time.monotonic() - begun, 2)]


def later(seconds: float, function: Callable[[], Any]) -> None:
    threading.Timer(seconds, function).start()


def serve(transport: SerialTransport, words: list[str]) -> None:
    kind, number = words[0], int(words[1]) if len(words) > 1 else 0
    buffer = memoryview(bytearray(1 << 18))
    if kind == "echo":
        send_all(transport, [receive(transport, number, int(words[2]))], 60)
    elif kind == "both":
        sending = threading.Thread(target=send_all, args=(transport, [PIECE] * number, 60))
        sending.start()
        digest = hashlib.md5(receive(transport, number * len(PIECE))).hexdigest()
        sending.join()
        send_all(transport, [digest.encode()], 60)
    elif kind == "recv-timeout":
        log(kind, *outcome(lambda: transport.recv_into(buffer, 0.3)))
    elif kind == "send-timeout":
        log(kind, *outcome(lambda: send_all(transport, [PIECE] * 20, 0.5)))
    elif kind == "close-recv":
        later(0.5, transport.close)
        log(kind, *outcome(lambda: transport.recv_into(buffer)))
    elif kind == "close-send":
        later(1.0, transport.close)
        log(kind, *outcome(lambda: send_all(transport, [PIECE] * 20)))
    elif kind == "recv":
        log(kind, *outcome(lambda: transport.recv_into(buffer)))
    elif kind == "send":
        log(kind, *outcome(lambda: send_all(transport, [PIECE] * 20)))
    elif kind == "send-when-gone":
        while transport.recv_into(buffer):
            pass
        log(kind, *outcome(lambda: send_all(transport, [b"x"])))
    else:
        log(kind)


def main() -> None:
    logging.getLogger("vsrpc").addHandler(Warnings())
    before = len(os.listdir("/proc/self/fd"))
    listener = SerialListener(DEVICE)
    if len(sys.argv) > 3:
        later(float(sys.argv[4]), listener.close)
    log("started")
    try:
        while True:
            transport = listener.accept()
            try:
                words = line(transport).split()
                log("client", *words)
                if words:
                    serve(transport, words)
            except (TransportClosed, TransportTimeout) as error:
                log("error", type(error).__name__)
            finally:
                transport.close()
    except TransportClosed:
        log("listener closed", len(os.listdir("/proc/self/fd")) - before)


main()
