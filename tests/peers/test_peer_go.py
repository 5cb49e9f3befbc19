"""The client in examples/go, which was written from PROTOCOL.md alone."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Iterator

import pytest
from peer_target import Target
from portsim import Simulator

from host.local import LocalGuest
from vsrpc._version import __version__

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]

# From PROTOCOL.md, as the client has them.
MAGIC = bytes.fromhex("165696d6d69656d69696d65656d6d696")
MARK = b"HTTP/1.1 100 Continue\r\nvsrpc-sync: "
NO_SESSION = MARK + b"0" * 32 + b"\r\n\r\n"

ALL_WELL = {
    "agent": f"vsrpc-guest/{__version__}",
    "stdout": '"hello\\n"',
    "errors": "3002 3002 true true",
    "deadline": "5005",
    "same content": "true",
}


@dataclass
class Link:
    """What becomes of one connection, and what was said in it."""

    target: str = ""  # the guest's socket; none: nobody is there
    before: bytes = b""  # what the client hears first
    # When the client has said one, or the guest so many bytes, the client hears no more of the guest, but `instead`:
    # then it is for the client to close. Without `instead` the link is closed.
    until_said: bytes = b""
    until_bytes: int = 0
    instead: bytes = b""
    to_guest: bytes = b""
    to_client: bytes = b""


class Relay:
    """A socket in front of a guest's. Each connection has the link of its number, those after them the last one."""

    def __init__(self, directory: Path, *links: Link) -> None:
        self.path = str(directory / "relay")
        self.used = 0
        self._links = links
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._stop, self._stopped = os.pipe()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        os.close(self._stopped)
        self._thread.join()
        os.close(self._stop)
        self._listener.close()

    def _serve(self) -> None:
        while self._listener in select.select([self._listener, self._stop], [], [])[0]:
            link = self._links[min(self.used, len(self._links) - 1)]
            self.used += 1
            with self._listener.accept()[0] as client, socket.socket(socket.AF_UNIX) as guest:
                try:
                    client.sendall(link.before)
                    if link.target:
                        guest.connect(link.target)
                    self._pass(link, client, guest)
                except (BrokenPipeError, ConnectionResetError):
                    pass

    def _pass(self, link: Link, client: socket.socket, guest: socket.socket) -> None:
        ends = [client, guest] if link.target else [client]
        while True:
            ready = select.select([*ends, self._stop], [], [])[0]
            if self._stop in ready:
                return
            if client in ready:
                data = client.recv(65536)
                if not data:
                    return
                link.to_guest += data
                if link.target:
                    guest.sendall(data)
            if guest in ready:
                data = guest.recv(65536)
                lost = link.until_said and link.until_said in link.to_guest
                if link.until_bytes and len(link.to_client) + len(data) > link.until_bytes:
                    data = data[: link.until_bytes - len(link.to_client)]
                    client.sendall(data)
                    lost = True
                if lost:
                    client.sendall(link.instead)
                    ends.remove(guest)
                if not data or (lost and not link.instead):
                    return
                if not lost:
                    link.to_client += data
                    client.sendall(data)


@pytest.fixture(scope="module")
def program(go_example: Path) -> Path:
    return go_example


def run(program: Path, path: str, folder: str) -> dict[str, str]:
    """What the example says of a guest, without the guest's name."""
    prefix = f"{folder}{uuid.uuid4().hex[:8]}-"
    ended = subprocess.run([program, path, prefix], stdout=subprocess.PIPE, text=True, check=True, timeout=120)
    said = dict(line.split(": ", 1) for line in ended.stdout.splitlines())
    assert said.pop("host name")
    return said


def test_everything_in_the_example_works(program: Path, target: Target, folder: str) -> None:
    assert run(program, target.socket, folder) == ALL_WELL


def test_it_says_that_no_guest_answers(program: Path, tmp_path: Path) -> None:
    ended = subprocess.run([program, tmp_path / "socket", "/tmp/x"], capture_output=True, text=True, timeout=60)

    assert ended.returncode == 1
    assert "no such file" in ended.stderr


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(b'HTTP/1.1 200 OK\r\nContent-Length: 100000\r\nX-Request-ID: a\r\n\r\n{"half', id="half-response"),
        pytest.param(MARK + b"8f0c2f6b1d9a4e778f0c2f6b1d9a4e77\r\n\r\n", id="another-echo"),
        pytest.param(MARK + b"8f0c2f6b", id="cut-echo"),
        pytest.param(MARK[:20], id="cut-mark"),
        pytest.param(bytes(100_000), id="much"),
    ],
)
def test_what_was_meant_for_another_client(
    program: Path, target: Target, folder: str, tmp_path: Path, before: bytes
) -> None:
    with Relay(tmp_path, Link(target.socket, before)) as relay:
        assert run(program, relay.path, folder) == ALL_WELL
        assert relay.used == 1


