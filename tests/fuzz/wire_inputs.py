"""Fuzz inputs: the tables of tests/wire as seeds, messages made at random, and mutations of both that aim at framing.

All chance comes from the ``random.Random`` that is passed in, so that an input is known by its seed.
"""

from __future__ import annotations

import re
from random import Random
from typing import Callable

from wire_driver import OK, TE_LINE, G, Role, post, reply
from wire_invalid import INVALID, INVALID_RESPONSES
from wire_invariant import NONCE, Case
from wire_valid import VALID, VALID_RESPONSES

from vsrpc.wire import ACK, CONTINUE, MAGIC, NONCE_SIZE, ClientConnection, ServerConnection, response_sync

NOT_FOUND = reply(b"HTTP/1.1 404 x", b"Content-Length: 0")
# The beginning of a server's sync, without the nonce.
MARK = response_sync()[: -2 * NONCE_SIZE - 4]

# What did not hold once, cut down.
FOUND = {
    "sync of a client in pieces": Case(ClientConnection, response_sync(NONCE), synced=True),
    "sync of a server in pieces, inside a chunk": Case(
        ServerConnection, MAGIC + NONCE + post(TE_LINE, body=b"20\r\n") + MAGIC + NONCE
    ),
    "first sync after broken HTTP": Case(ServerConnection, b"GET / HTTP/1.0\r\n" + MAGIC + NONCE + G),
    "control character, then the first byte of a sync": Case(ServerConnection, b"\x0b" + MAGIC[:1]),
    "first sync after a line that is too long": Case(ServerConnection, b"x" * 102 + MAGIC + NONCE + G),
    "sync whose beginning completes a body": Case(
        ServerConnection, MAGIC + NONCE + post(b"Content-Length: 20", body=b"x" * 10) + MAGIC + NONCE
    ),
    "sync after a broken one": Case(ClientConnection, MARK + b"x" * 36 + response_sync(NONCE), synced=True),
    "broken sync after another error": Case(
        ClientConnection, response_sync(NONCE) + b"\0" + MARK + b"x" * 36, synced=True
    ),
    "acknowledgement after an empty line": Case(ServerConnection, MAGIC + NONCE + b"\r\n" + ACK + G),
    "reset of a client that asked for a sync": Case(ClientConnection, b"\0", synced=True),
    "304 with a length that is no number": Case(ClientConnection, reply(b"HTTP/1.1 304 x", b"Content-Length: x")),
    "304 with two lengths": Case(
        ClientConnection, reply(b"HTTP/1.1 304 x", b"Content-Length: 5", b"Content-Length: 6")
    ),
}

_TABLES = {
    f"{case.role.__name__}, {case.name}": Case(case.role, case.data)
    for case in [*VALID, *VALID_RESPONSES, *INVALID, *INVALID_RESPONSES]
}
_SYNCS = {
    "syncs and acknowledgements of a server": Case(
        ServerConnection, MAGIC + NONCE + G + ACK + ACK + post(b"Content-Length: 40", body=b"x") + MAGIC + NONCE + G
    ),
    "sync of a client, then one that it did not ask for": Case(
        ClientConnection, b"x" + response_sync(NONCE) + NOT_FOUND + response_sync() + NOT_FOUND, synced=True
    ),
    "sync of a client inside a body": Case(
        ClientConnection, response_sync(NONCE) + reply(OK, b"Content-Length: 80") + response_sync(NONCE), synced=True
    ),
}
NAMED = {**_TABLES, **_SYNCS, **FOUND}
SEEDS = list(NAMED.values())

