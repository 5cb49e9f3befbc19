"""Content codings of bodies: identity and gzip, with a limit on what may come out."""

from __future__ import annotations

from vsrpc.errors import RpcError
from vsrpc.status import Code
from vsrpc.wire import Buffer

ACCEPTED = "gzip"
"""Value of Accept-Encoding; identity always goes."""


def compress(body: Buffer) -> bytes:
    """The body as gzip, the same for the same body at any time: a call that is repeated must look like itself. Level 1:
    the port is faster than a guest's CPU compresses at higher ones."""
    import gzip  # here, as below: most channels compress nothing

    return gzip.compress(bytes(body), compresslevel=1, mtime=0)


def decompress(body: Buffer, coding: str, limit: int) -> Buffer:
    """The body decoded from `coding` ("" and "identity" leave it as it is).

    Raises RpcError: UNIMPLEMENTED for another coding, INVALID_ARGUMENT for broken gzip, RESOURCE_EXHAUSTED when it has
    more than `limit` bytes (no more than that is ever decompressed).
    """
    if coding in ("", "identity"):
        if len(body) > limit:
            raise _too_large(f"the body has {len(body)} bytes; the limit is {limit}: send it in parts", limit)
        return body
    if coding != "gzip":
        raise RpcError(
            Code.UNIMPLEMENTED,
            f"Content-Encoding {coding!r} is not supported; use gzip or identity",
            reason="UNSUPPORTED_MEDIA_TYPE",
        )
    if not body:
        # Connect's peers send an empty message uncompressed under the coding's name.
        return b""
    import zlib

    inflater = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        data = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise RpcError(Code.INVALID_ARGUMENT, f"the body is not valid gzip: {error}", reason="INVALID_PARAMS") from None
    if len(data) > limit:
        what = f"the body is larger than the limit of {limit} bytes once decompressed"
        raise _too_large(f"{what}: send it in parts", limit)
    if not inflater.eof or inflater.unused_data:
        what = "ends too early" if not inflater.eof else "has bytes after its end"
        raise RpcError(Code.INVALID_ARGUMENT, f"the gzip body {what}", reason="INVALID_PARAMS")
    return data


def _too_large(message: str, limit: int) -> RpcError:
    return RpcError(Code.RESOURCE_EXHAUSTED, message, reason="TOO_LARGE", data={"limit": str(limit)})
