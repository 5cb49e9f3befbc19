"""One request on its way through the dispatcher: its context, its deadline, and the form of its responses.

It knows which door the request came through, rpc path or REST route, and answers in that door's form, errors too.
"""

from __future__ import annotations

import copy
import logging
import re
import secrets
import time
from typing import TYPE_CHECKING, Any, Sequence

from vsrpc import codec, connect_unary
from vsrpc.auth import CHALLENGE, Challenge
from vsrpc.context import NotNow, ServicerContext
from vsrpc.deadline import Deadline
from vsrpc.errors import NotRun, RpcError, outcome_unknown
from vsrpc.hello import REQUEST_ID
from vsrpc.metadata import from_headers
from vsrpc.parking import Parking
from vsrpc.status import Code
from vsrpc.wire import Buffer, Headers, Refused, Request, Response

IDEMPOTENCY_KEY = "idempotency-key"
"""Names one intended effect: repeated calls with the same key take effect once."""

RETRY_AGE = "vsrpc-retry-age-ms"
"""How long ago the call was first sent with its key."""

INSTANCE = "vsrpc-instance"
"""The daemon's lifetime in which it was; the memory of calls is not longer."""

if TYPE_CHECKING:
    from vsrpc.dispatcher import Dispatcher

_log = logging.getLogger(__name__)

# A request id is echoed in a header and written to logs; one that is not of this shape is replaced.
_REQUEST_ID = re.compile(r"[!-~]{1,128}\Z")

_AGE = re.compile(r"[0-9]{1,12}\Z")

NOT_RUN = (connect_unary.RETRY_AFTER, "1")
"""RFC 9110 10.2.3, in seconds: on responses to requests that did nothing."""


