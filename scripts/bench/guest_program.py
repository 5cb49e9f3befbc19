"""The program at the guest's end of the spare port: what vsrpc is compared with there.

    python3 -m scripts.bench.guest_program PORT      (in the guest, where scripts/bench/raw.py puts it)

Serves one request after another until "quit".
"""

from __future__ import annotations

import os
import sys

from scripts.bench import checked_guest
from scripts.bench.raw_guest import Port, pack, receive, record, send, unpack

STDOUT = 1


def main() -> None:
    """Serve."""
    port = Port(sys.argv[1])
    port.write([memoryview(record({"op": "ready"}))])
    while True:
        request = port.read_record()
        if request["op"] == "echo":
            port.write([memoryview(record(request))])
        elif request["op"] == "byte":
            os.write(STDOUT, b"x")
        elif request["op"] == "send":
            send(port, request["path"], request["md5"])
        elif request["op"] == "receive":
            receive(port, request["path"], request["size"], request["md5"])
        elif request["op"] == "send checked":
            checked_guest.send(port, request["path"], request["window"], request["md5"])
        elif request["op"] == "receive checked":
            checked_guest.receive(port, request["path"], request["size"], request["md5"])
        elif request["op"] == "unpack":
            unpack(port, request["path"])
        elif request["op"] == "pack":
            pack(port, request["path"])
        else:
            return


if __name__ == "__main__":
    main()
