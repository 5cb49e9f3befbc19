"""Calls with an idempotency key, as the server sees them: what runs, what is answered from memory, what is refused."""

from __future__ import annotations

import gc
import json
import threading
import weakref
from typing import Any, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runtime_threads import Beside, eventually
from runtime_world import EXEC, Gate, RawClient, World

from vsrpc.reply_cache import KeptReply, ReplyCache
from vsrpc.v1.error_tables import ERROR_CODES
from vsrpc.v1.shell_pb2 import ExecRequest, ExecResponse
from vsrpc.wire import Headers, Response

REST = "/api/v1/shell/exec"
NUMBERS = {entry.number: entry.reason for entry in ERROR_CODES}
UNKNOWN = {"OUTCOME_UNKNOWN"}

MakeWorld = Callable[..., World]

# Values as the parser gives them: Latin-1 without control characters, and no white space at the ends.
VALUES = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0xFF, blacklist_categories=("Cc",)), max_size=20
).filter(lambda text: text == text.strip())
NAMES = st.from_regex(r"[a-z0-9!#$%&'*+.^_`|~-]{1,12}", fullmatch=True)


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Runs:
    """Exec's handler: counts what it runs, and tells each run apart by its output."""

    def __init__(self, world: World, gate: Gate | None = None) -> None:
        self.commands: list[str] = []
        self.cancelled = threading.Event()
        self._gate = gate
        world.handlers.set("Exec", self._exec)

    def _exec(self, request: ExecRequest, context: Any) -> ExecResponse:
        self.commands.append(request.command)
        number = len(self.commands)
        context.add_callback(self.cancelled.set)
        if self._gate is not None:
            self._gate.wait()
        size = int(request.command.partition(" of ")[2] or 0)
        return ExecResponse(stdout=f"run {number}".encode().ljust(size, b"."))


def session(world: World) -> RawClient:
    peer = world.peer()
    peer.begin_session()
    return peer


def ask(peer: RawClient, key: str, command: str = "make", id: str = "i", path: str = REST, **headers: str) -> None:
    peer.rpc(path, {"command": command}, idempotency_key=key, x_request_id=id, **headers)


def what(response: Response) -> Any:
    """The output of a run, or the set of the reason why there is none."""
    fields = json.loads(bytes(response.body))
    data = fields.get("data", fields)
    return data["stdout"].rstrip(".") if response.status == 200 else {NUMBERS[fields["code"]]}


def get(peer: RawClient, *arguments: str, **headers: str) -> Any:
    ask(peer, *arguments, **headers)
    return what(peer.response())


# -- repeated calls


@pytest.mark.parametrize("path", [EXEC, REST])
@pytest.mark.parametrize("first", ["session", "plain"])
@pytest.mark.parametrize("second", ["the same", "session", "plain"])
def test_a_repeated_call_gets_the_first_ones_reply(world: World, path: str, first: str, second: str) -> None:
    runs = Runs(world)
    peers = {"session": session, "plain": lambda world: world.peer()}
    peer = peers[first](world)
    ask(peer, "k", id="one", path=path)
    one = peer.response()
    if second != "the same":
        peer.close()
        peer = peers[second](world)
    ask(peer, "k", id="two", path=path, vsrpc_retry_age_ms="5", vsrpc_instance=world.server.me.instance)
    two = peer.response()
    assert [each.headers.get_all("x-request-id") for each in (one, two)] == [["one"], ["two"]]
    assert (one.status, bytes(one.body)) == (two.status, bytes(two.body))
    ask(peer, "k2", path=path)
    assert b"run 2" in bytes(peer.response().body) or path == EXEC
    assert runs.commands == ["make", "make"], "another key is another effect"


def test_a_request_that_is_refused_by_its_head_is_no_call(world: World) -> None:
    """It ran nothing, and the one that is put right has the same key."""
    runs = Runs(world)
    peer = session(world)
    ask(peer, "k", expect="a reply")
    assert peer.response().status == 417
    assert get(peer, "k") == "run 1"
    ask(peer, "k", expect="a reply")
    assert peer.response().status == 417
    assert runs.commands == ["make"]


