"""The server under test: the suite's service on our server, over TCP.

Its generated modules and this repository must be on PYTHONPATH. It reads one ServerCompatRequest, answers with its
port, and serves until it is killed.
"""

from __future__ import annotations

import threading
from typing import Any

from conformance_shapes import packed, read_messages, to_headers, to_metadata, to_rpc_error, write_message
from connectrpc.conformance.v1 import server_compat_pb2, service_pb2, service_vsrpc

from vsrpc.context import ServicerContext
from vsrpc.dispatcher import Dispatcher
from vsrpc.server import Server
from vsrpc.transports.sockets import listen_tcp


class Servicer(service_vsrpc.ConformanceServiceServicer):
    """Answers as each request says; Unimplemented stays as generated."""

    def Unary(self, request: Any, context: ServicerContext) -> Any:
        return service_pb2.UnaryResponse(payload=_answer(request, context))

    def IdempotentUnary(self, request: Any, context: ServicerContext) -> Any:
        return service_pb2.IdempotentUnaryResponse(payload=_answer(request, context))


def _answer(request: Any, context: ServicerContext) -> Any:
    remaining = context.time_remaining()
    seen = service_pb2.ConformancePayload.RequestInfo(
        request_headers=to_headers(context.invocation_metadata()),
        timeout_ms=None if remaining is None else int(remaining * 1000),
        requests=[packed(request)],
    )
    definition = request.response_definition
    context.set_initial_metadata(to_metadata(definition.response_headers))
    context.set_trailing_metadata(to_metadata(definition.response_trailers))
    if definition.response_delay_ms:
        _wait(context, definition.response_delay_ms / 1000)
    if definition.HasField("error"):
        raise to_rpc_error(definition.error, seen)
    return service_pb2.ConformancePayload(data=definition.response_data, request_info=seen)


def _wait(context: ServicerContext, seconds: float) -> None:
    """As long as asked, or until nobody waits any more."""
    gone = threading.Event()
    if context.add_callback(gone.set):
        gone.wait(seconds)


def main() -> None:
    request = next(read_messages(server_compat_pb2.ServerCompatRequest))
    # No deadline of the server's own: the suite checks that a call without a time-out is seen without one.
    options = {"max_request_size": request.message_receive_limit} if request.message_receive_limit else {}
    dispatcher = Dispatcher(request_timeout=None, **options)
    service_vsrpc.add_ConformanceServiceServicer_to_server(Servicer(), dispatcher)
    listener = listen_tcp("127.0.0.1", 0)
    host, port = listener.address.split(":")[1:]
    write_message(server_compat_pb2.ServerCompatResponse(host=host, port=int(port)))
    Server(dispatcher).serve(listener)


if __name__ == "__main__":
    main()
