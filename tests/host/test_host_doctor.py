"""`vsrpc-host doctor` before what is no guest that answers: what it says, and its exit code."""

from __future__ import annotations

import importlib
import json
import os
import socket
import tempfile
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from host_peers import greet, hang_up, say_nothing, serving, speak
from port_holders import nobody, stranger

from host import unix_socket
from host.cli.main import main
from host.errors import NUMBERS

pytestmark = pytest.mark.slow

Run = Callable[..., "tuple[int, list[str]]"]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command line: its exit code and the lines that it prints."""
    monkeypatch.delenv("VIRTIO_SOCKET", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", "/nonexistent")

    def run(*argv: str) -> tuple[int, list[str]]:
        code = main(argv)
        out, err = capfd.readouterr()
        assert err == ""
        return code, out.splitlines()

    return run


PEERS = [
    # how the other end behaves, exit code, verdict, what the last line says, the check that failed
    pytest.param(say_nothing, 6, "silent", "nobody answers: the guest has not booted", id="silent"),
    pytest.param(hang_up, 3, "hangs_up", "hangs up before it answers", id="hangs-up"),
    pytest.param(speak(b"SSH-2.0-OpenSSH_9.2\r\n"), 7, "other_protocol", "an SSH server", id="ssh"),
    pytest.param(speak(b'{"return": {}}\n'), 7, "other_protocol", "QEMU's guest agent", id="guest-agent"),
    pytest.param(speak(b'{"QMP": {"version": 1}}\n'), 7, "other_protocol", "QEMU's monitor (QMP)", id="qmp"),
    pytest.param(speak(b"login: "), 7, "other_protocol", "it said 'login: '", id="console"),
    pytest.param(
        speak(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"), 7, "other_protocol", "a web server", id="http"
    ),
    pytest.param(greet(9), 7, "other_version", "install a newer vsrpc here", id="newer"),
    pytest.param(greet(0), 7, "other_version", "install a newer vsrpc in the guest", id="older"),
]


@pytest.mark.parametrize(("behave", "code", "verdict", "fragment"), PEERS)
def test_peers_that_do_not_answer(
    run: Run, tmp_path: Path, behave: Any, code: int, verdict: str, fragment: str
) -> None:
    with serving(tmp_path / "s", behave) as path:
        returned, lines = run("-s", path, "doctor", "-t", "0.5")
        assert (returned, lines[-1].startswith(f"verdict  {verdict}: ")) == (code, True), lines
        assert fragment in lines[-1]
        assert [line.split()[:2] for line in lines if line[0] != " "][:-1] == [
            ["socket", "ok"],
            ["turn", "ok"],
            ["clients", "ok"],
            ["guest", "fault"],
        ]
        returned, lines = run("-s", path, "--json", "-r", "doctor", "-t", "0.5")
        envelope = json.loads("\n".join(lines))
        assert (returned, envelope["data"]["verdict"]) == (code, verdict)
        assert envelope["code"] == NUMBERS[envelope["data"]["reason"]]
        assert fragment in envelope["message"] == envelope["data"]["summary"]
        assert [each["check"] for each in envelope["data"]["findings"]] == ["socket", "turn", "clients", "guest"]


def test_silence_names_all_causes_and_how_to_tell_them_apart(run: Run, tmp_path: Path) -> None:
    with serving(tmp_path / "s", say_nothing) as path:
        _, lines = run("-s", path, "doctor", "-t", "0.5")
    causes = [line for line in lines if line.split()[0] == "maybe"]
    for cause, way in (
        ("still boots", "virsh console"),
        ("daemon does not run", "systemctl status vsrpc-guest"),
        ("another port", "device.path"),
        ("another program", "find /proc"),
        ("output is dead", "/sys/bus/virtio/drivers/virtio_console"),
    ):
        assert any(cause in line and way in line for line in causes), cause


def test_sockets_that_nobody_serves(run: Run, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "dead"))
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("/nonexistent/socket")
    for name, verdict, fragment in (
        ("missing", "no_socket", "there is nothing of that name"),
        ("none/missing", "no_socket", "not even its directory is there"),
        ("link", "no_socket", "a symbolic link to /nonexistent/socket, which is not there"),
        ("file", "not_a_socket", "a file, not a socket"),
        ("", "not_a_socket", "a directory, not a socket"),
        ("x" * 120, "not_a_socket", "too long"),
        ("dead", "refused", "nobody listens"),
    ):
        code, lines = run("-s", str(tmp_path / name), "doctor")
        assert (code, lines[-1].startswith(f"verdict  {verdict}: ")) == (3, True), lines
        assert fragment in lines[-2]
        assert "virsh dumpxml" in lines[-1]


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that everybody may enter, and only its owner change; for tests of users who may do nothing."""
    for name in ("host.cli.commands", "host.cli.diagnosis", "host.cli.logs", "host.client"):
        importlib.import_module(name)  # which such a user may not be able to
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


