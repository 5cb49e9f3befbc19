"""What the client needs of a wire format: one call. Two implementations: typed stubs, and JSON on the REST routes.

A call takes and gives the fields of the schema as plain Python values, in the JSON form of the REST routes, except that
large content is bytes on both ways and stands beside the reply's data. Failures are vsrpc.RpcError or RPCError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping, NamedTuple, Protocol, Union

from vsrpc.log import Log

if TYPE_CHECKING:
    from vsrpc.channel import Channel

log = Log(__name__)

Buffer = Union[bytes, bytearray, memoryview]


LARGE = ("content", "stdout")
"""Names of the fields that are large content: of a file, or of a job's output."""


class Reply(NamedTuple):
    """A reply: its fields as `data` of the REST envelope; `start` gives what is LARGE as `content`, `call` only the
    field of that name."""

    data: dict[str, Any]
    content: Buffer = b""


class Started(Protocol):
    """A call under way."""

    def result(self) -> Reply:
        """Wait for its reply. Raises RpcError, RPCError."""

    def cancel(self) -> None:
        """Give it up, if it has not ended."""


class Backend(Protocol):
    """Makes calls in one wire format."""

    starts_at_once: bool
    """Whether what `start` begins is under way before its reply is asked for."""

    def start(self, service: str, rpc: str, fields: Mapping[str, Any], timeout: float | None = None) -> Started:
        """Begin a call that may be repeated; `content` among the fields must not change until it has ended."""

    def call(self, service: str, rpc: str, fields: Mapping[str, Any], timeout: float | None = None) -> Reply:
        """Call an rpc, for example ("File", "Stat", {"path": "/etc/hosts"}); None means the channel's time-out."""


def make_backend(channel: Channel, json: bool) -> Backend:
    """The backend for protobuf, or for JSON if that is asked for or protobuf cannot be imported here."""
    if not json:
        try:
            from host.backend_proto import ProtoBackend

            return ProtoBackend(channel)
        except ImportError as missing:
            log.debug("protobuf cannot be imported (%s): calls go as JSON, file content as base64", missing)
    from host.backend_json import JsonBackend

    return JsonBackend(channel)
