"""The client under test: calls the suite's reference server on our channel, over TCP.

Its generated modules and this repository must be on PYTHONPATH. It reads ClientCompatRequests until stdin ends, makes
the call that each describes, several at a time, and writes what came of it.
"""

from __future__ import annotations

import functools
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from conformance_shapes import from_rpc_error, read_messages, to_headers, to_metadata, write_message
from connectrpc.conformance.v1 import client_compat_pb2, config_pb2, service_vsrpc

from vsrpc.channel import Channel, ChannelOptions
from vsrpc.errors import RpcError
from vsrpc.transports.sockets import connect_tcp

_CODECS = {config_pb2.CODEC_PROTO: "proto", config_pb2.CODEC_JSON: "json"}
_COMPRESSIONS = {config_pb2.COMPRESSION_IDENTITY: "", config_pb2.COMPRESSION_GZIP: "gzip"}


def answer(request: Any) -> None:
    response = client_compat_pb2.ClientCompatResponse(test_name=request.test_name)
    try:
        response.response.CopyFrom(_call(request))
    except Exception as error:
        response.error.message = repr(error)
    write_message(response)


def _call(request: Any) -> Any:
    limit = {"max_response_size": request.message_receive_limit} if request.message_receive_limit else {}
    options = ChannelOptions(
        read_timeout=None,
        max_retries=0,
        codec=_CODECS[request.codec],
        compression=_COMPRESSIONS[request.compression],
        **limit,
    )
    name = f"tcp:{request.host}:{request.port}"
    with Channel(name, functools.partial(connect_tcp, request.host, request.port), options, hello=False) as channel:
        method = getattr(service_vsrpc.ConformanceServiceStub(channel), request.method)
        descriptor = next(m for m in service_vsrpc.CONFORMANCE_SERVICE_SERVICE.methods if m.name == request.method)
        message = descriptor.request_type()
        (packed,) = request.request_messages
        if not packed.Unpack(message):
            raise ValueError(f"{request.method} does not take {packed.type_url}")
        time.sleep(request.request_delay_ms / 1000)
        call = method.future(
            message,
            timeout=request.timeout_ms / 1000 if request.HasField("timeout_ms") else None,
            metadata=to_metadata(request.request_headers),
        )
        if request.HasField("cancel"):
            time.sleep(request.cancel.after_close_send_ms / 1000)
            call.cancel()
        return _result(call)


def _result(call: Any) -> Any:
    result = client_compat_pb2.ClientResponseResult()
    try:
        response = call.result()
        if "payload" in response.DESCRIPTOR.fields_by_name:
            result.payloads.add().CopyFrom(response.payload)
    except RpcError as error:
        result.error.CopyFrom(from_rpc_error(error))
    result.response_headers.extend(to_headers(call.initial_metadata()))
    result.response_trailers.extend(to_headers(call.trailing_metadata()))
    return result


def main() -> None:
    with ThreadPoolExecutor(16) as pool:
        for request in read_messages(client_compat_pb2.ClientCompatRequest):
            pool.submit(answer, request)


if __name__ == "__main__":
    main()