def test_permission_denied(run: Run, open_directory: Path) -> None:
    with serving(open_directory / "s", say_nothing) as path:
        os.chmod(path, 0)
        with nobody():
            code, lines = run("-s", path, "doctor")
            assert (code, lines[-1].startswith("verdict  permission_denied: ")) == (3, True), lines
            assert "may not write to it" in lines[-2]
            assert "run as root" in lines[-1]
        os.chmod(open_directory, 0)
        with nobody():
            code, lines = run("-s", path, "doctor")
            assert (code, "may not look into its directory" in lines[-2]) == (3, True), lines
        os.chmod(open_directory, 0o700)


@pytest.mark.parametrize("how", ["no directory", "not there", "not writable"])
def test_lock_directory_that_cannot_be_used(
    run: Run, open_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.delenv("VSRPC_LOCK_DIR")
    locks = {"no directory": "/etc/hosts", "not there": "/nonexistent/locks", "not writable": str(open_directory)}[how]
    config = open_directory / "host.yaml"
    config.write_text(f"connection: {{lock_dir: {locks}}}\n")
    with serving(open_directory / "s", say_nothing) as path:
        os.chmod(path, 0o666)
        os.chmod(open_directory, 0o555)
        with nobody():
            code, lines = run("-s", path, "-c", str(config), "doctor")
        os.chmod(open_directory, 0o755)
    assert (code, lines[-1].startswith("verdict  lock_unusable: ")) == (3, True), lines
    assert locks in lines[-1]
    assert "connection.lock_dir" in lines[-1]


def test_a_client_that_takes_no_turns_is_named(run: Run, tmp_path: Path) -> None:
    with serving(tmp_path / "s", say_nothing) as path:
        if unix_socket.users(path).unknown:
            pytest.skip("this kernel does not tell who uses a socket")
        with stranger(path) as pid:
            code, lines = run("-s", path, "doctor", "-t", "0.5")
            assert (code, lines[-1].startswith("verdict  held: ")) == (6, True), lines
            assert f"process {pid} (" in lines[2]
            assert f"process {pid} (" in lines[-1]
            assert "takes no turns" in lines[-1]


def test_who_is_in_the_queue(tmp_path: Path) -> None:
    with serving(tmp_path / "s", say_nothing) as path, stranger(path) as first, stranger(path) as second:
        users = unix_socket.users(path)
        if users.unknown:
            pytest.skip("this kernel does not tell who uses a socket")
        told = [[each.split("(")[0].strip() for each in part] for part in (users.clients, users.queued)]
        assert told == [[f"process {first}"], [f"process {second}"]]
        assert users.listeners == (), "this process is not among the others"


def test_where_the_kernel_does_not_tell_that_is_said(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unix_socket, "_NETLINK_SOCK_DIAG", 31)  # no such family of netlink
    with serving(tmp_path / "s", say_nothing) as path:
        code, lines = run("-s", path, "doctor", "-t", "0.5")
    assert (code, lines[-1].startswith("verdict  silent: ")) == (6, True), lines
    assert "cannot be found out here: the kernel does not tell" in lines[2]
    assert "takes no turns" in lines[-2]
    assert "fuser" in lines[-2]


def test_targets_that_are_none(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["-s", "telnet:host", "doctor"]) == 2
    assert main(["-s", "vsock:1:4294967295", "doctor", "-t", "0.5"]) in (3, 6)  # vsock may be there or not
    assert "verdict" in capfd.readouterr().out