# Lines and parts of lines on which parsers are known to differ.
LINES = [
    b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Content-Length: 50\r\n", b"Content-Length: 51\r\n",
    b"Content-Length: 5, 5\r\n", b"Content-Length: 5,6\r\n", b"Content-Length: +5\r\n", b"Content-Length: 0x5\r\n",
    b"Content-Length: 5 \t\r\n", b"Content-Length : 5\r\n", b"Content-Length:5\r\n", b"Content-Length: \xb2\r\n",
    b"content-length: 005\r\n", b"Content-Length: 18446744073709551617\r\n", b"Content-Length: 999999999999999999\r\n",
    b"Content_Length: 5\r\n", b"Content-Length\r\n", b"Content-Length:\r\n", b"\tContent-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: Chunked\r\n", b"Transfer-Encoding: chunked \r\n",
    b"Transfer-Encoding: \tchunked\r\n", b"Transfer-Encoding:\x0bchunked\r\n", b"Transfer-Encoding : chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n", b"Transfer-Encoding: chunked, identity\r\n",
    b"Transfer-Encoding: identity\r\n", b"Transfer-Encoding: xchunked\r\n", b"Transfer-Encoding: ,chunked\r\n",
    b"Transfer-Encoding:\r\n chunked\r\n", b"Transfer-Encoding: chunked\n", b"Transfer-Encoding\x00: chunked\r\n",
    b"X: y\r\n Transfer-Encoding: chunked\r\n", b"X: y\rTransfer-Encoding: chunked\r\n",
    b"Expect: 100-continue\r\n", b"Expect: tea\r\n", b"Connection: close\r\n", b"Connection: keep-alive, Upgrade\r\n",
    b"Connection: Transfer-Encoding\r\n", b"Upgrade: h2c\r\n", b"Content-Encoding: gzip\r\n", b"Trailer: a\r\n",
    b"Host: g\r\n", b"Host: a, b\r\n", b"Host:\r\n", b": x\r\n", b"A:\r\n", b"A: \xe4\r\n", b"A\r\n", b"\r\n", b"\n",
    b"GET / HTTP/1.1\r\n", b"GET http://g/x HTTP/1.1\r\n", b"OPTIONS * HTTP/1.1\r\n", b"HEAD / HTTP/1.1\r\n",
    b"GET / HTTP/1.0\r\n", b"GET /\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 204 \r\n", b"HTTP/1.1 304 \r\n", b"HTTP/1.1 101 x\r\n", b"HTTP/1.1 999 \r\n",
    CONTINUE, MAGIC + NONCE, response_sync(NONCE), response_sync(), ACK,
    b"vsrpc-crc32: 00000000\r\n", b"vsrpc-mask: 01020304\r\n",
    b"0\r\n\r\n", b"5\r\nhello\r\n", b"5;a=b\r\nhello\r\n", b"5 \r\nhello\r\n", b"05\r\nhello\r\n", b"0x5\r\nhello\r\n",
    b"5\nhello\n", b"ffffffffffffffff\r\n", b"10000000000000000\r\n", b"-1\r\n", b"5\r\nhello", b"0\r\nA: b\r\n\r\n",
]  # fmt: skip
BYTES = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\r\n",
    b"\n\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"\x0b",
    b"\x7f",
    b"\x85",
    b"\xff",
]
NUMBERS = [
    b"0",
    b"1",
    b"5",
    b"00",
    b"50",
    b"51",
    b"0005",
    b"2147483648",
    b"4294967296",
    b"9" * 18,
    b"9" * 19,
    b"f" * 16,
]


def message(random: Random, role: Role) -> bytes:
    """A sound message: framed by length, in chunks, or without a body; with fields that ask for more, or not."""
    fields = [
        random.choice([b"A: b", b"a:\tb c ", b"X-Long: " + b"x" * 30, b"Connection: close", b"Upgrade: h2c", b"B:"])
        for _ in range(random.randrange(3))
    ]
    body = b""
    if role is ServerConnection:
        method = random.choice([b"GET", b"POST", b"PUT", b"OPTIONS", b"HEAD", b"TRACE", b"VERSION-CONTROL"])
        target = random.choice([b"/", b"/a%2Fb?c=d", b"http://g", b"http://g/x?y", b"/" + b"x" * 50])
        start = b"%s %s HTTP/1.1" % (method, target)
        fields += [b"Host: g"] + random.choice([[], [], [b"Expect: 100-continue"]])
        framing = random.choice(["none", "length", "chunked"])
    else:
        start = b"HTTP/1.1 " + random.choice(
            [b"200 OK", b"404 Not Found", b"599 ", b"999 ?", b"100 ", b"204 ", b"304 "]
        )
        framing = "none" if start.split()[1] in (b"100", b"204", b"304") else random.choice(["length", "chunked"])
    content = random.choice(
        [
            b"",
            b"hello",
            b"\r\n0\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: g\r\n\r\n",
            b"x" * 50,
            b"x" * 51,
            MAGIC,
            b"x" + MARK,
        ]
    )
    if framing == "length":
        fields.append(b"Content-Length: %d" % len(content))
        body = content
    elif framing == "chunked":
        fields.append(b"Transfer-Encoding: chunked")
        body = _chunked(random, content)
    random.shuffle(fields)
    return b"\r\n".join([start, *fields, b"", body])


