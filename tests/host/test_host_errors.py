"""From the runtime's errors to RPCError, and from there to exit codes."""

from __future__ import annotations

import pickle

import pytest

from host.cli import exits
from host.errors import NUMBERS, RPCError, failure, from_rpc_error
from vsrpc.errors import ErrorDetail, RpcError, outcome_unknown
from vsrpc.status import Code
from vsrpc.v1.error_pb2 import ErrorDetail as DetailMessage
from vsrpc.v1.error_tables import ERROR_CODES


def detail(number: int, **data: str) -> ErrorDetail:
    message = DetailMessage(code=number, data=data)  # type: ignore[arg-type]
    return ErrorDetail("vsrpc.v1.ErrorDetail", message.SerializeToString())


@pytest.mark.parametrize(
    ("error", "code", "data"),
    [
        (RpcError(Code.NOT_FOUND, "m", error_details=[detail(1003, program="x")]), 1003, {"program": "x"}),
        (RpcError(Code.NOT_FOUND, "m", error_details=[detail(9999)]), 9999, {}),
        (RpcError(Code.UNAVAILABLE, "m", reason="CONNECTION_LOST", data={"a": "b"}), 6001, {"a": "b"}),
        (RpcError(Code.PERMISSION_DENIED, "m"), 4001, {}),
        (RpcError(Code.UNKNOWN, "m"), 5001, {}),
        (RpcError(Code.NOT_FOUND, "m", error_details=[ErrorDetail("other.Type", b"x")]), 3002, {}),
    ],
)
def test_numbers_of_errors(error: RpcError, code: int, data: dict[str, str]) -> None:
    mapped = from_rpc_error(error)
    assert (mapped.code, mapped.message, mapped.data) == (code, "m", data)


def test_detail_that_cannot_be_read_is_a_protocol_error() -> None:
    error = RpcError(Code.NOT_FOUND, "m", error_details=[ErrorDetail("vsrpc.v1.ErrorDetail", b"\xff\xff")])
    assert from_rpc_error(error).reason == "PROTOCOL_ERROR"


def test_an_error_without_a_message_still_says_something() -> None:
    assert from_rpc_error(RpcError(Code.INTERNAL)).message == "the call ended with status INTERNAL"


def test_errors_show_their_code_and_survive_pickling() -> None:
    error = failure("FILE_NOT_FOUND", "No such file: /x", path="/x")
    assert str(error) == "No such file: /x [3002 FILE_NOT_FOUND]"
    assert str(RPCError(9999, "new")) == "new [9999]"
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.code, copy.message, copy.data) == (3002, "No such file: /x", {"path": "/x"})


def test_every_client_side_failure_has_a_class_of_its_own() -> None:
    ours = {entry.reason: exits.of_error(failure(entry.reason, "m")) for entry in ERROR_CODES if entry.http_status == 0}
    assert ours == {
        "CONNECTION_LOST": exits.CONNECTION,
        "CONNECTION_REFUSED": exits.CONNECTION,
        "READ_TIMEOUT": exits.TIMEOUT,
        "WRITE_TIMEOUT": exits.TIMEOUT,
        "PROTOCOL_ERROR": exits.PROTOCOL,
        "INCOMPLETE": exits.REMOTE,
    }


def test_a_call_that_may_have_taken_effect_has_a_class_of_its_own() -> None:
    error = outcome_unknown("/x: the guest's daemon was restarted after the call was sent")
    assert exits.of_error(from_rpc_error(error)) == exits.OUTCOME_UNKNOWN


def test_classes_name_only_codes_of_the_schema() -> None:
    assert set(exits._OF_REASON) <= set(NUMBERS)
    assert exits.of_error(RPCError(9999, "a code of a newer guest")) == exits.REMOTE
