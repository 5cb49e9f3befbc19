"""A real server with servicers made of functions, real channels to it, and raw peers, all in this process."""

from __future__ import annotations

import json
import secrets
import threading
from typing import Any, Callable, Iterator, Sequence

from runtime_threads import PATIENCE, Beside

from guest.errors import ERRORS
from vsrpc.channel import Channel, ChannelOptions
from vsrpc.context import ServicerContext
from vsrpc.dispatcher import Dispatcher
from vsrpc.hello import hello_request
from vsrpc.server import Server
from vsrpc.transports import Transport, TransportClosed, connector, send_all
from vsrpc.transports.memory import MemoryListener, MemoryTransport, memory_pair
from vsrpc.v1.file_vsrpc import FILE_SERVICE
from vsrpc.v1.shell_pb2 import ExecRequest, ExecResponse
from vsrpc.v1.shell_vsrpc import SHELL_SERVICE
from vsrpc.v1.system_pb2 import PingResponse
from vsrpc.v1.system_vsrpc import SYSTEM_SERVICE
from vsrpc.wire import (
    ClientConnection,
    ClientEvent,
    Headers,
    Limits,
    Request,
    Response,
    ServerConnection,
    Sync,
    response_sync,
)

Conversation = Callable[["RawServerSide"], Any]

Handler = Callable[[Any, ServicerContext], Any]

PING = "/vsrpc.v1.System/Ping"
EXEC = "/vsrpc.v1.Shell/Exec"


def echo(request: ExecRequest, context: ServicerContext) -> ExecResponse:
    """Exec's handler unless a test has one: the command comes back as its output."""
    return ExecResponse(stdout=request.command.encode())


class Handlers:
    """A servicer of any service: each of its methods is the function of that name that a test has set."""

    def __init__(self) -> None:
        self._functions: dict[str, Handler] = {
            "Exec": echo,
            "Ping": lambda request, context: PingResponse(message="pong"),
        }

    def __getattr__(self, name: str) -> Handler:
        return lambda request, context: self._functions[name](request, context)

    def set(self, name: str, function: Handler) -> None:
        self._functions[name] = function


class PortEnd(MemoryTransport):
    """The server's end of something like a port: its peer learns of no end, and may be replaced by another unseen."""

    peer_sees_end = False


class PortListener(MemoryListener):
    """A listener whose peers sit at something like a port; several of them, unlike at a real one."""

    def accept(self) -> MemoryTransport:
        server = super().accept()
        return PortEnd(server._incoming, server._outgoing)


class World:
    """A server on an in-memory listener (or another), with channels and raw peers to it; close() ends them all."""

    def __init__(
        self, listener: Any = None, *, services: Sequence[Any] = (), dispatcher: Any = None, **server: Any
    ) -> None:
        self.handlers = Handlers()
        self.listener = listener or MemoryListener()
        self.connect = getattr(self.listener, "connect", None) or connector(self.listener.address)[1]
        self.dispatcher = Dispatcher(**{"errors": ERRORS, **(dispatcher or {})})
        for service in services or (SYSTEM_SERVICE, SHELL_SERVICE, FILE_SERVICE):
            self.dispatcher.add_service(service, self.handlers)
        self.server = Server(self.dispatcher, **server)
        self.serving = Beside(self.server.serve, self.listener)
        self._open: list[Any] = []

    def channel(self, *, hello: bool = True, connect: Any = None, **options: Any) -> Channel:
        channel = Channel(
            "memory:",
            connect or self.connect,
            ChannelOptions(**{"max_retries": 0, **options}),
            hello=hello,
        )
        self._open.append(channel)
        return channel

    def peer(self) -> RawClient:
        peer = RawClient(self.connect(5))
        self._open.append(peer)
        return peer

    def close(self) -> None:
        for each in self._open:
            each.close()
        self.server.stop()
        self.serving.result()


