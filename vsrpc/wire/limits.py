"""Every limit of the parser, with its reason and its precedents. No limit lives anywhere else."""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """Upper bounds on what a peer may send; all in bytes unless said otherwise."""

    # The request or status line without its CRLF. RFC 9110 4.1 asks for at least 8000; Apache, h11's
    # users and websockets take about 8 KiB. A longer one is answered 414.
    max_line: int = 8192

    # The whole head: start line, fields and the empty line; also the trailer section of a chunked body.
    # Calls carry metadata, tokens and deadlines, so more than the 16 KiB of Node and h11; Go takes 1 MiB,
    # which a guest need not. Beyond: 431.
    max_head: int = 65536

    # Field lines in one head (a count). Apache takes 100, websockets 128. Beyond: 431.
    max_headers: int = 128

    # Empty lines before a request line (a count). RFC 9112 2.2: a server SHOULD ignore at least one,
    # which careless clients send after a body. Beyond: 400.
    max_empty_lines: int = 1

    # A body after chunk decoding: the documented request size of 10 MiB and 64 KiB of room for the
    # fields around the content. Beyond: 413; this bounds what a head can make us allocate.
    max_body: int = 10485760 + 65536

    # A chunk-size line with its CRLF: 16 hex digits, as in Go; h11 takes 20. Extensions are refused, so
    # nothing else can be on it. Beyond: 400.
    max_chunk_line: int = 18
