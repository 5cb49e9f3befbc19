"""Calls in flight: the future of one call, the table that matches replies to calls, and the shapes that stubs use."""

from __future__ import annotations

import threading
from typing import Any, Callable, Generic, Iterable, Protocol, TypeVar

from vsrpc.deadline import Deadline
from vsrpc.errors import RpcError
from vsrpc.log import Log
from vsrpc.metadata import Metadata
from vsrpc.status import Code
from vsrpc.wire import Response

_log = Log(__name__)

Req = TypeVar("Req", contravariant=True)
Res = TypeVar("Res")
ResCo = TypeVar("ResCo", covariant=True)

MetadataLike = Iterable["tuple[str, str | bytes]"]


def _never(response: Response) -> bool:
    return False


class Call(Protocol[ResCo]):
    """A call under way, or ended: gRPC's Future and Call in one."""

    def result(self, timeout: float | None = None) -> ResCo:
        """Wait for the response. Raises the RpcError that the call ended with, or after `timeout` TimeoutError."""

    def exception(self, timeout: float | None = None) -> RpcError | None:
        """Wait for the end; the error, or None when there is a response."""

    def cancel(self) -> bool:
        """Give up: False when it has ended already."""

    def cancelled(self) -> bool: ...

    def done(self) -> bool: ...

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback(call)` when it ends, in the thread that ends it; at once if it has. Its errors are logged."""

    def code(self) -> Code:
        """Wait for the end; the status code."""

    def details(self) -> str:
        """Wait for the end; the error's message, or ""."""

    def initial_metadata(self) -> Metadata: ...

    def trailing_metadata(self) -> Metadata: ...


class UnaryUnary(Protocol[Req, ResCo]):
    """What a stub's attribute is: calls one method. The request may be left out where all its fields are at their
    defaults; `timeout` is in seconds. Errors are RpcError."""

    def __call__(
        self, request: Req | None = None, timeout: float | None = None, metadata: MetadataLike | None = None
    ) -> ResCo:
        """Make the call and wait for the response."""

    def with_call(
        self, request: Req | None = None, timeout: float | None = None, metadata: MetadataLike | None = None
    ) -> tuple[ResCo, Call[ResCo]]:
        """The same, and the call with its metadata."""

    def future(
        self, request: Req | None = None, timeout: float | None = None, metadata: MetadataLike | None = None
    ) -> Call[ResCo]:
        """Send the request and return: one attempt, never retried."""


class UnaryChannel(Protocol):
    """What a stub needs of a channel: ours, or a grpc.Channel."""

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """A callable for the method at that path."""


class CallFuture(Generic[Res]):
    """One call under way. Ends once: with a reply, an error, or by cancel(); whoever comes later is ignored."""

    def __init__(
        self,
        request_id: str,
        deadline: Deadline,
        decode: Callable[[Response], tuple[Res, Metadata, Metadata]],
        forget: Callable[[str], None] = lambda request_id: None,
    ) -> None:
        self.request_id = request_id
        self.deadline = deadline
        self.session: object = None
        """The session that the request went out in."""
        self.send_anew: Callable[[Response], bool] = _never
        """Whether a reply only asks for the request to be sent anew, which is then done (set by the channel)."""
        self.sending = False
        """The request is on its way: whoever sends it ends the call when it cannot be sent."""
        self._decode = decode
        self._forget = forget
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._claimed = False
        self._value: Res | None = None
        self._error: RpcError | None = None
        self._initial: Metadata = ()
        self._trailing: Metadata = ()
        self._callbacks: list[Callable[[Any], None]] = []

    def reply(self, response: Response) -> None:
        """End with what a reply says (called by the channel)."""
        if not self._claim():
            return
        try:
            self._value, self._initial, self._trailing = self._decode(response)
        except RpcError as error:
            self._set_error(error)
        except Exception as error:
            _log.exception("the reply to call %s could not be read", self.request_id)
            self._set_error(RpcError(Code.INTERNAL, f"the reply could not be read: {error!r}", reason="PROTOCOL_ERROR"))
        self._finish()

    def fail(self, error: RpcError) -> None:
        """End with an error (called by the channel)."""
        if self._claim():
            self._set_error(error)
            self._finish()

    def result(self, timeout: float | None = None) -> Res:
        self._wait(timeout)
        if self._error is not None:
            try:
                raise self._error
            finally:
                del (
                    self
                )  # from the traceback that the error has: else what was sent stays until somebody looks for cycles
        return self._value  # type: ignore[return-value]  # None is a response too, where Res says so

    def exception(self, timeout: float | None = None) -> RpcError | None:
        self._wait(timeout)
        return self._error

    def cancel(self) -> bool:
        if not self._claim():
            return False
        self._set_error(RpcError(Code.CANCELLED, "cancelled by the caller", reason="CANCELLED"))
        self._finish()
        return True

    def cancelled(self) -> bool:
        return self._ended.is_set() and self._error is not None and self._error.code() is Code.CANCELLED

    def running(self) -> bool:
        return not self._ended.is_set()

    def done(self) -> bool:
        return self._ended.is_set()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        with self._lock:
            if not self._ended.is_set():
                self._callbacks.append(callback)
                return
        self._tell(callback)

    def code(self) -> Code:
        error = self.exception()
        return Code.OK if error is None else error.code()

    def details(self) -> str:
        error = self.exception()
        return "" if error is None else error.details()

    def initial_metadata(self) -> Metadata:
        self._wait(None)
        return self._initial

    def trailing_metadata(self) -> Metadata:
        self._wait(None)
        return self._trailing

    def expire(self) -> None:
        """End with DEADLINE_EXCEEDED if the deadline has passed (called by the channel)."""
        if self.deadline.expired:
            self.fail(
                RpcError(
                    Code.DEADLINE_EXCEEDED,
                    "no reply before the deadline; the call may have taken effect",
                    reason="READ_TIMEOUT",
                )
            )

    def _wait(self, timeout: float | None) -> None:
        if self._ended.wait(self.deadline.sooner(timeout).remaining()):
            return
        self.expire()
        # Whoever claimed it in the same moment is about to set the event.
        if self._claimed:
            self._ended.wait()
        else:
            raise TimeoutError(f"the call has not ended within {timeout} s")

    def _claim(self) -> bool:
        with self._lock:
            if self._claimed:
                return False
            self._claimed = True
            return True

    def _set_error(self, error: RpcError) -> None:
        self._error = error.with_traceback(None)
        self._initial, self._trailing = error.initial_metadata(), error.trailing_metadata()

    def _finish(self) -> None:
        self._forget(self.request_id)
        self.send_anew = _never  # what the request holds is not to be kept as long as its reply
        with self._lock:
            self._ended.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            self._tell(callback)

    def _tell(self, callback: Callable[[Any], None]) -> None:
        try:
            callback(self)
        except Exception:  # it must not end the thread that receives everybody's replies
            _log.exception("a callback of call %s failed", self.request_id)


class PendingCalls:
    """Calls that wait for a reply, in the order in which they were sent."""

    def __init__(self) -> None:
        self._calls: dict[str, CallFuture[Any]] = {}
        self._lock = threading.Lock()

    def add(self, call: CallFuture[Any]) -> None:
        """Expect a reply to `call`, under its request id."""
        with self._lock:
            self._calls[call.request_id] = call

    def take(self, request_id: str, session: object = None) -> CallFuture[Any] | None:
        """The call with that id, which is then expected no more; None where there is none, or not in that session."""
        with self._lock:
            call = self._calls.get(request_id)
            if call is None or session not in (None, call.session):
                return None
            return self._calls.pop(request_id)

    def take_oldest(self, session: object) -> CallFuture[Any] | None:
        """The call that was sent first in that session: for peers that answer in order."""
        with self._lock:
            for request_id, call in self._calls.items():
                if call.session is session:
                    return self._calls.pop(request_id)
            return None

    def all(self) -> list[CallFuture[Any]]:
        """The calls that wait now, oldest first."""
        with self._lock:
            return list(self._calls.values())
