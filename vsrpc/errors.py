"""The errors that callers and servicers see.

One class: RpcError says how a call ended, on both sides. A servicer raises it to end a call with a status; a
caller catches it. Layers below map what they meet (OSError, a framing error, bad JSON) to it at one place each.
"""

from __future__ import annotations

from typing import Mapping, NamedTuple, Sequence

from vsrpc.metadata import Metadata
from vsrpc.status import Code


class ErrorDetail(NamedTuple):
    """A typed detail of an error: a protobuf message by full name, serialised (google.protobuf.Any's idea)."""

    type: str
    value: bytes


class RpcError(Exception):
    """A call that ended with a status other than OK.

    `reason` is the short name of a numeric error code of the schema (for example "FILE_NOT_FOUND"), or "" where only
    the status is known; `data` holds facts about the error as text (path, limit …). `not_run`: the call surely did
    nothing, so that it may be made again whatever it is.
    """

    def __init__(
        self,
        code: Code,
        details: str = "",
        *,
        reason: str = "",
        data: Mapping[str, str] | None = None,
        error_details: Sequence[ErrorDetail] = (),
        initial_metadata: Metadata = (),
        trailing_metadata: Metadata = (),
        not_run: bool = False,
    ) -> None:
        super().__init__(code, details)
        self._code = code
        self._details = _utf8(details)
        self.reason = reason
        self.data: Mapping[str, str] = {key: _utf8(value) for key, value in (data or {}).items()}
        self.error_details: tuple[ErrorDetail, ...] = tuple(error_details)
        self.not_run = not_run
        self._initial_metadata = initial_metadata
        self._trailing_metadata = trailing_metadata

    def code(self) -> Code:
        """The status code."""
        return self._code

    def details(self) -> str:
        """The message: what went wrong, with which value, and what to do."""
        return self._details

    def initial_metadata(self) -> Metadata:
        """Metadata that came with the reply's head; empty when no reply came."""
        return self._initial_metadata

    def trailing_metadata(self) -> Metadata:
        """Metadata that came with the status; empty when no reply came."""
        return self._trailing_metadata

    def __str__(self) -> str:
        return f"{self._code.name}: {self._details}"


class NotRun(RpcError):
    """What a server ends a call with that it has not begun: it may be made again, whatever it is, and is told so.

    For servicers too, as long as they have done nothing.
    """


def busy(what: str, rule: str, limit: object) -> NotRun:
    """What a call ends with that would go beyond a limit for as long as others last.

    `what` is taken; `rule` is the key of the configuration that says how much, `limit`.
    """
    message = f"the guest is busy: {what} ({rule} in its configuration is {limit}); try again"
    return NotRun(Code.RESOURCE_EXHAUSTED, message, reason="BUSY", data={"rule": rule, "limit": str(limit)})


def outcome_unknown(message: str) -> RpcError:
    """What a call ends with that may have taken effect and must not be made again."""
    return RpcError(
        Code.UNKNOWN, f"{message}; look at what it should have done before you call again", reason="OUTCOME_UNKNOWN"
    )


def _utf8(text: str) -> str:
    """The text as UTF-8 can carry it: names of files that are not UTF-8 have surrogates in Python."""
    return text.encode("utf-8", "replace").decode("utf-8")
