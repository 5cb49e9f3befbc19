"""Output of a job that a host asks for by several calls at a time: all of it, in order, once, however calls end."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from job_guest import Guest

from host.backend import Reply
from host.client import VirtioRPCClient
from host.errors import RPCError, failure
from host.jobs import HELD_SIZE, READ_SIZE, Output, RemoteJob

SIZES = {"stdout": 6 * READ_SIZE + 12_345, "stderr": 700_000}
SMALL = 256 * 1024  # bytes of a log that never has as much as a reply takes


class Calls:
    """A client's calls, of which the replies of some, by their number, are lost."""

    starts_at_once = True

    def __init__(
        self, client: VirtioRPCClient, lost: set[int], reason: str = "CONNECTION_LOST", old: bool = False
    ) -> None:
        """`reason`: of the loss. `old`: the guest knows of one call at a time only."""
        self.give_way: Callable[[], None] = client.calls.give_way
        self.under_way = self.most = self.refused = 0
        self._calls = client.calls
        self._lost = lost
        self._started = 0
        self._old = old
        self._reason = reason
        self.seconds: list[tuple[int, float]] = []
        """Of each call, how many bytes of others under way come first, and how long it may take."""

    def reply(self, *args: Any, **fields: Any) -> Reply:
        return self._calls.reply(*args, **fields)

    def start(self, service: str, rpc: str, fields: Any, timeout: float | None = None) -> Any:
        self._started += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        assert timeout is not None
        self.seconds.append((fields.get("stdout_behind", 0), timeout))
        error = failure(self._reason, "lost") if self._started in self._lost else None
        if self._old and "stdout_behind" in fields:
            error = failure("INVALID_PARAMS", "vsrpc.v1.JobReadRequest has no field 6")
            self.refused += 1
        return Call(self, self._calls.start(service, rpc, fields, timeout), error)


class Call:
    def __init__(self, calls: Calls, call: Any, error: RPCError | None) -> None:
        self._calls = calls
        self._call = call
        self._error = error
        self._over = False

    def result(self) -> Reply:
        try:
            reply: Reply = self._call.result()
        finally:
            self._end()
        if self._error is not None:
            raise self._error
        return reply

    def cancel(self) -> None:
        self._call.cancel()
        self._end()

    def _end(self) -> None:
        self._calls.under_way -= not self._over
        self._over = True


@pytest.fixture(scope="module", params=["daemon", "keeper"])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtioRPCClient]:
    """Of a guest in which any command may run, in the daemon's process or by a keeper."""
    guest = Guest(tmp_path_factory.mktemp("guest"), kept=request.param == "keeper")
    try:
        with VirtioRPCClient(guest.target) as made:
            yield made
    finally:
        guest.close()


@pytest.mark.parametrize(
    ("lost", "log_size"),
    [
        ((), HELD_SIZE),
        ((1,), HELD_SIZE),
        ((2,), HELD_SIZE),
        ((3,), HELD_SIZE),
        ((2, 3), HELD_SIZE),
        ((1, 3, 5, 7), HELD_SIZE),
        (range(1, 7), HELD_SIZE),
        ((2, 3), SMALL),
    ],
    ids=str,
)
def test_no_output_is_lost_with_replies(client: VirtioRPCClient, tmp_path: Path, lost: Any, log_size: int) -> None:
    calls = Calls(client, set(lost))
    follow(calls, tmp_path, log_size)
    assert calls.under_way == 0
    assert calls.most == (2 if log_size > 2 * READ_SIZE else 1)


def test_a_guest_that_knows_of_one_call_at_a_time(client: VirtioRPCClient, tmp_path: Path) -> None:
    calls = Calls(client, set(), old=True)
    follow(calls, tmp_path, HELD_SIZE)
    assert calls.under_way == 0
    assert 1 <= calls.refused <= 2


def test_a_slow_link_has_one_reply_at_a_time(client: VirtioRPCClient, tmp_path: Path) -> None:
    """A reply that was given up is still on its way, before the next."""
    calls = Calls(client, {3}, "READ_TIMEOUT")
    follow(calls, tmp_path, HELD_SIZE)
    alone, ahead = calls.seconds[0], calls.seconds[2]
    assert (alone[0], ahead[0]) == (0, READ_SIZE)
    assert ahead[1] > 1.5 * alone[1]
    repeated = next(number for number, call in enumerate(calls.seconds) if number > 3 and not call[0])
    assert {behind for behind, _ in calls.seconds[repeated:]} == {0}


def test_a_job_that_cannot_be_asked_has_no_heartbeat() -> None:
    class Broken:
        starts_at_once = True

        def start(self, *args: Any, **fields: Any) -> Any:
            raise failure("SERVICE_UNAVAILABLE", "there is no thread for it")

    with pytest.raises(RPCError):
        RemoteJob(Broken(), "id").follow(lambda output: None)  # type: ignore[arg-type]
    assert "vsrpc-heartbeat" not in {thread.name for thread in threading.enumerate()}


def follow(calls: Calls, tmp_path: Path, log_size: int) -> None:
    """Have all of some output, of a job that was ahead at first."""
    content = {name: os.urandom(size) for name, size in SIZES.items()}
    for name in content:
        (tmp_path / name).write_bytes(content[name])
    command = f"cat {tmp_path}/stderr >&2 & cat {tmp_path}/stdout; wait"
    fields = {"command": command, "hold_output": True, "log_size": log_size, "timeout": 60}
    job, info = RemoteJob.start(calls, fields)
    while info["stdout_size"] < log_size:
        info = job.info()
    came = {"stdout": b"", "stderr": b""}

    def sink(output: Output) -> None:
        assert output.lost == 0
        came[output.name] += bytes(output.content)

    assert job.follow(sink)["exit_code"] == 0
    assert came == content
    job.forget()
