"""The command line before sockets that are no vsrpc guest: missing, dead, silent, or speaking something else."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Callable, Iterator

import pytest
from host_peers import greet, hang_up, say_nothing, serving, speak

from host.cli.main import main
from host.cli.output import TransferProgress


@pytest.fixture
def clients() -> list[int]:
    """Grows by one for each client of `peer`."""
    return []


@pytest.fixture
def peer(tmp_path: Path, request: pytest.FixtureRequest, clients: list[int]) -> Iterator[str]:
    """A socket whose every client is treated in the way that the test's parameter says."""
    with serving(tmp_path / "s", request.param, clients) as path:
        yield path


@pytest.fixture(params=["proto", "json"])
def mode(request: pytest.FixtureRequest) -> list[str]:
    return ["--json"] if request.param == "json" else []


Run = Callable[..., "tuple[int, str]"]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command line that fails: its exit code, and the one line that it says."""
    monkeypatch.delenv("VIRTIO_SOCKET", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", "/nonexistent")

    def run(*argv: str) -> tuple[int, str]:
        code = main(argv)
        out, text = capfd.readouterr()
        assert out == ""
        assert text.startswith("vsrpc-host: error: ")
        assert text.count("\n") == 1, text
        return code, text

    return run


@pytest.mark.parametrize(
    ("peer", "code", "fragment"),
    [
        pytest.param(say_nothing, 6, "connected, but nobody answers", id="silent"),
        pytest.param(hang_up, 3, "closed", id="hangs-up"),
        pytest.param(speak(b"SSH-2.0-OpenSSH_9.2\r\n"), 7, "is not a vsrpc guest", id="ssh"),
        pytest.param(speak(b'{"return": {}}\n'), 7, "is not a vsrpc guest", id="qemu-guest-agent"),
        pytest.param(
            speak(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"), 7, "is not a vsrpc guest", id="http"
        ),
        pytest.param(greet(9), 7, "speaks protocol version 9", id="newer"),
        pytest.param(greet(1, b"rubbish\r\n\r\n"), 7, "", id="rubbish-later"),
    ],
    indirect=["peer"],
)
def test_peers_that_are_no_guest(
    run: Run, peer: str, mode: list[str], code: int, fragment: str, tmp_path: Path
) -> None:
    target = tmp_path / "downloaded"
    for base, command in ((0, ["ping"]), (0, ["download", "/tmp/x", str(target)]), (200, ["exec", "ls"])):
        returned, text = run("-s", peer, "-t", "1", *mode, *command)
        assert (returned, fragment in text) == (base + code, True), text
    assert os.listdir(tmp_path) == ["s"]


@pytest.mark.parametrize("peer", [hang_up, greet(1, b"rubbish\r\n\r\n")], indirect=True)
def test_a_peer_that_breaks_off_is_not_worn_out(run: Run, peer: str, clients: list[int], mode: list[str]) -> None:
    run("-s", peer, "-t", "30", *mode, "exec", "ls")
    assert len(clients) <= 3


def test_a_port_whose_queue_is_full(run: Run, tmp_path: Path, mode: list[str]) -> None:
    """Of clients that QEMU does not let in while another one has the port, our own first attempt among them."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(0)
        code, text = run("-s", str(tmp_path / "s"), *mode, "-t", "0.5", "ping")
    assert (code, "connected, but nobody answers" in text) == (6, True), text


def test_sockets_that_nobody_serves(run: Run, mode: list[str], tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "dead"))
    (tmp_path / "file").write_text("")
    for path, fragment in (
        ("missing", "no such socket; is the VM running"),
        ("dead", "nobody listens on this socket"),
        ("file", "not a socket"),
        ("x" * 200, "too long"),
    ):
        code, text = run("-s", str(tmp_path / path), *mode, "ping")
        assert (code, fragment in text, path in text) == (3, True, True), text


