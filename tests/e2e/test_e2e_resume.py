"""Copies whose host, or whose daemon, is killed in the middle: what is there and right is not sent again."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Callable, Iterator

import pytest
from e2e_cli import Guest, Remote

from host import waiting
from host.client import VirtioRPCClient

MIB = 1024 * 1024
SIZE = 48 * MIB
CHUNK = 512 * 1024
CUT = 0.9
MOST = 0.11 * SIZE

# A copy that kills itself once so much of it is done.
COPY = """
import os, signal, sys
from host.client import VirtioRPCClient

def progress(done):
    if done.bytes >= float(sys.argv[4]) * done.bytes_total > 0:
        os.kill(os.getpid(), signal.SIGKILL)

with VirtioRPCClient(sys.argv[1]) as client:
    client.copy(sys.argv[2], sys.argv[3], chunk_size=int(sys.argv[5]), progress=progress)
"""


def make(path: Path) -> str:
    """A large file here: its MD5."""
    content = os.urandom(SIZE)
    path.write_bytes(content)
    return hashlib.md5(content).hexdigest()


def interrupt(target: str, source: str, dest: str, at: float = CUT) -> None:
    done = subprocess.run([sys.executable, "-c", COPY, target, source, dest, str(at), str(CHUNK)], timeout=100)
    assert done.returncode == -signal.SIGKILL


def moved(target: str, source: str, dest: str) -> int:
    """Copy to the end: how many bytes had to cross the port."""
    with VirtioRPCClient(target) as client:
        sent: int = client.copy(source, dest, chunk_size=CHUNK)["data"]["sent"]
        return sent


def left(guest: Guest, place: str) -> list[str]:
    """Hidden files in a directory of the guest."""
    return [name for name in guest.run(["ls", "-A", place]).split() if name.startswith(".")]


@pytest.fixture
def place(guest: Guest, remote: Remote) -> str:
    """A directory of the guest."""
    guest.run(["mkdir", remote("d")])
    return remote("d")


def test_the_host_is_killed(target: str, guest: Guest, place: str, tmp_path: Path) -> None:
    md5 = make(tmp_path / "f")
    up = str(tmp_path / "f"), f"guest:{place}/f"
    interrupt(target, *up)
    assert len(left(guest, place)) == 1
    assert moved(target, *up) <= MOST
    assert guest.run(["md5sum", f"{place}/f"]).startswith(md5)
    assert left(guest, place) == []

    down = f"guest:{place}/f", str(tmp_path / "g")
    interrupt(target, *down)
    assert not (tmp_path / "g").exists()
    assert moved(target, *down) <= MOST
    assert hashlib.md5((tmp_path / "g").read_bytes()).hexdigest() == md5
    assert sorted(os.listdir(tmp_path)) == ["f", "g"]


def test_a_source_that_has_changed_begins_anew(target: str, guest: Guest, place: str, tmp_path: Path) -> None:
    make(tmp_path / "f")
    up = str(tmp_path / "f"), f"guest:{place}/f"
    interrupt(target, *up, 0.5)
    md5 = make(tmp_path / "f")
    assert moved(target, *up) == SIZE
    assert guest.run(["md5sum", f"{place}/f"]).startswith(md5)
    assert left(guest, place) == []


def test_what_was_damaged_meanwhile_is_sent_again(target: str, guest: Guest, place: str, tmp_path: Path) -> None:
    md5 = make(tmp_path / "f")
    up = str(tmp_path / "f"), f"guest:{place}/f"
    interrupt(target, *up)
    (name,) = left(guest, place)
    guest.run(["dd", "if=/dev/zero", f"of={place}/{name}", "bs=1M", "count=4", "seek=8", "conv=notrunc", "status=none"])
    assert 4 * MIB < moved(target, *up) <= MOST + 5 * MIB
    assert guest.run(["md5sum", f"{place}/f"]).startswith(md5)

    down = f"guest:{place}/f", str(tmp_path / "g")
    interrupt(target, *down)
    (part,) = (name for name in os.listdir(tmp_path) if name.startswith(".vsrpc-part-"))
    with open(tmp_path / part, "r+b") as file:
        file.seek(8 * MIB)
        file.write(bytes(4 * MIB))
    assert 4 * MIB < moved(target, *down) <= MOST + 5 * MIB
    assert hashlib.md5((tmp_path / "g").read_bytes()).hexdigest() == md5


def test_nothing_is_left_where_that_is_not_wanted(target: str, guest: Guest, place: str, tmp_path: Path) -> None:
    make(tmp_path / "f")
    dest = f"guest:{place}/f"

    class Enough(Exception):
        pass

    def progress(done: object) -> None:
        if getattr(done, "bytes") >= SIZE // 2:  # noqa: B009
            raise Enough

    with VirtioRPCClient(target) as client:
        for resume, names in ((False, 0), (True, 1)):
            with pytest.raises(Enough):
                client.copy(str(tmp_path / "f"), dest, resume=resume, chunk_size=CHUNK, progress=progress)
            assert len(left(guest, place)) == names
        client.copy(str(tmp_path / "f"), dest)
    assert left(guest, place) == []


# -- the daemon is killed: the copy goes on by itself


@pytest.fixture
def killer(guest: Guest, tmp_path: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """A target, and what kills its daemon, which is then started again."""
    if "vsrpc-local" not in guest.target:
        yield guest.target, lambda: [guest.run(["systemctl", "kill", "-s", "KILL", "vsrpc-guest"]), None][1]
        return
    socket = tmp_path / "daemon.sock"
    command = [sys.executable, "-m", "guest", "--listen", f"unix:{socket}", "--exit-with-stdin"]
    environ = {**os.environ, "STATE_DIRECTORY": str(tmp_path / "state")}
    running: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        running.append(subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environ))

    def kill() -> None:
        running[-1].kill()
        running[-1].wait()
        start()

    start()
    try:
        yield f"unix:{socket}", kill
    finally:
        for process in running:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(20)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_the_daemon_is_killed(
    killer: tuple[str, Callable[[], None]], guest: Guest, place: str, tmp_path: Path, direction: str
) -> None:
    target, kill = killer
    md5 = make(tmp_path / "f")
    killed: list[int] = []

    def progress(done: object) -> None:
        if not killed and getattr(done, "bytes") >= SIZE // 2:  # noqa: B009
            killed.append(1)
            kill()

    client = VirtioRPCClient(target, connect_timeout=60.0)
    waiting.wait(client, 60)
    with client:
        if direction == "up":
            data = client.copy(str(tmp_path / "f"), f"guest:{place}/f", chunk_size=CHUNK, progress=progress)["data"]
            assert guest.run(["md5sum", f"{place}/f"]).startswith(md5)
            assert left(guest, place) == []
        else:
            client.copy(str(tmp_path / "f"), f"guest:{place}/f")
            data = client.copy(f"guest:{place}/f", str(tmp_path / "g"), chunk_size=CHUNK, progress=progress)["data"]
            assert hashlib.md5((tmp_path / "g").read_bytes()).hexdigest() == md5
    assert killed
    assert data["sent"] <= SIZE + MOST
