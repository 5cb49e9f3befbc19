"""All that can move a file between host and guest, behind one interface."""

from __future__ import annotations

import hashlib
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Protocol

from host.client import VirtioRPCClient
from scripts.bench import child
from scripts.bench.agent import Agent
from scripts.bench.bench import MB, Bench
from scripts.bench.raw import RawPort
from scripts.bench.ssh import SharedSSH
from scripts.vm.paths import PROJECT

RAW, CHECKED, AGENT = "raw port", "checked port", "qemu-ga"
COPY = "copy + MD5"
STUBS, CLI, CLI_CRC = "vsrpc stubs", "vsrpc CLI", "vsrpc CLI crc32"
# Its cost a byte does not depend on the size, and at 5 MB/s a round of 1 GB would last minutes. Down, it is what the
# agent reads in one call at most.
AGENT_UPLOAD, AGENT_DOWNLOAD = 10 * MB, 48 * MB


@dataclass(frozen=True)
class Move:
    """What a transfer took: seconds, bytes, CPU seconds of the host's process, its peak memory if it was a child."""

    seconds: float
    size: int
    cpu: float
    peak: int = 0


class Mover(Protocol):
    """One way to move files."""

    name: str

    def upload(self, local: Path, remote: str) -> Move: ...

    def download(self, remote: str, local: Path) -> Move: ...


class RawMover:
    """The port with nothing around it; or `checked`, with what vsrpc promises of each file: what is left to gain."""

    def __init__(self, port: RawPort, md5: bool, checked: bool = False) -> None:
        self.name = f"{CHECKED if checked else RAW}{' + MD5' if md5 else ''}"
        self._upload, self._download = port.upload, port.download
        if checked:
            self._upload, self._download = port.upload_checked, port.download_checked
        self._md5 = md5

    def upload(self, local: Path, remote: str) -> Move:
        return _here(lambda: self._upload(local, remote, self._md5), local)

    def download(self, remote: str, local: Path) -> Move:
        return _here(lambda: self._download(remote, local, self._md5), local)


class StubMover:
    """vsrpc in this process, connected before the clock starts."""

    name = STUBS

    def __init__(self, target: str) -> None:
        self._target = target

    def upload(self, local: Path, remote: str) -> Move:
        with VirtioRPCClient(self._target) as client:
            return _here(lambda: client.chunked_upload_file(str(local), remote), local)

    def download(self, remote: str, local: Path) -> Move:
        with VirtioRPCClient(self._target) as client:
            return _here(lambda: client.chunked_download_file(remote, str(local)), local)


class CliMover:
    """vsrpc as a program, from its start to its finish."""

    def __init__(self, name: str, target: str, *options: str) -> None:
        self.name = name
        self._options = ["-s", target, *options]

    def upload(self, local: Path, remote: str) -> Move:
        return _there(child.run([*child.VSRPC_HOST, "upload", *self._options, str(local), remote]), local)

    def download(self, remote: str, local: Path) -> Move:
        return _there(child.run([*child.VSRPC_HOST, "download", *self._options, remote, str(local)]), local)


class AgentMover:
    """qemu-ga, for the beginning of the file."""

    name = AGENT

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def upload(self, local: Path, remote: str) -> Move:
        chunk, size = self._agent.write_chunk, min(AGENT_UPLOAD, local.stat().st_size)
        with self._agent.session() as session:
            return _here(lambda: session.upload(local, remote, chunk, size), local, size)

    def download(self, remote: str, local: Path) -> Move:
        chunk = self._agent.read_chunk
        with self._agent.session() as session:
            return _here(lambda: session.download(remote, local, chunk, AGENT_DOWNLOAD), local)


class ScpMover:
    """scp over a connection that is there."""

    name = "scp"

    def __init__(self, ssh: SharedSSH) -> None:
        self._ssh = ssh

    def upload(self, local: Path, remote: str) -> Move:
        return _there(self._ssh.upload(local, remote), local)

    def download(self, remote: str, local: Path) -> Move:
        return _there(self._ssh.download(remote, local), local)


class CopyMover:
    """What is left where there is no port: the file is read, hashed and written by one process."""

    name = COPY

    def upload(self, local: Path, remote: str) -> Move:
        return _here(lambda: _copy(local, Path(remote)), local)

    def download(self, remote: str, local: Path) -> Move:
        return _here(lambda: _copy(Path(remote), local), local)


def movers(bench: Bench) -> list[Mover]:
    """All that there are here; what all are compared with comes first."""
    target, peers = bench.place.target, bench.peers
    ours: list[Mover] = [StubMover(target), CliMover(CLI, target)]
    if knows_checksum():
        ours.append(CliMover(CLI_CRC, target, "--checksum", "crc32"))
    if peers is None:
        return [CopyMover(), *ours]
    others: list[Mover] = [AgentMover(peers.agent), ScpMover(peers.ssh)]
    raw = peers.raw
    least = [RawMover(raw, md5, checked) for checked in (False, True) for md5 in (True, False)]
    return [*least, *ours, *others]


def knows_checksum() -> bool:
    """Whether the command line lets one choose the checksum."""
    command = [*child.VSRPC_HOST, "download", "--help"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    return "--checksum" in done.stdout


def _here(move: Callable[[], object], local: Path, size: int | None = None) -> Move:
    """Clock what this process does; the size is the local file's if none is given."""
    cpu, started = time.process_time(), time.perf_counter()
    move()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return Move(seconds, local.stat().st_size if size is None else size, cpu)


def _there(done: child.Child, local: Path) -> Move:
    return Move(done.seconds, local.stat().st_size, done.cpu, done.peak)


def _copy(source: Path, target: Path) -> None:
    digest, buffer = hashlib.md5(), memoryview(bytearray(MB))
    with source.open("rb", buffering=0) as reading, target.open("wb", buffering=0) as writing:
        while True:
            count = reading.readinto(buffer)
            if not count:
                break
            digest.update(buffer[:count])
            writing.write(buffer[:count])
