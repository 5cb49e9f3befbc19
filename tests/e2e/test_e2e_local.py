"""The `local:` target: a guest that lives as long as its user, whatever ends that."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Iterator

import pytest

from host.client import RPCError, VirtioRPCClient
from host.local import LocalGuest


@pytest.fixture
def private_tmp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary directory of the test's own, so that what is left in it is ours; short enough for a socket in it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        monkeypatch.setenv("TMPDIR", directory)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(directory)


def test_from_the_command_line(private_tmp: Path) -> None:
    for mode in ([], ["--json"]):
        command = [sys.executable, "-m", "host", "-s", "local:", *mode, "ping"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        assert "pong" in done.stdout
        assert list(private_tmp.iterdir()) == []


def test_the_guests_log_is_shown_only_when_asked_for(private_tmp: Path) -> None:
    (private_tmp / "host.yaml").write_text('connection: {socket_path: "local:"}\n')
    command = [sys.executable, "-m", "host", "-c", str(private_tmp / "host.yaml"), "ping"]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60).stderr == ""
    debug = subprocess.run([*command, "-d"], capture_output=True, text=True, timeout=60).stderr
    assert "System.Ping: " in debug
    assert "guest.daemon: /vsrpc.v1.System/Ping" in debug


def test_files_may_go_to_the_temporary_directory(private_tmp: Path) -> None:
    (private_tmp / "f").write_bytes(b"abc")
    with VirtioRPCClient("local:") as client:
        assert client.upload_file(str(private_tmp / "f"), str(private_tmp / "g"))["data"]["size"] == 3
    assert (private_tmp / "g").read_bytes() == b"abc"


def test_a_long_temporary_directory_leaves_room_for_the_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with VirtioRPCClient("local:") as client:
        assert client.ping()["data"]["message"] == "pong"


def test_only_its_user_can_reach_it() -> None:
    with LocalGuest() as guest:
        path = Path(guest.target[len("unix:") :])
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not path.parent.exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_its_parent(number: int) -> None:
    program = (
        "from host.local import LocalGuest\n"
        "guest = LocalGuest()\n"
        "print(guest.target, flush=True)\n"
        "import signal; signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        path = Path(parent.stdout.readline().decode().strip()[len("unix:") :])
        assert path.exists()
        parent.send_signal(number)
    until = time.monotonic() + 20
    while path.parent.exists():  # the last thing that its end does
        assert time.monotonic() < until, "the guest outlived its parent"
        time.sleep(0.02)


def test_one_that_cannot_start_says_why(private_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("host.local._config", lambda: "nonsense: 1")
    with pytest.raises(RPCError, match=r"did not start: .*guest\.yaml:1: nonsense: unknown key") as caught:
        VirtioRPCClient("local:").ping()
    assert caught.value.reason == "CONNECTION_REFUSED"
    assert list(private_tmp.iterdir()) == []