def test_a_call_without_a_key_runs_each_time(world: World) -> None:
    runs = Runs(world)
    peer = session(world)
    for _ in range(3):
        peer.rpc(REST, {"command": "x"})
        peer.response()
    assert len(runs.commands) == 3


def test_errors_are_remembered_too(world: World) -> None:
    ran: list[None] = []
    world.handlers.set("Exec", lambda request, context: ran.append(None) or 1 / 0)  # type: ignore[func-returns-value]
    peer = session(world)
    assert [get(peer, "k") for _ in range(2)] == [{"INTERNAL_ERROR"}] * 2
    assert len(ran) == 1


@pytest.mark.parametrize("where", ["the same session", "another session", "a plain client"])
def test_a_call_repeated_while_it_runs_waits_for_its_end(world: World, gate: Gate, where: str) -> None:
    """Both are answered: nobody knows which of the two is still waited for."""
    runs = Runs(world, gate)
    one = session(world)
    ask(one, "k", id="one")
    gate.until_reached()
    two = {"the same session": one, "another session": session(world), "a plain client": world.peer()}[where]
    ask(two, "k", id="two")
    waiting = Beside(two.response).until_waiting()
    gate.open()
    answers = [waiting.result(), one.response()]
    assert [what(answer) for answer in answers] == ["run 1", "run 1"]
    assert {answer.headers.get("x-request-id") for answer in answers} == {"one", "two"}
    assert runs.commands == ["make"]


def test_a_caller_that_comes_back_gets_the_reply_of_what_runs_still(world: World, gate: Gate) -> None:
    runs = Runs(world, gate)
    first = session(world)
    ask(first, "k")
    gate.until_reached()
    for _ in range(3):
        first.close()
        first = session(world)
        ask(first, "k", vsrpc_retry_age_ms="1")
    waiting = Beside(first.response).until_waiting()
    gate.open()
    assert what(waiting.result()) == "run 1"
    assert (runs.commands, runs.cancelled.is_set()) == (["make"], False)


# -- callers that leave


def test_a_call_whose_caller_has_gone_is_cancelled_after_a_while(make_world: MakeWorld, gate: Gate) -> None:
    world = make_world(replies=ReplyCache(orphan_time=0.05))
    runs = Runs(world, gate)
    peer = session(world)
    ask(peer, "k")
    gate.until_reached()
    assert not runs.cancelled.is_set()
    peer.close()
    assert runs.cancelled.wait(20)
    gate.open()
    eventually(lambda: get(session(world), "k") == "run 1", "it ended as it would")


def test_a_call_whose_caller_has_gone_keeps_its_deadline(make_world: MakeWorld, gate: Gate) -> None:
    world = make_world(replies=ReplyCache(orphan_time=600))
    runs = Runs(world, gate)
    peer = session(world)
    ask(peer, "k", connect_timeout_ms="300")
    gate.until_reached()
    peer.close()
    assert runs.cancelled.wait(10), "nobody comes back for it after that"


def test_a_call_without_a_key_is_cancelled_at_once(world: World, gate: Gate) -> None:
    runs = Runs(world, gate)
    peer = session(world)
    peer.rpc(REST, {"command": "x"})
    gate.until_reached()
    peer.close()
    assert runs.cancelled.wait(20)


def test_a_queued_call_whose_caller_has_gone_never_runs(make_world: MakeWorld, gate: Gate) -> None:
    """It is free to run when it is asked for again."""
    world = make_world(workers=1)
    runs = Runs(world, gate)
    ask(session(world), "running", "running")
    gate.until_reached()
    peer = session(world)
    ask(peer, "queued", "queued")
    eventually(lambda: world.server._slots._value == 127, "it is queued")
    peer.close()
    entries = world.server.replies._entries
    eventually(lambda: entries["queued"].timer, "the server has seen it")
    gate.open()
    eventually(lambda: "queued" not in entries, "it is forgotten")
    assert get(session(world), "queued", "queued", vsrpc_retry_age_ms="9") == "run 2"
    assert runs.commands == ["running", "queued"]


