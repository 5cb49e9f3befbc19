"""`vsrpc-host wait` for guests that come: whatever there is before, it ends when the guest answers."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import pytest
from e2e_cli import Cli
from e2e_port import port, silence

from host.local import LocalGuest


@contextmanager
def daemon(path: Path) -> Iterator[None]:
    """A guest daemon that listens there, sooner or later."""
    config = path.with_name("guest.yaml")
    config.write_text("{}")
    command = [sys.executable, "-m", "guest", "--listen", f"unix:{path}", "--config", str(config)]
    process = subprocess.Popen([*command, "--exit-with-stdin"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.communicate(timeout=60)


def start(path: Path, *argv: str) -> subprocess.Popen[str]:
    """`wait` that has begun: it has read its settings, and is on its way to the socket."""
    command = [sys.executable, "-m", "host", "-d", "-s", str(path), "wait", *argv]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert f"calling unix:{path}" in process.stderr.readline()
    return process


def pong(process: subprocess.Popen[str]) -> None:
    out, err = process.communicate(timeout=60)
    assert (process.returncode, json.loads(out)["message"]) == (0, "pong"), err


def test_a_guest_that_is_there(any_cli: Cli) -> None:
    done = any_cli("wait")
    assert (done.code, done.err, done.json["message"]) == (0, "", "pong")
    assert any_cli("-r", "wait", "-t", "60").json["data"]["message"] == "pong"


def test_local_target() -> None:
    done = subprocess.run([sys.executable, "-m", "host", "-s", "local:", "wait"], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("before", ["no socket", "left behind"])
def test_a_socket_that_comes(tmp_path: Path, before: str) -> None:
    path = tmp_path / "s"
    if before == "left behind":
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
    process = start(path)
    with daemon(path):
        pong(process)


def test_a_socket_that_is_replaced(tmp_path: Path) -> None:
    """As by QEMU's restart: whoever listened has gone, with its clients, and another one comes."""
    path = tmp_path / "s"
    with port(path, "", [silence] * 1000):
        process = start(path)
    path.unlink()
    with daemon(path):
        pong(process)


def test_a_guest_that_is_silent_at_first(tmp_path: Path) -> None:
    with LocalGuest() as guest, port(tmp_path / "s", guest.target[len("unix:") :], [silence]):
        pong(start(tmp_path / "s", "--timeout", "60"))
