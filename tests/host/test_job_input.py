"""Input for a job that a host gives in several calls at a time: in order, once, however calls end."""

from __future__ import annotations

import hashlib
from typing import Any, Callable, Iterator

import pytest

from host.backend import Reply
from host.client import VirtioRPCClient
from host.errors import RPCError, failure
from host.jobs import RemoteJob
from host.local import LocalGuest

PIECES = [b"one", b"two", b"three", b"four"]


class Guest:
    """Takes input as a guest does. `ends` says how the calls of the window end, in their order: as they do, with their
    replies lost, or without having come."""

    starts_at_once = True

    def __init__(self, ends: str) -> None:
        self.give_way: Callable[[], None] = lambda: None
        self.taken = b""
        self.eof = False
        self._ends = iter(ends)

    def reply(self, service: str, rpc: str, fields: Any, timeout: float | None = None) -> Reply:
        offset, content = fields["offset"], fields["content"]
        if offset > len(self.taken):
            raise failure("INVALID_PARAMS", "a gap")
        fresh = content[len(self.taken) - offset :]
        assert not (self.eof and fresh)
        self.taken += fresh
        self.eof = self.eof or fields["eof"]
        return Reply({"offset": len(self.taken), "closed": False})

    def start(self, service: str, rpc: str, fields: Any, timeout: float | None = None) -> Any:
        return Call(self, next(self._ends, "."), fields)


class Call:
    def __init__(self, guest: Guest, end: str, fields: Any) -> None:
        self._reply: Reply | RPCError = failure("READ_TIMEOUT", "lost")
        try:
            if end in ".l":
                reply = guest.reply("Job", "Write", fields)
                self._reply = reply if end == "." else self._reply
        except RPCError as error:
            self._reply = error

    def result(self) -> Reply:
        if isinstance(self._reply, RPCError):
            raise self._reply
        return self._reply

    def cancel(self) -> None: ...


@pytest.mark.parametrize(
    "ends",
    [
        ".....",
        "lllll",  # all was taken, and the host knows of nothing
        "l....",
        "..l..",
        "n....",  # the first did not come: the others leave a gap
        "..n..",
        "....l",
        "....n",
        "lnlnl",
    ],
)
def test_input_is_given_in_order_and_once(ends: str) -> None:
    guest = Guest(ends)
    source = iter([*PIECES, b""])
    RemoteJob(guest, "id").feed(lambda: next(source))  # type: ignore[arg-type]
    assert (guest.taken, guest.eof) == (b"".join(PIECES), True)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtioRPCClient]:
    """The client of a guest that takes only small requests."""
    config = '{"server": {"max_request_size": "500KB"}, "security": {"allowed_commands": ["md5sum"]}}'
    monkeypatch.setattr("host.local._config", lambda: config)
    with LocalGuest() as guest, VirtioRPCClient(guest.target) as client:
        yield client


def test_a_guest_that_takes_only_small_requests(small: VirtioRPCClient) -> None:
    pieces = [bytes([number]) * size for number, size in enumerate((10, 3_000_000, 100_000, 2_000_000))]
    job, _ = RemoteJob.start(small.calls, {"command": "md5sum", "stdin": True, "timeout": 60})
    source = iter([*pieces, b""])
    job.feed(lambda: next(source))
    said = b""

    def sink(output: Any) -> None:
        nonlocal said
        said += bytes(output.content)

    assert job.follow(sink)["exit_code"] == 0
    assert said.split()[0].decode() == hashlib.md5(b"".join(pieces)).hexdigest()
