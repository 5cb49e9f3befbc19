"""What a guest process and the simulator say to each other over a SOCK_SEQPACKET socket: one request, one answer.

    request: code, count, that many sizes of buffers (READ, WRITE) or microseconds (WAIT: one); then the data of a WRITE
    answer:  result, or minus the errno; then the data of a READ

The first request of a connection is OPEN. Its answer brings two descriptors: the end of a second connection for the
same open file, so that one thread can read while another writes, and an eventfd on which each change at the port is an
edge.
"""

from __future__ import annotations

import struct
from typing import Final, Sequence

# Of what a test, or root in the guest, does to the machine; beside the socket for guests.
CONTROL = "control.sock"

OPEN, READ, WRITE, WAIT, POLL = range(1, 6)

ANSWER: Final = struct.Struct("<i")
_HEAD: Final = struct.Struct("<II")
_SIZE = 4

# A message has to fit into the socket's buffer, which Linux lets everybody raise to about 400 KB.
SOCKET_BUFFER = 1 << 20
MAX_DATA = 1 << 18
MAX_BUFFERS = 1000  # below IOV_MAX
MAX_MESSAGE = MAX_DATA + _HEAD.size + MAX_BUFFERS * _SIZE


def request(code: int, numbers: Sequence[int] = ()) -> bytes:
    return struct.pack(f"<II{len(numbers)}I", code, len(numbers), *numbers)


def parse(message: memoryview) -> tuple[int, Sequence[int], memoryview]:
    """Code, numbers and data of a request."""
    code, count = _HEAD.unpack_from(message)
    end = _HEAD.size + count * _SIZE
    return code, message[_HEAD.size : end].cast("I"), message[end:]
