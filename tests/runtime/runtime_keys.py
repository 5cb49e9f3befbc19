"""Keys for tests, and signatures made by PROTOCOL.md alone: nothing here uses the code that is tested."""

from __future__ import annotations

import hashlib
import hmac
import itertools
from pathlib import Path
from typing import Any, Callable, Mapping

from vsrpc.auth import Challenge, Key
from vsrpc.authenticator import Authenticator

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


Signer = Callable[..., str]
