"""Keys for tests, signatures made by PROTOCOL.md alone (by nothing of the code that is tested), and a server that
wants them."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
from pathlib import Path
from typing import Any, Callable, Mapping

from runtime_world import Gate, RawClient, World

from vsrpc.auth import Challenge, Key
from vsrpc.authenticator import Authenticator
from vsrpc.v1.shell_pb2 import ExecRequest, ExecResponse

REST = "/api/v1/shell/exec"
SECRET = "00112233445566778899aabbccddeeff"
KEY = Key("host1", bytes.fromhex(SECRET))
OTHER = Key("host2", bytes(range(32)))

_FIELDS = (
    "connect-timeout-ms",
    "content-encoding",
    "content-type",
    "idempotency-key",
    "vsrpc-instance",
    "vsrpc-retry-age-ms",
    "x-request-id",
)

_nonces = itertools.count(1)


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def judge(*keys: Key, **options: Any) -> Authenticator:
    """Who judges by these keys."""
    known = {key.name: key for key in keys or (KEY, OTHER)}
    return Authenticator(lambda: known, **options)


def authorization(
    challenge: Challenge,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes,
    secret: str = SECRET,
    **changes: Any,
) -> str:
    """The value of Authorization; `changes` are parts of it that are signed as they are given."""
    part = {
        "key": "host1",
        "instance": challenge.instance,
        "time": challenge.time,
        "nonce": f"{next(_nonces):032x}",
        **changes,
    }
    lines = ["VSRPC1-HMAC-SHA256", *map(str, part.values()), method, target]
    lines += [f"{name}: {headers[name]}" for name in _FIELDS if name in headers]
    lines += [hashlib.sha256(body).hexdigest(), ""]
    signature = hmac.new(bytes.fromhex(secret), "\n".join(lines).encode(), hashlib.sha256).hexdigest()
    parts = [f"{name}={value}" for name, value in {**part, "signature": signature}.items()]
    return "VSRPC1-HMAC-SHA256 " + ", ".join(parts)


def key_file(path: Path, text: str, mode: int = 0o600) -> str:
    """A key file of that content, new each time, as one that is moved into its place is."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(mode)
    new.rename(path)
    return str(path)


class Guarded:
    """A world whose server wants signatures, what it ran, and peers that sign by hand."""

    def __init__(
        self, make_world: Callable[..., World], listener: Any = None, gate: Gate | None = None, **options: Any
    ) -> None:
        self.clock = Clock()
        self.judge = judge(clock=self.clock, **options.pop("judge", {}))
        self.world = make_world(listener, authenticator=self.judge, **options)
        self.ran: list[tuple[str, str]] = []
        self._gate = gate
        self.world.handlers.set("Exec", self._exec)

    def _exec(self, request: ExecRequest, context: Any) -> ExecResponse:
        self.ran.append((context.key, request.command[:10]))
        if self._gate is not None:
            self._gate.wait()
        return ExecResponse(stdout=f"run {len(self.ran)}".encode())

    def challenge(self) -> Challenge:
        return self.judge.challenge(self.world.server.me.instance)

    def session(self) -> RawClient:
        peer = self.world.peer()
        peer.begin_session()
        return peer

    def ask(
        self,
        peer: RawClient,
        command: str = "make",
        *,
        path: str = REST,
        sent: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        **signed: Any,
    ) -> None:
        """Send a signed request. `sent`: what travels in place of what was signed."""
        fields = {"content-type": "application/json", "x-request-id": "i", **(headers or {})}
        body = json.dumps({"command": command}).encode()
        value = authorization(self.challenge(), "POST", path, fields, body, **signed)
        what = {"method": "POST", "target": path, "body": body, **fields, "authorization": value, **(sent or {})}
        peer.request(what.pop("method"), what.pop("target"), what.pop("body"), **what)