class Gate:
    """Handlers wait here until the test lets them go on; it knows how many have come."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._came = threading.Semaphore(0)

    def wait(self) -> None:
        self._came.release()
        assert self._open.wait(PATIENCE), "the test never opened the gate"

    def until_reached(self, times: int = 1) -> None:
        for _ in range(times):
            assert self._came.acquire(timeout=PATIENCE), "nobody came to the gate"

    def open(self) -> None:
        self._open.set()


class RawClient:
    """A peer of the server that says just what it is told to, and reads what HTTP comes."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self._connection = ClientConnection(Limits(max_body=64 << 20))

    def send(self, data: bytes) -> None:
        send_all(self.transport, [data], PATIENCE)

    def request(self, method: str, target: str, body: bytes = b"", **headers: str) -> None:
        named = [(name.replace("_", "-"), value) for name, value in headers.items()]
        self.send(b"".join(self._connection.send(Request(method, target, Headers([("host", "guest"), *named]), body))))

    def rpc(self, path: str, fields: dict[str, Any] | None = None, **headers: str) -> None:
        headers = {"content_type": "application/json", **headers}
        self.request("POST", path, json.dumps(fields or {}).encode(), **headers)

    def begin_session(self, window: int = 0) -> Response:
        """Sync and say hello; the answer to the hello."""
        nonce = secrets.token_bytes(16)
        self.send(self._connection.sync(nonce) + b"".join(self._connection.send(hello_request("hello", window))))
        assert self.event() == Sync(nonce)
        return self.response()

    def response(self) -> Response:
        """The next response."""
        event = self.event()
        assert isinstance(event, Response), f"instead of a response came {event}"
        return event

    def event(self) -> ClientEvent:
        """The next event."""
        while True:
            event = self._connection.next_event()
            if event is not None:
                return event
            count = self.transport.recv_into(self._connection.get_buffer(), PATIENCE)
            assert count, "the server closed the connection"
            self._connection.buffer_updated(count)

    def rest(self) -> bytes:
        """All that still comes, until the server closes."""
        data = bytearray()
        buffer = memoryview(bytearray(65536))
        while True:
            count = self.transport.recv_into(buffer, PATIENCE)
            if not count:
                return bytes(data)
            data += buffer[:count]

    def close(self) -> None:
        self.transport.close()


class RawServer:
    """A peer of one channel that answers just what the test says; `connect` is the channel's connector."""

    def __init__(self, conversation: Conversation, *more: Conversation) -> None:
        self._conversations = [conversation, *more]
        self.connections = 0
        self.threads: list[Beside] = []

    def connect(self, timeout: float | None) -> MemoryTransport:
        """A connection to the next conversation; the last one is had again and again."""
        client, server = memory_pair()
        talk = self._conversations[min(self.connections, len(self._conversations) - 1)]
        self.connections += 1
        self.threads.append(Beside(self._talk, server, talk))
        return client

    def _talk(self, transport: MemoryTransport, conversation: Conversation) -> None:
        try:
            conversation(RawServerSide(transport))
        except TransportClosed:
            pass  # the client went first
        finally:
            transport.close()


class RawServerSide:
    """One connection of a RawServer."""

    def __init__(self, transport: MemoryTransport) -> None:
        self.transport = transport
        self.nonce = b""
        self._connection = ServerConnection()

    def request(self) -> Request | None:
        """The next request; None when the client has gone. Acknowledgements are passed over, a sync is kept in mind."""
        while True:
            event = self._connection.next_event()
            if isinstance(event, Request):
                return event
            if isinstance(event, Sync):
                self.nonce = event.nonce
            if event is not None:
                continue
            count = self.transport.recv_into(self._connection.get_buffer(), PATIENCE)
            if not count:
                return None
            self._connection.buffer_updated(count)

    def requests(self) -> Iterator[Request]:
        while True:
            request = self.request()
            if request is None:
                return
            yield request

    def send(self, data: bytes) -> None:
        send_all(self.transport, [data], PATIENCE)

    def reply(self, request: Request | None, status: int = 200, body: bytes = b"", **headers: str) -> None:
        named = [(name.replace("_", "-"), value) for name, value in headers.items()]
        if request is not None and "x-request-id" in request.headers:
            named.append(("x-request-id", request.headers.get("x-request-id") or ""))
        self.send(b"".join(self._connection.send(Response(status, Headers(named), body))))

    def hello(self, **changes: str) -> None:
        """Answer the client's hello."""
        request = self.request()
        assert request is not None
        assert request.method == "OPTIONS"
        self.send(response_sync(self.nonce))
        fields = {"vsrpc_version": "1", "vsrpc_instance": "i", "vsrpc_agent": "raw", "vsrpc_max_request_size": "1000"}
        self.reply(request, **{**fields, **changes})

    def until_gone(self) -> None:
        """Read until the client leaves."""
        buffer = memoryview(bytearray(65536))
        while self.transport.recv_into(buffer, PATIENCE):
            pass
