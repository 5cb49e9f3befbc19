"""Output of a job that a host asks for by several calls at a time: all of it, in order, once, however calls end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from host.backend import Reply
from host.client import VirtioRPCClient
from host.errors import failure
from host.jobs import HELD_SIZE, READ_SIZE, Output, RemoteJob
from host.local import LocalGuest

SIZES = {"stdout": 6 * READ_SIZE + 12_345, "stderr": 700_000}
SMALL = 256 * 1024  # bytes of a log that never has as much as a reply takes


class Calls:
    """A client's calls, of which the replies of some, by their number, are lost."""

    starts_at_once = True

    def __init__(self, client: VirtioRPCClient, lost: set[int]) -> None:
        self.give_way: Callable[[], None] = client.calls.give_way
        self.under_way = self.most = 0
        self._calls = client.calls
        self._lost = lost
        self._started = 0

    def reply(self, *args: Any, **fields: Any) -> Reply:
        return self._calls.reply(*args, **fields)

    def start(self, *args: Any, **fields: Any) -> Any:
        self._started += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        return Call(self, self._calls.start(*args, **fields), self._started in self._lost)


class Call:
    def __init__(self, calls: Calls, call: Any, lost: bool) -> None:
        self._calls = calls
        self._call = call
        self._lost = lost
        self._over = False

    def result(self) -> Reply:
        try:
            reply: Reply = self._call.result()
        finally:
            self._end()
        if self._lost:
            raise failure("CONNECTION_LOST", "lost")
        return reply

    def cancel(self) -> None:
        self._call.cancel()
        self._end()

    def _end(self) -> None:
        self._calls.under_way -= not self._over
        self._over = True


@pytest.fixture(scope="module")
def client() -> Iterator[VirtioRPCClient]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("host.local._config", lambda: '{"security": {"allowed_commands": null}}')
        with LocalGuest() as guest, VirtioRPCClient(guest.target) as made:
            yield made


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
    content = {name: os.urandom(size) for name, size in SIZES.items()}
    for name in content:
        (tmp_path / name).write_bytes(content[name])
    calls = Calls(client, set(lost))
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
    assert calls.under_way == 0
    assert calls.most == (2 if log_size > 2 * READ_SIZE else 1)
    job.forget()