@pytest.mark.parametrize("before", [b"", MARK[:20], NO_SESSION])
def test_a_sync_that_is_not_answered(program: Path, target: Target, folder: str, tmp_path: Path, before: bytes) -> None:
    lost = Link("", before)
    with Relay(tmp_path, lost, lost, Link(target.socket)) as relay:
        assert run(program, relay.path, folder) == ALL_WELL
        assert relay.used >= 3


def test_bodies_that_contain_magic_and_mark(program: Path, target: Target, folder: str, tmp_path: Path) -> None:
    link = Link(target.socket)
    with Relay(tmp_path, link) as relay:
        assert run(program, relay.path, folder)["same content"] == "true"  # the file has them
    assert (link.to_guest.count(MAGIC), link.to_client.count(MARK)) == (1, 1)
    assert [said.lower().count(b"\r\nvsrpc-mask: ") for said in (link.to_guest, link.to_client)] == [1, 1]


@pytest.mark.parametrize("instead", [b"", NO_SESSION], ids=["closed", "mark"])
def test_a_command_runs_once_though_its_response_is_lost(
    program: Path, target: Target, folder: str, tmp_path: Path, instead: bytes
) -> None:
    first, second = Link(target.socket, until_said=b"echo hello", instead=instead), Link(target.socket)
    with Relay(tmp_path, first, second) as relay:
        assert run(program, relay.path, folder) == ALL_WELL
        assert relay.used == 2
    assert b"/api/v1/shell/exec" in first.to_guest
    assert b"Vsrpc-Retry-Age-Ms" in second.to_guest


def test_a_command_is_not_repeated_to_another_instance(
    program: Path, target: Target, folder: str, tmp_path: Path
) -> None:
    with LocalGuest() as other:
        first = Link(target.socket, until_said=b"echo hello")
        with Relay(tmp_path, first, Link(other.target[len("unix:") :])) as relay:
            ended = subprocess.run([program, relay.path, f"{folder}other-"], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.startswith("5008 ")


def test_a_mark_inside_a_body_ends_the_session(program: Path, target: Target, folder: str, tmp_path: Path) -> None:
    first, second = Link(target.socket, until_bytes=1_000_000, instead=NO_SESSION), Link(target.socket)
    with Relay(tmp_path, first, second) as relay:
        assert run(program, relay.path, folder) == ALL_WELL
        assert relay.used == 2
    assert b"File/DownloadChunk" in second.to_guest


@pytest.fixture(params=["sim", pytest.param("vm", marks=[pytest.mark.vm, pytest.mark.timeout(900)])])
def port(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The socket of a port, simulated or real, since nowhere else is there a window; and a folder in the guest."""
    if request.param == "vm":
        yield str(request.getfixturevalue("vm").socket), "/tmp/vsrpc-peers-"
        return
    config, directory = tmp_path / "guest.yaml", tmp_path / "port"
    config.write_text(json.dumps({"security": {"allowed_paths": [str(tmp_path)]}}))
    directory.mkdir()
    with Simulator(directory, process=True) as simulator, subprocess.Popen(
        [sys.executable, "-m", "portsim.daemon", simulator.guest_path, "--config", str(config)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as daemon:
        try:
            assert daemon.stdout is not None
            assert daemon.stdout.readline() == b"serving\n"
            yield simulator.host_path, f"{tmp_path}/"
        finally:
            daemon.terminate()


def test_a_response_of_many_windows(program: Path, port: tuple[str, str], tmp_path: Path) -> None:
    link = Link(port[0])
    with Relay(tmp_path, link) as relay:
        assert run(program, relay.path, port[1]) == ALL_WELL  # a chunk of a file is 2 MiB
    assert b"\r\nvsrpc-window: 196608\r\n" in link.to_client.lower()
    assert link.to_guest.endswith(b"\x04")  # it says that it leaves
