"""Signed requests, at the server and from end to end: who is refused, and that our channels are not."""

from __future__ import annotations

import json
import logging
from typing import Any, Callable

import pytest
from runtime_keys import REST, SECRET, Guarded
from runtime_threads import Beside
from runtime_world import EXEC, PING, Gate, World

from vsrpc.auth import Challenge
from vsrpc.metadata import to_headers
from vsrpc.v1.error_tables import ERROR_CODES
from vsrpc.wire import Response

NUMBERS = {entry.number: entry.reason for entry in ERROR_CODES}
LARGE = "x" * 100_000  # more than is hashed where it is read

MakeWorld = Callable[..., World]


def reason(response: Response) -> str:
    """The short name of a response's error code; "" for success."""
    fields = json.loads(bytes(response.body))
    if "details" in fields:
        return str(fields["code"]).upper()
    return NUMBERS[fields["code"]] if fields["code"] else ""


def message(response: Response) -> str:
    return str(json.loads(bytes(response.body))["message"])


def refusals() -> list[Any]:
    """How a request is signed, what is sent in place of what was signed, what the refusal says, whether it is stale."""
    wrong = "not one with key host1 over this request"
    form = "see Authentication in PROTOCOL.md"
    rows: list[tuple[str, dict[str, Any], dict[str, Any], str, bool]] = [
        ("no signature", {}, {"authorization": None}, "the request is not signed", False),
        ("another scheme", {}, {"authorization": "Basic aG9zdDE6eA=="}, form, False),
        ("no word", {}, {"authorization": "x"}, form, False),
        ("a part too much", {"nonce": "0" * 32 + ", x=1"}, {}, form, False),
        ("short nonce", {"nonce": "0" * 15}, {}, form, False),
        ("long nonce", {"nonce": "0" * 65}, {}, form, False),
        ("capitals in the nonce", {"nonce": "A" * 32}, {}, form, False),
        ("no time", {"time": ""}, {}, form, False),
        ("negative time", {"time": -1}, {}, form, False),
        ("long time", {"time": 10**15}, {}, form, False),
        ("strange name", {"key": "a b"}, {}, form, False),
        ("unknown key", {"key": "host3"}, {}, "knows no key host3", False),
        ("wrong secret", {"secret": "ff" * 16}, {}, wrong, False),
        ("the other one's name", {"key": "host2"}, {}, "not one with key host2", False),
        ("another guest's", {"instance": "ab" * 16}, {}, "signed for another guest", True),
        ("method", {}, {"method": "PUT"}, wrong, False),
        ("target", {}, {"target": REST + "?x=1"}, wrong, False),
        ("body", {}, {"body": b'{"command": "male"}'}, wrong, False),
        ("longer body", {}, {"body": b'{"command": "make"} '}, wrong, False),
        ("no body", {}, {"body": b""}, wrong, False),
        ("large body", {}, {"body": LARGE.encode()}, wrong, False),
        ("request id", {}, {"x-request-id": "j"}, wrong, False),
        ("content type", {}, {"content-type": "application/proto"}, wrong, False),
        ("deadline", {}, {"connect-timeout-ms": "5000"}, wrong, False),
        ("coding", {}, {"content-encoding": "gzip"}, wrong, False),
        ("idempotency key", {}, {"idempotency-key": "k"}, wrong, False),
        ("age", {}, {"vsrpc-retry-age-ms": "5"}, wrong, False),
        ("instance", {}, {"vsrpc-instance": "ab" * 16}, wrong, False),
    ]
    return [pytest.param(*row[1:], id=row[0]) for row in rows]


@pytest.mark.parametrize("path", [REST, EXEC])
@pytest.mark.parametrize("kind", ["session", "plain"])
@pytest.mark.parametrize(("signed", "sent", "says", "stale"), refusals())
def test_what_is_not_signed_as_it_must_be_is_refused(
    make_world: MakeWorld, path: str, kind: str, signed: dict[str, Any], sent: dict[str, Any], says: str, stale: bool
) -> None:
    guarded = Guarded(make_world)
    peer = guarded.session() if kind == "session" else guarded.world.peer()
    sent = {**sent, **({"target": path + "?x=1"} if "target" in sent else {})}
    unsigned = sent.get("authorization", "") is None
    if unsigned:
        peer.request("POST", path, b"{}", content_type="application/json", x_request_id="i")
    else:
        guarded.ask(peer, path=path, sent=sent, **signed)
    response = peer.response()
    assert response.status == 401
    assert says in message(response)
    if path == REST:
        assert reason(response) == "UNAUTHENTICATED"
    assert SECRET not in bytes(response.body).decode()
    challenge = Challenge.parse(response.headers.get("www-authenticate", ""))
    assert challenge is not None
    assert challenge[:3] == (guarded.world.server.me.instance, guarded.challenge().time, stale)
    guarded.ask(peer, path=path)
    assert peer.response().status == 200, "the next one is served"
    assert guarded.ran == [("host1", "make")]


