"""Turns at a port, among real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Iterator

import pytest
from port_holders import holder, nobody
from runtime_threads import eventually

from vsrpc.deadline import Deadline
from vsrpc.port_lock import LockUnusable, PortBusy, PortLock

NOW = Deadline(0)
PATIENCE = 30.0


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of locks that every user can reach."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        monkeypatch.setenv("VSRPC_LOCK_DIR", made)
        yield Path(made)


def test_a_turn_and_the_next(directory: Path) -> None:
    first, second = PortLock("/run/port"), PortLock("/run/port")
    assert first.holder() == ""
    assert first.acquire(NOW)
    assert (first.held, second.acquire(NOW), second.held) == (True, False, False)
    assert second.holder().startswith(f"process {os.getpid()} (")
    with pytest.raises(PortBusy, match=f"the port is held by process {os.getpid()} "):
        second.acquire(Deadline(0.05))
    first.release()
    first.release()
    assert second.acquire(NOW)
    other = PortLock("/run/other")
    assert other.acquire(NOW), "another socket is another lock"
    other.release()
    second.release()
    assert os.listdir(directory) == [], "nothing is left behind"


def test_one_socket_by_several_paths_is_one_lock(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "port")
    first = PortLock(str(tmp_path / "port"))
    assert first.acquire(NOW)
    for path in (tmp_path / "link", tmp_path / "x" / ".." / "port"):
        assert not PortLock(str(path)).acquire(NOW), path
    first.release()
    deep = "/".join(["x" * 40] * 20)
    long = [PortLock(f"/{deep}/{name}") for name in "ab"]
    assert [lock.acquire(NOW) for lock in long] == [True, True], "what tells them apart is at the end"
    for lock in long:
        lock.release()


def test_a_lock_ends_with_the_last_process_that_has_it(directory: Path) -> None:
    lock = PortLock("/run/port")
    with holder("/run/port") as other:
        assert not lock.acquire(NOW)
        assert lock.holder().startswith(f"process {other.pid} (")
        other.kill_parent()
        assert lock.holder().startswith(
            f"a child that process {other.pid} left behind when it died (fuser {directory}/"
        )
        assert not lock.acquire(NOW)
    assert lock.acquire(Deadline(PATIENCE))


def test_who_waits_is_seen_and_let_in(directory: Path) -> None:
    lock = PortLock("/run/port")
    assert lock.acquire(NOW)
    assert not lock.wanted()
    program = (
        "import sys\nfrom vsrpc.deadline import Deadline\nfrom vsrpc.port_lock import PortLock\n"
        f"print(PortLock('/run/port').acquire(Deadline({PATIENCE})))\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as waiting:
        eventually(lock.wanted, "the other one waits")
        lock.release()
        out, _ = waiting.communicate(timeout=PATIENCE)
    assert out == "True\n"


def test_users_who_share_a_directory_take_turns(directory: Path) -> None:
    directory.chmod(0o777)
    mine, theirs = PortLock("/run/port"), PortLock("/run/port")
    assert mine.acquire(NOW)
    with nobody():
        assert theirs.holder().startswith(f"process {os.getpid()} (")
        assert not theirs.acquire(NOW)
        mine.release()
        assert theirs.acquire(NOW)
    assert not mine.acquire(NOW)
    theirs.release()


def test_directories_that_cannot_be_used(directory: Path) -> None:
    directory.chmod(0o555)
    with nobody():
        for path, cause in (
            (str(directory), "Permission denied"),
            ("/etc/hosts", "is no directory"),
            ("/nonexistent/locks", "No such file or directory"),
        ):
            with pytest.raises(LockUnusable, match=cause) as caught:
                PortLock("/run/port", path).acquire(NOW)
            assert path in str(caught.value)
            assert "connection.lock_dir" in str(caught.value)
            assert "VSRPC_LOCK_DIR" in str(caught.value)
    directory.chmod(0o755)
