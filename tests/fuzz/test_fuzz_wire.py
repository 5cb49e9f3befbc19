"""The fuzz invariant on inputs that hypothesis makes, the same ones in every run; `make fuzz` looks further."""

from __future__ import annotations

import tracemalloc

import pytest
import wire_oracles
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_driver import LIMITS, OK, TE_LINE, G, Role, post, reply
from wire_inputs import NAMED, NOT_FOUND, SEEDS, messages, mutated
from wire_invariant import LIMIT_SETS, NONCE, ROLES, SCRATCH, Case, Owner, check
from wire_oracles import EXCEPTIONS, Exempt

from vsrpc.wire import ACK, CONTINUE, MAGIC, ClientConnection, ServerConnection

roles = st.sampled_from(ROLES)
randoms = st.randoms(use_true_random=False)
ways = {"limits": st.sampled_from(LIMIT_SETS), "sizes": st.tuples(*[st.integers(1, 256)] * 3), "synced": st.booleans()}


@st.composite
def cases(draw: st.DrawFn) -> Case:
    role = draw(roles)
    random = draw(randoms)
    kind = draw(st.sampled_from(["bytes", "sound", "broken", "seed"]))
    if kind == "bytes":
        data = draw(st.binary(max_size=200))
    elif kind == "sound":
        data = messages(random, role)
    elif kind == "broken":
        data = mutated(messages(random, role), random)
    else:
        seed = draw(st.sampled_from(SEEDS))
        role, data = seed.role, mutated(seed.data, random)
    return Case(role, data, **{name: draw(values) for name, values in ways.items()})


@pytest.mark.parametrize("name", NAMED)
def test_seed(name: str) -> None:
    check(NAMED[name])


@settings(max_examples=1000, derandomize=True, deadline=None, database=None)
@given(case=cases())
def test_any_bytes(case: Case) -> None:
    check(case)


@pytest.mark.slow
@settings(max_examples=10000, deadline=None)
@given(case=cases())
def test_many_bytes(case: Case) -> None:
    check(case)


@given(case=cases())
def test_a_case_is_known_by_its_bytes(case: Case) -> None:
    assert Case.from_bytes(bytes(case)) == case


@pytest.mark.parametrize("row", EXCEPTIONS, ids=lambda row: row.name)
def test_each_exception_is_needed(row: Exempt, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(ServerConnection, row.example)
    check(case)
    monkeypatch.setattr(wire_oracles, "EXCEPTIONS", [other for other in EXCEPTIONS if other is not row])
    with pytest.raises(AssertionError):
        check(case)


ENDLESS = [
    (ServerConnection, b"", b"x"),
    (ServerConnection, b"GET / HTTP/1.1\r\n", b"A: b\r\n"),
    (ServerConnection, b"", b"\r\n"),
    (ServerConnection, b"", G),
    (ServerConnection, post(b"Content-Length: " + b"9" * 18), b"x"),
    (ServerConnection, post(TE_LINE), b"1\r\nx\r\n"),
    (ServerConnection, post(TE_LINE), b"0"),
    (ServerConnection, post(TE_LINE, body=b"0\r\n"), b"A: b\r\n"),
    (ServerConnection, MAGIC + NONCE + G[:-2], MAGIC),
    (ServerConnection, MAGIC + NONCE, ACK),
    (ServerConnection, MAGIC + NONCE + b"\0", b"x"),
    (ClientConnection, b"", b"x"),
    (ClientConnection, b"", CONTINUE),
    (ClientConnection, b"", NOT_FOUND),
    (ClientConnection, reply(OK, TE_LINE), b"1\r\nx\r\n"),
]


@pytest.mark.parametrize(("role", "begin", "unit"), ENDLESS, ids=lambda value: str(value)[-30:])
def test_memory_is_bounded(role: Role, begin: bytes, unit: bytes) -> None:
    """Whatever does not end is read in pieces as a port brings them, and what is held stays far below what came."""
    piece = unit * (4096 // len(unit))
    owner = Owner(role(LIMITS), LIMITS)
    tracemalloc.start()
    try:
        owner.receive(begin, (SCRATCH,))
        for _ in range(100):
            owner.receive(piece, (SCRATCH,))
            owner.items.clear()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 150_000, f"{peak} bytes were held while {100 * len(piece)} came"