@pytest.mark.parametrize(
    ("name", "value"), [("x-request-id", "j"), ("content-type", "text/plain"), ("authorization", "x")]
)
def test_a_signed_field_that_comes_twice_is_refused(make_world: MakeWorld, name: str, value: str) -> None:
    """Which of the two was signed, and which will be read?"""
    guarded = Guarded(make_world)
    peer = guarded.session()
    # In another case, a second one of the same name.
    guarded.ask(peer, sent={name.capitalize(): value})
    response = peer.response()
    assert (response.status, guarded.ran) == (401, [])


@pytest.mark.parametrize("command", ["make", LARGE])
@pytest.mark.parametrize("kind", ["session", "plain"])
def test_a_request_counts_once(make_world: MakeWorld, command: str, kind: str) -> None:
    guarded = Guarded(make_world)
    peers = {"session": guarded.session, "plain": guarded.world.peer}
    for peer, status in ((peers[kind](), 200), (peers[kind](), 401)):
        guarded.ask(peer, command, nonce="ab" * 16)
        response = peer.response()
        assert response.status == status
    assert "was accepted before" in message(response)
    assert len(guarded.ran) == 1
    guarded.ask(peer, command, nonce="ab" * 16, key="host2", secret=bytes(range(32)).hex())
    assert peer.response().status == 200, "of another key it is another nonce"


def test_a_refused_request_uses_up_no_nonce(make_world: MakeWorld) -> None:
    """Else whoever sees a nonce could spend it before its owner does."""
    guarded = Guarded(make_world)
    peer = guarded.session()
    for signed, status in (({"secret": "ff" * 16}, 401), ({}, 200)):
        guarded.ask(peer, nonce="ab" * 16, **signed)
        assert peer.response().status == status


@pytest.mark.parametrize(("seconds", "accepted"), [(-301, False), (-299, True), (0, True), (299, True), (301, False)])
def test_the_time_of_a_signature(make_world: MakeWorld, seconds: int, accepted: bool) -> None:
    guarded = Guarded(make_world)
    peer = guarded.session()
    guarded.ask(peer, time=guarded.challenge().time + seconds * 1000)
    response = peer.response()
    assert response.status == (200 if accepted else 401)
    if not accepted:
        assert f"301.0 s {'ahead of' if seconds > 0 else 'behind'} the guest's, 300 s are allowed" in message(response)
        assert "stale=true" in (response.headers.get("www-authenticate") or "")


def test_what_was_signed_before_a_restart_is_refused(make_world: MakeWorld) -> None:
    """Although a daemon that was restarted remembers no nonce."""
    before = Guarded(make_world)
    after = Guarded(make_world)
    peer = after.session()
    after.ask(peer, instance=before.world.server.me.instance)
    assert (peer.response().status, after.ran) == (401, [])


def test_nonces_that_were_forgotten_are_refused_with_all_of_their_time(make_world: MakeWorld) -> None:
    guarded = Guarded(make_world, judge={"max_nonces": 4})
    peer = guarded.session()
    begun = guarded.challenge().time
    sent = []
    for number in range(12):
        guarded.clock.now += 1
        sent.append({"nonce": f"{number:032x}", "time": begun + 1000 * number})
        guarded.ask(peer, **sent[-1])
        assert peer.response().status == 200
    for signed in sent:
        guarded.ask(peer, **signed)
        assert peer.response().status == 401
    guarded.ask(peer, time=begun + 7000, nonce="ab" * 16)  # a new one, but as old as one that was forgotten
    response = peer.response()
    assert (response.status, "may have come before" in message(response)) == (401, True)
    assert "stale=true" in (response.headers.get("www-authenticate") or "")
    guarded.ask(peer, time=begun + 7001)
    assert (peer.response().status, len(guarded.ran)) == (200, 13)