def test_a_queued_call_whose_caller_comes_back_runs_once(make_world: MakeWorld, gate: Gate) -> None:
    world = make_world(workers=1)
    runs = Runs(world, gate)
    ask(session(world), "running", "running")
    gate.until_reached()
    for _ in range(3):
        peer = session(world)
        ask(peer, "queued", "queued")
        eventually(lambda: "queued" in world.server.replies._entries, "it is queued")
        if _ < 2:
            peer.close()
    gate.open()
    assert what(peer.response()) == "run 2"
    assert runs.commands == ["running", "queued"]


def test_a_call_that_was_cancelled_before_its_turn_answers_who_repeats_it(make_world: MakeWorld, gate: Gate) -> None:
    world = make_world(workers=1)
    runs = Runs(world, gate)
    peer = session(world)
    ask(peer, "running", "running", id="running")
    gate.until_reached()
    ask(peer, "k", id="first")
    eventually(lambda: world.server._slots._value == 127, "it is queued")
    peer.request("OPTIONS", "*", vsrpc_cancel="first", x_request_id="c")
    assert {peer.response().headers.get("x-request-id") for _ in range(2)} == {"first", "c"}
    ask(peer, "k", id="second")
    peer.request("OPTIONS", "*", x_request_id="p")
    assert peer.response().headers.get("x-request-id") == "p", "the second has come"
    gate.open()
    answers = [peer.response() for _ in range(2)]
    assert {answer.headers.get("x-request-id") for answer in answers} == {"running", "second"}
    assert runs.commands.count("make") <= 1


# -- what is remembered


def test_a_reply_too_large_to_keep_leaves_the_outcome_unknown(make_world: MakeWorld) -> None:
    world = make_world(replies=ReplyCache(max_bytes=8000))
    runs = Runs(world)
    peer = session(world)
    assert get(peer, "small", "of 100") == get(peer, "small", "of 100") == "run 1"
    assert get(peer, "large", " of 6000") == "run 2"
    assert get(peer, "large", " of 6000") == UNKNOWN
    assert get(peer, "small", "of 100") == "run 1"
    assert len(runs.commands) == 2


def test_of_too_many_bytes_the_oldest_replies_go_and_never_that_they_ran(make_world: MakeWorld) -> None:
    world = make_world(replies=ReplyCache(max_bytes=10_000))
    runs = Runs(world)
    peer = session(world)
    for number in range(9):
        assert get(peer, f"k{number}", " of 3000") == f"run {number + 1}"
    kept = [get(peer, f"k{number}", " of 3000") for number in range(9)]
    assert kept == [UNKNOWN] * 6 + ["run 7", "run 8", "run 9"]
    assert len(runs.commands) == 9


def test_what_is_kept_of_a_call_is_its_reply(make_world: MakeWorld) -> None:
    """Not its request, which may be large: the memory is bounded in bytes."""
    world = make_world()
    calls: list[weakref.ref[Any]] = []
    real = world.dispatcher.call
    world.dispatcher.call = lambda *arguments: calls.append(weakref.ref(call := real(*arguments))) or call  # type: ignore[func-returns-value,method-assign]
    peer = session(world)
    assert get(peer, "k", "x" * 100_000)

    def gone() -> bool:
        gc.collect()
        return calls[0]() is None

    eventually(gone, "nothing holds the request any more")


FORGOTTEN: list[tuple[str, float, int, dict[str, str], Any]] = [
    # seconds after the first one's end, calls after it, fields of the retry, what it gets
    ("recent", 599, 0, {"vsrpc_retry_age_ms": "599000"}, "run 1"),
    ("old", 601, 0, {"vsrpc_retry_age_ms": "601000"}, UNKNOWN),
    ("old, and delayed on its way", 601, 0, {"vsrpc_retry_age_ms": "600700"}, UNKNOWN),
    ("a first attempt", 601, 0, {}, "run 2"),
    ("younger than what is forgotten", 601, 0, {"vsrpc_retry_age_ms": "100"}, "run 2"),
    ("within the number", 1, 3, {"vsrpc_retry_age_ms": "1000"}, "run 1"),
    ("beyond the number", 1, 9, {"vsrpc_retry_age_ms": "1000"}, UNKNOWN),
    ("a first attempt beyond the number", 1, 9, {}, "run 11"),
    ("an age that is none", 601, 0, {"vsrpc_retry_age_ms": "-1"}, {"INVALID_PARAMS"}),
    ("an age beyond all time", 601, 0, {"vsrpc_retry_age_ms": "9" * 40}, {"INVALID_PARAMS"}),
]