def _chunked(random: Random, content: bytes) -> bytes:
    body = b""
    while content:
        size = random.randint(1, len(content))
        body += b"%s%x\r\n%s\r\n" % (b"0" * random.randrange(3), size, content[:size])
        content = content[size:]
    return body + b"0\r\n" + random.choice([b"", b"", b"A: b\r\n", b"Content-Length: 5\r\n"]) + b"\r\n"


def messages(random: Random, role: Role) -> bytes:
    """Some sound messages, pipelined."""
    return b"".join(message(random, role) for _ in range(random.randint(1, 4)))


def _insert_line(data: bytes, random: Random) -> bytes:
    at = random.choice(_line_starts(data))
    return data[:at] + random.choice(LINES) + data[at:]


def _insert_bytes(data: bytes, random: Random) -> bytes:
    at = random.randint(0, len(data))
    return data[:at] + random.choice(BYTES) + data[at:]


def _drop_line(data: bytes, random: Random) -> bytes:
    begin, end = _line(data, random)
    return data[:begin] + data[end:]


def _repeat_line(data: bytes, random: Random) -> bytes:
    begin, end = _line(data, random)
    return data[:end] + data[begin:end] * random.choice([1, 1, 8]) + data[end:]


def _move_line(data: bytes, random: Random) -> bytes:
    begin, end = _line(data, random)
    rest = data[:begin] + data[end:]
    at = random.choice(_line_starts(rest))
    return rest[:at] + data[begin:end] + rest[at:]


def _change_line_end(data: bytes, random: Random) -> bytes:
    ends = [found.start() for found in re.finditer(rb"\r\n", data)]
    if not ends:
        return data
    at = random.choice(ends)
    return data[:at] + random.choice([b"\n", b"\r", b"\r\r\n", b"\n\r", b" \r\n", b"\r\n ", b""]) + data[at + 2 :]


def _change_number(data: bytes, random: Random) -> bytes:
    numbers = [found.span() for found in re.finditer(rb"[0-9a-f]*[0-9][0-9a-f]*", data)]
    if not numbers:
        return data
    begin, end = random.choice(numbers)
    return data[:begin] + random.choice(NUMBERS) + data[end:]


def _change_case(data: bytes, random: Random) -> bytes:
    begin, end = _line(data, random)
    return data[:begin] + data[begin:end].swapcase() + data[end:]


def _change_byte(data: bytes, random: Random) -> bytes:
    at = random.randrange(len(data))
    return data[:at] + bytes([random.randrange(256)]) + data[at + 1 :]


def _drop_range(data: bytes, random: Random) -> bytes:
    begin, end = sorted((random.randint(0, len(data)), random.randint(0, len(data))))
    return data[:begin] + data[end:]


def _splice(data: bytes, random: Random) -> bytes:
    other = random.choice(SEEDS).data
    return data[: random.randint(0, len(data))] + other[random.randint(0, len(other)) :]


def _append(data: bytes, random: Random) -> bytes:
    return data + random.choice(SEEDS).data


def _append_message(data: bytes, random: Random) -> bytes:
    return data + message(random, random.choice([ServerConnection, ClientConnection]))


MUTATIONS: list[Callable[[bytes, Random], bytes]] = [
    _insert_line, _insert_line, _insert_bytes, _drop_line, _repeat_line, _move_line, _change_line_end, _change_number,
    _change_case, _change_byte, _drop_range, _splice, _append, _append_message,
]  # fmt: skip


def mutated(data: bytes, random: Random) -> bytes:
    """The data after one mutation or a few: most of what is broken in several places shows only the first."""
    for _ in range(random.choice([1, 1, 1, 2, 4])):
        data = random.choice(MUTATIONS)(data or b"\r\n", random)
    return data


def _line_starts(data: bytes) -> list[int]:
    return [0, *(found.end() for found in re.finditer(rb"\n", data))]


def _line(data: bytes, random: Random) -> tuple[int, int]:
    begin = random.choice(_line_starts(data))
    end = data.find(b"\n", begin) + 1
    return begin, end or len(data)