@pytest.mark.parametrize(
    ("argv", "code", "fragment"),
    [
        ([], 2, "COMMAND"),
        (["frobnicate"], 2, "invalid choice: 'frobnicate'"),
        (["ping", "--frobnicate"], 2, "unrecognized arguments: --frobnicate"),
        (["ping", "extra"], 2, "unrecognized arguments: extra"),
        (["--timeout", "soon", "ping"], 2, "'soon' is not a number of seconds above 0"),
        (["-t", "0", "ping"], 2, "'0' is not a number of seconds above 0"),
        (["-t", "nan", "ping"], 2, "'nan' is not a number of seconds above 0"),
        (["exec"], 202, "the following arguments are required: COMMAND"),
        (["exec", "ls", "-l"], 202, "put the whole command in quotes"),
        (["exec", "ls", "--timeout", "-1"], 202, "--timeout"),
        (["upload", "only-one"], 2, "the following arguments are required: REMOTE"),
        (["upload", "a", "/b", "--chunk-size", "0"], 2, "chunk size 0 is out of range"),
        (["upload", "a", "/b", "--chunk-size", "-1"], 2, "--chunk-size"),
        (["upload", "a", "/b", "--chunk-size", "6MB"], 2, "chunk size 6291456 is out of range"),
        (["upload", "a", "/b", "--chunk-size", "2 bananas"], 2, "'2 bananas' is not a whole number of bytes"),
        (["service", "nginx"], 2, "the following arguments are required: ACTION"),
        (["service", "nginx", "explode"], 2, "invalid choice: 'explode'"),
        (["ping"], 2, "no socket given: use -s PATH, or set VIRTIO_SOCKET"),
        (["exec", "ls"], 202, "no socket given"),
        (["-c", "/nonexistent.yaml", "ping"], 2, "/nonexistent.yaml: no such configuration file"),
        (["-s", "telnet:host", "ping"], 2, "target 'telnet:host': no such kind of target"),
        (["-s", "vsock:x:1", "ping"], 2, "write vsock:CID:PORT"),
        (["-s", "unix:", "ping"], 2, "a path is missing"),
        (["-s", "/x", "upload", "missing.txt", "/tmp/x"], 2, "missing.txt: cannot read it: No such file"),
        (["-s", "/x", "upload", "", "/tmp/x"], 2, "'': cannot read it: No such file"),
        (["-s", "/x", "download", "/tmp/x", ""], 2, "'': is a directory"),
        (["-s", "", "ping"], 2, "no socket given"),
        (["-c", "/etc/hosts/host.yaml", "ping"], 2, "/etc/hosts/host.yaml: cannot read this configuration file"),
        (["-s", "/x", "upload", "/etc", "/tmp/x"], 2, "/etc: is a directory"),
        (["-s", "/x", "download", "/tmp/x", "/nonexistent/x"], 2, "directory /nonexistent does not exist"),
        (["-s", "/x", "download", "/tmp/x", "/etc/hosts", "--no-overwrite"], 2, "/etc/hosts: already exists"),
    ],
)
def test_wrong_command_lines(run: Run, argv: list[str], mode: list[str], code: int, fragment: str) -> None:
    returned, text = run(*mode, *argv)
    assert (returned, fragment in text) == (code, True), text


def test_wrong_key_in_the_configuration_names_its_line(run: Run, tmp_path: Path, mode: list[str]) -> None:
    (tmp_path / "host.yaml").write_text("connection:\n  read_timout: 3\n")
    code, text = run("-c", str(tmp_path / "host.yaml"), *mode, "ping")
    assert code == 2
    assert "host.yaml:2: connection.read_timout: unknown key; did you mean 'read_timeout'?" in text


def test_a_log_file_that_cannot_be_written(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "host.yaml"
    path.write_text("logging: {file: /nonexistent/log}\n")
    code, text = run("-c", str(path), "-s", "/x", "ping")
    assert code == 2
    assert f"{path}: logging.file: cannot write /nonexistent/log: No such file" in text


def test_a_failure_is_told_below_an_unfinished_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)

    def break_off() -> None:
        with TransferProgress("upload") as progress:
            progress(0, 5 << 20)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert shown.getvalue().endswith("0% (0/5242880 bytes)\n")


def test_traceback_only_with_debug(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "host", "-s", str(tmp_path / "missing"), "-d", "ping"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("vsrpc-host: error: ")


def test_help_and_version_need_no_guest() -> None:
    for argv in (["--help"], ["-h"], ["exec", "--help"], ["--version"]):
        done = subprocess.run([sys.executable, "-m", "host", *argv], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        assert "vsrpc-host" in done.stdout