@pytest.mark.parametrize(("which", "seconds", "others", "fields", "outcome"), FORGOTTEN, ids=[r[0] for r in FORGOTTEN])
def test_what_may_have_been_forgotten_does_not_run(
    make_world: MakeWorld, which: str, seconds: float, others: int, fields: dict[str, str], outcome: Any
) -> None:
    clock = Clock()
    world = make_world(replies=ReplyCache(max_calls=4, clock=clock))
    runs = Runs(world)
    peer = session(world)
    assert get(peer, "k") == "run 1"
    for number in range(others):
        clock.now += seconds / others
        get(peer, f"other {number}".replace(" ", "-"))
    clock.now += 0 if others else seconds
    assert get(peer, "k", **fields) == outcome
    assert runs.commands.count("make") == 1 + others + (outcome == f"run {2 + others}")


# -- what is refused


@pytest.mark.parametrize("path", [EXEC, REST])
@pytest.mark.parametrize(
    ("why", "key", "command", "fields", "reason"),
    [
        ("another request", "k", "rm", {}, "INVALID_PARAMS"),
        ("another content type", "k", "make", {"content_type": "application/x-protobuf"}, "INVALID_PARAMS"),
        ("another lifetime", "k", "make", {"vsrpc_instance": "f" * 32}, "OUTCOME_UNKNOWN"),
        ("another lifetime, new key", "new", "make", {"vsrpc_instance": "f" * 32}, "OUTCOME_UNKNOWN"),
        ("too long", "k" * 129, "make", {}, "INVALID_PARAMS"),
        ("a space", "k k", "make", {}, "INVALID_PARAMS"),
        ("not ASCII", "k\xe9", "make", {}, "INVALID_PARAMS"),
        ("nothing", "", "make", {}, "INVALID_PARAMS"),
    ],
)
def test_keys_that_are_refused(
    world: World, path: str, why: str, key: str, command: str, fields: dict[str, str], reason: str
) -> None:
    runs = Runs(world)
    peer = session(world)
    ask(peer, "k", path=path)
    peer.response()
    ask(peer, key, command, id="two", path=path, **fields)
    response = peer.response()
    assert response.headers.get("x-request-id") == "two"
    body = json.loads(bytes(response.body))
    if path == REST:
        assert NUMBERS[body["code"]] == reason
    else:
        assert body["code"] == {"INVALID_PARAMS": "invalid_argument", "OUTCOME_UNKNOWN": "unknown"}[reason]
    assert len(runs.commands) == 1
    ask(peer, "k" * 128, path=path)
    assert peer.response().status == 200, "that is the longest"


def test_a_busy_server_leaves_the_key_free(make_world: MakeWorld, gate: Gate) -> None:
    world = make_world(workers=1, queue=0)
    runs = Runs(world, gate)
    peer = session(world)
    ask(peer, "running", "running", id="r")
    gate.until_reached()
    for path, status in ((REST, 429), (EXEC, 429)):
        ask(peer, "k", id="busy", path=path)
        response = peer.response()
        assert (response.status, response.headers.get("retry-after")) == (status, "1")
    gate.open()
    assert what(peer.response()) == "run 1"
    eventually(lambda: world.server._slots._value == 1, "its slot is free")
    assert get(peer, "k", vsrpc_retry_age_ms="100") == "run 2"
    assert runs.commands == ["running", "make"]


@given(
    st.integers(100, 599),
    st.lists(st.tuples(NAMES, VALUES)),
    st.binary(),
    st.sampled_from(["", "OK", "Not Found: a reason"]),
    st.binary(),
)
def test_a_reply_that_was_kept_is_the_one_that_was_given(
    status: int, headers: list[tuple[str, str]], body: bytes, reason: str, tail: bytes
) -> None:
    response = Response(status, Headers(headers), body, reason, tail)
    kept = KeptReply(response)
    assert (kept.response(), kept.size) == (response, len(body))