class IncomingCall:
    """One request on its way through the dispatcher. The server runs it, may cancel it, and asks for its response."""

    def __init__(self, dispatcher: Dispatcher, request: Request, peer: str, refused: Refused | None = None) -> None:
        self._dispatcher = dispatcher
        self._refused = refused
        self.request = request
        self.path, _, self.query = request.target.partition("?")
        given = request.headers.get(REQUEST_ID)
        self.request_id = given if given is not None and _REQUEST_ID.match(given) else secrets.token_hex(8)
        self.is_rpc = dispatcher.is_rpc(self.path)
        self.idempotency_key = request.headers.get(IDEMPOTENCY_KEY, "")
        self.reached_servicer = False
        self.parsed: tuple[str, Any] | None = None
        """The request's content type and message, of an rpc path, once they are known (set by the dispatcher)."""
        self.parking: Parking | None = None
        """Where it waits without a thread (set by the server)."""
        self.context = ServicerContext(self.path, self.request_id, Deadline(None), from_headers(request.headers), peer)
        try:
            seconds = connect_unary.parse_timeout(request.headers)
            self._bad_timeout: RpcError | None = None
        except RpcError as error:
            seconds, self._bad_timeout = None, error.with_traceback(None)
        self.context.set_deadline(seconds, dispatcher.request_timeout)

    @property
    def refused_by_wire(self) -> bool:
        """Whether its head alone condemns it; its body is not here."""
        return self._refused is not None

    @property
    def retry_age(self) -> float | None:
        """Seconds since the call was first sent; None where this is the first time."""
        value = self.request.headers.get(RETRY_AGE)
        return None if value is None else int(value) / 1000

    def check_key(self, instance: str) -> None:
        """Raises RpcError for a key or an age that is none, and for a key that another lifetime of the daemon than
        `instance` has seen."""
        if not _REQUEST_ID.match(self.idempotency_key):
            raise RpcError(
                Code.INVALID_ARGUMENT,
                f"Idempotency-Key {self.idempotency_key!r} is not 1 to 128 visible ASCII characters",
                reason="INVALID_PARAMS",
            )
        age = self.request.headers.get(RETRY_AGE)
        if age is not None and not _AGE.match(age):
            raise RpcError(
                Code.INVALID_ARGUMENT,
                f"Vsrpc-Retry-Age-Ms {age!r} is not a number of milliseconds with at most twelve digits",
                reason="INVALID_PARAMS",
            )
        if self.request.headers.get(INSTANCE, instance) != instance:
            raise outcome_unknown(f"{self.path}: the guest's daemon was restarted since the call was first sent")

    def run(self) -> Response:
        """Serve the request; every failure becomes a response. Raises NotNow where the call must wait, and may not."""
        try:
            if self._refused is not None:
                raise _refusal(self._refused)
            if self._bad_timeout is not None:
                raise copy.copy(self._bad_timeout)
            self.check_deadline()
            return self._dispatcher.serve(self)
        except NotNow:
            raise
        except RpcError as error:
            if not self.reached_servicer:  # what servicers say is for interceptors to log
                _log.info("%s %s [%s] refused: %s", self.request.method, self.path, self.request_id, error.details())
                self._dispatcher.refused(self, error)
            return self.not_run(error) if isinstance(error, NotRun) else self.fail(error)
        except BaseException:  # a servicer that calls sys.exit() too: a request never ends the daemon
            _log.exception("%s [%s]: internal error", self.path, self.request_id)
            return self.fail(
                RpcError(
                    Code.INTERNAL,
                    f"internal error while serving {self.path}; the daemon's log has it under request id "
                    f"{self.request_id}",
                    reason="INTERNAL_ERROR",
                    data={"request_id": self.request_id},
                )
            )

    def release(self) -> None:
        """The call is over: what its request holds is free for others."""
        if self.request.room is not None:
            self.request.room.release()

    def check_deadline(self) -> None:
        """Raises RpcError DEADLINE_EXCEEDED once the deadline has passed."""
        if self.context.deadline.expired:
            raise self.deadline_exceeded()

    def deadline_exceeded(self) -> RpcError:
        """What a call ends with whose deadline has passed."""
        return RpcError(
            Code.DEADLINE_EXCEEDED, f"{self.path} did not end within its deadline", reason="DEADLINE_EXCEEDED"
        )

    def given_up(self) -> RpcError:
        """What a call ends with that will not run, since the one that it repeats was given up before it ran."""
        if self.context.deadline.expired:
            return self.deadline_exceeded()
        message = f"{self.path}: the first call with this key was cancelled before it ran"
        return RpcError(Code.CANCELLED, message, reason="CANCELLED")

    def repeat(self, response: Response) -> Response:
        """The response of the call that this one repeats, as the response to this one."""
        headers = [(name, value) for name, value in response.headers if name != REQUEST_ID]
        return Response(response.status, Headers([*headers, (REQUEST_ID, self.request_id)]), response.body)

    def not_run(self, error: RpcError) -> Response:
        """The response for an error of a request that did nothing: it may be sent again, whatever it asks for."""
        return _with(NOT_RUN, self.fail(error))

    def not_authentic(self, error: RpcError, challenge: Challenge) -> Response:
        """The response to a request that is not signed as it must be."""
        return _with((CHALLENGE, str(challenge)), self.fail(error))

    def fail(self, error: RpcError) -> Response:
        """The response for an error, in the form of the door that the request came through."""
        errors = self._dispatcher.errors
        if self.is_rpc:
            response = self._rpc_error(errors.with_detail(error))
        else:
            entry = errors.entry(error)
            extra = [("allow", error.data["allowed"])] if _names_allowed(error) else []
            response = self.envelope(entry.number, error.details(), dict(error.data), entry.http_status, extra)
        if self._refused is not None:
            return Response(self._refused.status, response.headers, response.body)
        return response

    def envelope(
        self, code: int, message: str, data: Any, http_status: int = 200, extra: Sequence[tuple[str, str]] = ()
    ) -> Response:
        """A REST response."""
        body = codec.dump_json({"code": code, "message": message, "timestamp": int(time.time()), "data": data})
        headers = [("content-type", codec.JSON_TYPE), *extra]
        return self.respond(http_status, headers, body)

    def respond(self, status: int, headers: Sequence[tuple[str, str]], body: Buffer, tail: Buffer = b"") -> Response:
        """A response with the headers that every one has."""
        milliseconds = (time.monotonic() - self.context.began) * 1000
        return Response(
            status,
            # Sound already: ours, or checked as metadata or as a request id.
            Headers.parsed([*headers, (REQUEST_ID, self.request_id), ("x-response-time", f"{milliseconds:.1f}")]),
            body,
            tail=tail,
        )

    def _rpc_error(self, error: RpcError) -> Response:
        try:
            metadata = connect_unary.join_metadata(
                error.initial_metadata() or self.context.initial_metadata(),
                error.trailing_metadata() or self.context.trailing_metadata(),
            )
        except (TypeError, ValueError):
            _log.exception("%s [%s]: an error's metadata cannot be sent", self.path, self.request_id)
            metadata = []
        status = error.code().http_status
        extra: list[tuple[str, str]] = []
        if _names_allowed(error):
            status, extra = 405, [("allow", error.data["allowed"])]
        elif error.reason == "ENDPOINT_NOT_FOUND":
            status = 404
        elif error.reason == "UNSUPPORTED_MEDIA_TYPE" and error.code() is Code.UNKNOWN:
            status, extra = 415, [("accept-post", ", ".join((*codec.PROTO_TYPES, codec.JSON_TYPE)))]
        return self.respond(
            status, [("content-type", codec.JSON_TYPE), *extra, *metadata], connect_unary.error_body(error)
        )


def _with(field: tuple[str, str], response: Response) -> Response:
    return response._replace(headers=Headers([*response.headers, field]))


def _refusal(refused: Refused) -> RpcError:
    if refused.status == 413:
        return RpcError(Code.RESOURCE_EXHAUSTED, refused.message, reason="TOO_LARGE")
    if refused.status == 429:
        return NotRun(Code.RESOURCE_EXHAUSTED, refused.message, reason="BUSY", data={"rule": "limits.buffered"})
    return RpcError(Code.UNIMPLEMENTED, refused.message)


def _names_allowed(error: RpcError) -> bool:
    return error.reason == "METHOD_NOT_ALLOWED" and "allowed" in error.data