def test_a_signature_that_waited_longer_than_nonces_are_kept_counts_once(make_world: MakeWorld, gate: Gate) -> None:
    """Its twin may have been accepted and forgotten while it waited for a worker."""
    guarded = Guarded(make_world, gate=gate, workers=1)
    first, second, third = guarded.session(), guarded.session(), guarded.session()
    guarded.ask(first, "first")
    gate.until_reached()
    for peer in (second, third):
        guarded.ask(peer, LARGE, nonce="ab" * 16)
    responses = [Beside(peer.response).until_waiting() for peer in (second, third)]
    guarded.clock.now += 1000
    gate.open()
    assert sorted(response.result().status for response in responses) == [200, 401]
    assert [command for _, command in guarded.ran] == ["first", "x" * 10]


# -- what must not be reached


def test_a_reply_that_is_kept_goes_to_the_holder_of_its_key_alone(make_world: MakeWorld) -> None:
    guarded = Guarded(make_world)
    peer = guarded.session()
    once = {"idempotency-key": "k"}
    guarded.ask(peer, headers=once)
    assert b"run 1" in bytes(peer.response().body)
    peer.rpc(REST, {"command": "make"}, idempotency_key="k")
    assert peer.response().status == 401
    guarded.ask(peer, headers=once, secret="ff" * 16)
    assert peer.response().status == 401
    peer.rpc(REST, {"command": "make"}, idempotency_key="k", expect="a reply")
    response = peer.response()
    assert (response.status, "cannot be met" in message(response)) == (417, True)
    guarded.ask(peer, headers=once, key="host2", secret=bytes(range(32)).hex())
    assert reason(peer.response()) == "INVALID_PARAMS"
    guarded.ask(peer, headers=once)
    assert b"run 1" in bytes(peer.response().body)
    assert guarded.ran == [("host1", "make")]


@pytest.mark.parametrize("size", [10, 100_000])
def test_nothing_is_decoded_before(make_world: MakeWorld, size: int) -> None:
    """Neither what is no JSON, nor what is no gzip, nor a path that is none makes a difference."""
    guarded = Guarded(make_world)
    peer = guarded.session()
    answers = set()
    for target, headers in (
        (REST, {"content_type": "application/json"}),
        (REST, {"content_type": "text/plain", "connect_timeout_ms": "soon"}),
        (EXEC, {"content_type": "application/proto", "content_encoding": "gzip"}),
        (EXEC, {"content_type": "application/proto", "content_encoding": "br", "idempotency_key": "k" * 200}),
        ("/nowhere", {}),
    ):
        peer.request("POST", target, b"\xff" * size, **headers)
        response = peer.response()
        answers.add((response.status, message(response)))
    assert len(answers) == 1


def test_large_bodies_are_hashed_by_workers(make_world: MakeWorld, gate: Gate) -> None:
    """So the thread that reads goes on: while all workers are taken, a small request is judged, a large one waits, and
    one too many is refused without being hashed."""
    guarded = Guarded(make_world, gate=gate, workers=1, queue=1)
    peer = guarded.session()
    guarded.ask(peer, headers={"x-request-id": "runs"})
    gate.until_reached()
    guarded.ask(peer, LARGE, headers={"x-request-id": "waits", "idempotency-key": "k"}, secret="ff" * 16)
    guarded.ask(peer, LARGE, headers={"x-request-id": "busy", "idempotency-key": "k"})
    response = peer.response()
    assert (response.headers.get("x-request-id"), reason(response)) == ("busy", "BUSY")
    assert "retry-after" in response.headers
    peer.rpc(PING, x_request_id="ping")
    response = peer.response()
    assert (response.headers.get("x-request-id"), response.status) == ("ping", 401)
    gate.open()
    assert {(peer.response().headers.get("x-request-id")) for _ in range(2)} == {"runs", "waits"}
    assert guarded.ran == [("host1", "make")]


def test_refusals_are_logged_but_not_all(make_world: MakeWorld, caplog: pytest.LogCaptureFixture) -> None:
    guarded = Guarded(make_world)
    peer = guarded.session()
    with caplog.at_level(logging.WARNING, "vsrpc.authenticator"):
        for _ in range(12):
            peer.rpc(PING)
            peer.response()
            guarded.clock.now += 0.125
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(" refused: the request is not signed")[0] for line in lines] == [f"POST {PING}"] * 2
    assert ["(7 more before it)" in line for line in lines] == [False, True]


def test_authorization_is_no_metadata() -> None:
    with pytest.raises(ValueError, match="reserved"):
        to_headers([("authorization", "Bearer x")])
