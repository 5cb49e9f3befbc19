"""One call's request on its way out of a channel: what each sending of it adds, and when it is sent anew."""

from __future__ import annotations

from typing import Any

from vsrpc.auth import CHALLENGE, Challenge, Key, sign
from vsrpc.calls import CallFuture
from vsrpc.client_session import Session
from vsrpc.errors import RpcError
from vsrpc.retry import Effect
from vsrpc.status import Code
from vsrpc.wire import Headers, Request, Response

# How often a request is signed anew. Once is enough, unless the server is paused or restarted in just that moment.
_MAX_SIGNED_ANEW = 3


class Outgoing:
    """A call's request. `effect`: what makes it take effect once; `key`: what signs it where the server wants that."""

    def __init__(self, call: CallFuture[Any], request: Request, effect: Effect | None, key: Key | None) -> None:
        self.call = call
        self.effect = effect
        self.request = request
        self.first = False
        """Nothing that was to take effect once has been sent before."""
        self._key = key
        self._signed = False
        self._signed_anew = 0

    def check(self, session: Session) -> None:
        """Raises RpcError where the server of the session would refuse it."""
        if session.challenge is not None and self._key is None:
            message = f"{self.request.target}: the guest takes only signed requests, and there is no key to sign with"
            raise RpcError(Code.UNAUTHENTICATED, message, reason="UNAUTHENTICATED")
        size = len(self.request.body) + len(self.request.tail)
        if session.peer is not None and size > session.peer.max_request_size:
            raise RpcError(
                Code.RESOURCE_EXHAUSTED,
                f"the request has {size} bytes, the guest takes at most {session.peer.max_request_size}; "
                "send it in chunks, or raise server.max_request_size in the guest's configuration",
                reason="TOO_LARGE",
                not_run=True,
            )

    def for_session(self, session: Session) -> Request:
        """The request as it is to be sent now: a signature counts once, and for a while."""
        request = self.request
        self.first = self.effect is not None and self.effect.instance is None
        if self.effect is not None:
            request = request._replace(headers=Headers.parsed([*request.headers, *self.effect.headers()]))
        self._signed = session.challenge is not None and self._key is not None
        if session.challenge is not None and self._key is not None:
            request = sign(request, self._key, session.challenge)
        return request

    def must_be_signed_anew(self, response: Response) -> bool:
        """Whether a response says that the request did nothing, and may do it once it is signed for another time (the
        guest was paused, say) or at all (we did not know). The session then knows for what."""
        challenge = None if response.status != 401 else Challenge.parse(response.headers.get(CHALLENGE, ""))
        session = self.call.session
        if challenge is None or self._key is None or not isinstance(session, Session):
            return False
        if (self._signed and not challenge.stale) or self._signed_anew == _MAX_SIGNED_ANEW:
            return False
        self._signed_anew += 1
        session.challenge = challenge
        if self.effect is not None and self.first:
            self.effect.not_sent()
        return True
