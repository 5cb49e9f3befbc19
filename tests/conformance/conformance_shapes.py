"""What both programs under test share: messages on stdin and stdout, metadata and errors in the suite's shapes."""

from __future__ import annotations

import sys
import threading
from typing import Any, Iterable, Iterator, TypeVar

from connectrpc.conformance.v1 import service_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from vsrpc.errors import ErrorDetail, RpcError
from vsrpc.metadata import Metadata
from vsrpc.status import Code

M = TypeVar("M", bound=Message)

_TYPE_URL = "type.googleapis.com/"
_writing = threading.Lock()


def read_messages(message_type: type[M]) -> Iterator[M]:
    """Messages on stdin, each after its size as four bytes, big-endian, until stdin ends."""
    stdin = sys.stdin.buffer
    while True:
        size = stdin.read(4)
        if not size:
            return
        yield message_type.FromString(stdin.read(int.from_bytes(size, "big")))


def write_message(message: Message) -> None:
    """One message to stdout, in the same form."""
    data = message.SerializeToString()
    with _writing:
        sys.stdout.buffer.write(len(data).to_bytes(4, "big") + data)
        sys.stdout.buffer.flush()


def to_metadata(headers: Iterable[Any]) -> Metadata:
    """Metadata of the suite's headers."""
    return tuple((header.name.lower(), value) for header in headers for value in header.value)


def to_headers(metadata: Metadata) -> list[Any]:
    """The suite's headers of metadata."""
    headers: dict[str, Any] = {}
    for key, value in metadata:
        header = headers.setdefault(key, service_pb2.Header(name=key))
        header.value.append(value if isinstance(value, str) else value.decode("latin-1"))
    return list(headers.values())


def to_rpc_error(error: Any, *details: Message) -> RpcError:
    """The RpcError of the suite's error, with its details and then `details`."""
    packed = [ErrorDetail(any_.type_url.rpartition("/")[2], any_.value) for any_ in error.details]
    packed += [ErrorDetail(detail.DESCRIPTOR.full_name, detail.SerializeToString()) for detail in details]
    return RpcError(Code(error.code), error.message, error_details=packed)


def from_rpc_error(error: RpcError) -> Any:
    """The suite's error of an RpcError."""
    return service_pb2.Error(
        code=error.code().value,
        message=error.details(),
        details=[AnyMessage(type_url=_TYPE_URL + detail.type, value=detail.value) for detail in error.error_details],
    )


def packed(message: Message) -> AnyMessage:
    """The message in an Any."""
    return AnyMessage(type_url=_TYPE_URL + message.DESCRIPTOR.full_name, value=message.SerializeToString())
