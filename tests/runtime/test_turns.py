"""Turns at a port, in the crowd: no two at a time, no overtaking, forks, and channels that let others have theirs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from runtime_threads import Beside
from runtime_world import Gate, PortListener, World

from vsrpc import Channel, ChannelOptions, Code, RpcError
from vsrpc.deadline import Deadline
from vsrpc.port_lock import LockUnusable, PortLock
from vsrpc.v1.shell_pb2 import ExecRequest, ExecResponse
from vsrpc.v1.shell_vsrpc import ShellStub

pytestmark = pytest.mark.slow

NOW = Deadline(0)
PATIENCE = 60.0
PORT = "/run/port"

# Adds one to a number in a file, so many times, in two steps that nobody else may come between.
COUNT = f"""
import sys
from pathlib import Path
from vsrpc.deadline import Deadline
from vsrpc.port_lock import PortLock
directory, times = Path(sys.argv[1]), int(sys.argv[2])
lock = PortLock("{PORT}", str(directory / "locks"))
for _ in range(times):
    assert lock.acquire(Deadline({PATIENCE}))
    number = int((directory / "number").read_text())
    (directory / "inside").mkdir()
    (directory / "inside").rmdir()
    (directory / "number").write_text(str(number + 1))
    lock.release()
"""


@pytest.fixture
def locks(tmp_path: Path) -> Path:
    (tmp_path / "locks").mkdir()
    return tmp_path / "locks"


@pytest.mark.parametrize(
    ("processes", "times", "killed"),
    [(4, 10, 0), (8, 50, 4)],
)
def test_no_two_processes_have_the_turn_at_a_time(
    locks: Path, tmp_path: Path, processes: int, times: int, killed: int
) -> None:
    """Others, which wait as well, die meanwhile."""
    (tmp_path / "number").write_text("0")
    wait = f"from vsrpc.port_lock import *\nPortLock('{PORT}', '{locks}').acquire(Deadline(60))\nprint(input())"
    victims = [subprocess.Popen([sys.executable, "-c", wait], stdin=subprocess.PIPE) for _ in range(killed)]
    command = [sys.executable, "-c", COUNT, str(tmp_path), str(times)]
    counting = [subprocess.Popen(command) for _ in range(processes)]
    for victim in victims:
        victim.kill()
        victim.communicate()
    assert [process.wait(PATIENCE) for process in counting] == [0] * processes
    assert (tmp_path / "number").read_text() == str(processes * times)
    assert not killed or not PortLock(PORT, str(locks)).holder()
    assert killed or not os.listdir(locks), "nothing is left behind"


def test_who_waits_is_not_overtaken(locks: Path) -> None:
    """Else somebody who makes one call after another would never let others have a turn."""
    first, next_one, newcomer = (PortLock(PORT, str(locks)) for _ in range(3))
    for _ in range(20):
        assert first.acquire(NOW)
        waiting = Beside(next_one.acquire, Deadline(PATIENCE)).until_waiting()
        assert first.wanted()
        first.release()
        assert not newcomer.acquire(NOW)
        assert waiting.result()
        next_one.release()
    assert newcomer.acquire(NOW)
    newcomer.release()


def test_a_forked_child_that_lets_go_takes_nothing_from_its_parent(locks: Path) -> None:
    """A process that forks while it has a channel open, and whose child closes it."""
    lock, other = PortLock(PORT, str(locks)), PortLock(PORT, str(locks))
    assert lock.acquire(NOW)
    program = (
        "import os, sys\n"
        "from vsrpc.deadline import Deadline\nfrom vsrpc.port_lock import PortLock\n"
        f"lock, other = (PortLock('{PORT}', '{locks}2') for _ in range(2))\n"
        "assert lock.acquire(Deadline(0))\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    lock.release()\n"
        "    os._exit(0)\n"
        "os.waitpid(child, 0)\n"
        "assert not other.acquire(Deadline(0)), 'the parent has lost it'\n"
        "lock.release()\n"
        "assert other.acquire(Deadline(0))\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
    assert not other.acquire(NOW)
    lock.release()


def test_a_directory_that_vanishes_under_a_holder(locks: Path) -> None:
    """Whoever has the turn keeps it; the next one is told."""
    lock = PortLock(PORT, str(locks))
    assert lock.acquire(NOW)
    (locks / "run%port.lock").unlink()
    locks.rmdir()
    assert not lock.wanted()
    with pytest.raises(LockUnusable, match="cannot be used to take turns"):
        PortLock(PORT, "/nonexistent/x").acquire(NOW)
    lock.release()
    with pytest.raises(LockUnusable, match="see to it that it exists"):
        lock.acquire(NOW)


@pytest.mark.parametrize("part", ["x", "é", "漢", "%", "a b\n"])
def test_any_path_has_a_lock(locks: Path, part: str) -> None:
    long = [PortLock(f"/{'/'.join([part * 40] * 9)}/{name}", str(locks)) for name in "ab"]
    assert [lock.acquire(NOW) for lock in long] == [True, True], "what tells them apart is at the end"
    assert not PortLock(long[0]._socket_path, str(locks)).acquire(NOW)
    for lock in long:
        lock.release()
    assert not os.listdir(locks)


# -- channels


@pytest.fixture
def crowd(make_world: Callable[..., World], locks: Path) -> Iterator[Callable[..., Channel]]:
    """Makes channels that take turns at one port."""
    world = make_world(PortListener())
    world.handlers.set("Exec", lambda request, context: ExecResponse(stdout=request.command.encode()))
    channels: list[Channel] = []

    def make(**options: Any) -> Channel:
        lock = PortLock(PORT, str(locks))
        channels.append(Channel("port:", world.connect, ChannelOptions(**options), lock=lock))
        return channels[-1]

    make.world = world  # type: ignore[attr-defined]
    yield make
    for channel in channels:
        channel.close()
    assert not os.listdir(locks)


def call(channel: Channel, command: str = "x") -> str:
    return ShellStub(channel).Exec(ExecRequest(command=command)).stdout.decode()


def test_an_idle_channel_lets_others_have_their_turn(crowd: Callable[..., Channel]) -> None:
    """And connects again by itself for its next call."""
    one, two, three = crowd(), crowd(), crowd()
    assert call(one) == "x"
    session = one._link._session
    assert call(one) == "x"
    assert one._link._session is session, "nobody waits: it keeps its turn"
    waiting = [Beside(call, channel, name) for channel, name in ((two, "two"), (three, "three"))]
    assert [thread.result() for thread in waiting] == ["two", "three"]
    assert call(one, "again") == "again"
    assert one._link._session is not session


def test_a_busy_channel_keeps_its_turn(crowd: Callable[..., Channel], gate: Gate) -> None:
    one, two = crowd(), crowd(read_timeout=1.2)
    world: World = crowd.world  # type: ignore[attr-defined]
    world.handlers.set("Exec", lambda request, context: gate.wait() or ExecResponse(stdout=b"done"))
    busy = ShellStub(one).Exec.future()
    gate.until_reached()
    with pytest.raises(RpcError, match=rf"the port is held by process {os.getpid()} \(") as caught:
        call(two)  # for longer than an idle one would keep its turn
    assert (caught.value.code(), caught.value.not_run) == (Code.DEADLINE_EXCEEDED, True)
    assert not busy.done()
    gate.open()
    assert busy.result().stdout == b"done"
    assert call(two) == "done"


def test_calls_of_many_channels_take_turns(crowd: Callable[..., Channel]) -> None:
    """Each waits for its turn as long as it takes; a closed one makes way at once."""

    def work(name: str) -> str:
        with crowd() as channel:
            return call(channel, name)

    names = [str(number) for number in range(12)]
    assert [thread.result() for thread in [Beside(work, name) for name in names]] == names
