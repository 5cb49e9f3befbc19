"""`vsrpc-host wait` where no guest comes: what it waits for, what it does not, and what it says in the end."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from host_peers import greet, hang_up, say_nothing, serving, speak

from host.cli.main import main

pytestmark = pytest.mark.slow


def run(capfd: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    code = main([*argv])
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("vsrpc-host: error: ")
    assert err.count("\n") == 1, err
    return code, err


@pytest.mark.parametrize(
    ("behave", "code", "fragment"),
    [
        pytest.param(None, 6, "no such socket", id="no-socket"),
        pytest.param(say_nothing, 6, "connected, but nobody answers", id="silent"),
        pytest.param(hang_up, 6, "was closed before the hello", id="hangs-up"),
        pytest.param(speak(b"SSH-2.0-OpenSSH_9.2\r\n"), 7, "it said 'SSH-2.0", id="ssh"),
        pytest.param(greet(9), 7, "speaks protocol version 9", id="newer"),
    ],
)
def test_peers(capfd: pytest.CaptureFixture[str], tmp_path: Path, behave: Any, code: int, fragment: str) -> None:
    if behave is None:
        returned, text = run(capfd, "-s", str(tmp_path / "s"), "wait", "--timeout", "1")
    else:
        with serving(tmp_path / "s", behave) as path:
            # What waiting cannot mend is told at once, whatever the time.
            returned, text = run(capfd, "-s", path, "wait", *(["-t", "1"] if code == 6 else []))
    assert (returned, fragment in text) == (code, True), text
    assert ("the guest has not answered within 1 s; last: " in text) == (code == 6)


@pytest.mark.parametrize(
    ("name", "code", "fragment"),
    [("file", 3, "not a socket"), ("x" * 120, 3, "too long"), ("dead", 6, "nobody listens")],
)
def test_paths(capfd: pytest.CaptureFixture[str], tmp_path: Path, name: str, code: int, fragment: str) -> None:
    (tmp_path / "file").write_text("")
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "dead"))
    returned, text = run(capfd, "-s", str(tmp_path / name), "wait", *(["-t", "1"] if code == 6 else []))
    assert (returned, fragment in text) == (code, True), text


def test_a_wrong_configuration_is_told_at_once(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VSRPC_LOCK_DIR")
    (tmp_path / "host.yaml").write_text("connection: {lock_dir: /etc/hosts}\n")
    with serving(tmp_path / "s", say_nothing) as path:
        code, text = run(capfd, "-s", path, "-c", str(tmp_path / "host.yaml"), "wait")
    assert (code, "the lock directory /etc/hosts is no directory" in text) == (3, True), text
