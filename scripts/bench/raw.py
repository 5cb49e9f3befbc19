"""The host's end of the raw reference, the least that moves a file across a port (raw_guest.py), and an echo; and of
the checked one, the least that does so with what vsrpc promises (checked_guest.py)."""

from __future__ import annotations

import json
import os
import queue
import socket
import subprocess
import zlib
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Iterator

from scripts.bench.checked_guest import CHUNK, MAGIC, MARK, UNDER_WAY, Chunk, Chunks, Reader, check_clean, keep
from scripts.bench.raw_guest import RECORD, Ring, record
from scripts.vm import VM
from vsrpc.link import socket_window

GUEST_DIRECTORY = "/root/vsrpc-bench-raw"
GUEST_MODULES = ("checked_guest", "guest_program", "raw_guest")
PROGRAM = ("/usr/bin/python3", "-m", "scripts.bench.guest_program")  # and a port, in GUEST_DIRECTORY
SPARE, CONTROL = "/dev/virtio-ports/test.spare.0", "/dev/virtio-ports/test.control.0"
UNIT = "vsrpc-bench-raw"
BLOCK = 1 << 20
PATIENCE = 300.0  # seconds without a byte


@contextmanager
def raw_port(vm: VM) -> Iterator[RawPort]:
    """The spare port of a VM, with the raw program at its other end."""
    vm.ga.check(["/usr/bin/mkdir", "-p", f"{GUEST_DIRECTORY}/scripts/bench"])
    for name in GUEST_MODULES:
        module = Path(__file__).with_name(f"{name}.py").read_bytes()
        vm.ga.write_file(f"{GUEST_DIRECTORY}/scripts/bench/{name}.py", module)
    with RawPort(vm.spare_socket) as port:
        start = ["/usr/bin/systemd-run", "--quiet", "--collect", "--unit", UNIT, "--working-directory", GUEST_DIRECTORY]
        vm.ga.check([*start, *PROGRAM, SPARE])
        port.ready()
        yield port


def _blocks(local: Path, ring: Ring) -> Iterator[tuple[memoryview, int]]:
    """A file's content, in buffers of the ring, which has each back when the next is wanted."""
    with local.open("rb", buffering=0) as source:
        while True:
            buffer = ring.take()
            count = source.readinto(buffer)
            if not count:
                return
            yield buffer, count
            ring.give(buffer, count)


class RawPort:
    """A port with the raw program at its other end, which starts after this. A context manager.

    One connection for all: a client that came and went would be one more thing that the guest's end has to see.
    """

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE)
        self._socket.connect(str(path))

    def ready(self) -> None:
        """Wait until the program has started."""
        self._read_record()

    def echo(self) -> None:
        """A record there and back."""
        self._request(op="echo")
        self._read_record()

    def byte(self) -> None:
        """Have the program write a byte to its standard output. Waits for nothing."""
        self._request(op="byte")

    def upload(self, local: Path, remote: str, md5: bool) -> None:
        """Returns when the guest has closed the file, and both ends have the same size and digest."""
        size, ring = local.stat().st_size, Ring(BLOCK, md5)
        self._request(op="receive", path=remote, size=size, md5=md5)
        for buffer, count in _blocks(local, ring):
            self._socket.sendall(buffer[:count])
        ours = {"size": size, "md5": ring.digest()}
        theirs = self._read_record()
        if theirs != ours:
            raise RuntimeError(f"the raw port lost something: {ours} was sent, {theirs} arrived")

    def download(self, remote: str, local: Path, md5: bool) -> None:
        """Returns when the local file is closed, and both ends have the same digest."""
        ring = Ring(BLOCK, md5)
        self._request(op="send", path=remote, md5=md5)
        left = int(self._read_record()["size"])
        fd = os.open(local, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        while left:
            buffer = ring.take()
            count = self._fill(buffer[: min(left, BLOCK)])
            written = os.write(fd, buffer[:count])
            if written != count:
                raise RuntimeError(f"only {written} of {count} bytes were written to {local}")
            ring.give(buffer, count)
            left -= count
        os.close(fd)
        self._check_md5(ring)

    def upload_checked(self, local: Path, remote: str, md5: bool) -> None:
        """As vsrpc's are (see checked_guest.py); returns when the guest has the file on its disk."""
        size, ring = local.stat().st_size, Ring(CHUNK, md5, 2)
        self._request(op="receive checked", path=remote, size=size, md5=md5)
        under_way = 0
        for buffer, count in _blocks(local, ring):
            check_clean(buffer, 0, count, MAGIC)
            if under_way == UNDER_WAY:
                self._read_record()
                under_way -= 1
            self._socket.sendall(record({"size": count, "crc32": zlib.crc32(buffer[:count])}))
            self._socket.sendall(buffer[:count])
            under_way += 1
        for _ in range(under_way):
            self._read_record()
        self._check_md5(ring)

    def download_checked(self, remote: str, local: Path, md5: bool) -> None:
        """As vsrpc's are; returns when the local file is on its disk."""
        window = socket_window()
        ring = Ring(CHUNK, md5, 3)
        self._request(op="send checked", path=remote, window=window, md5=md5)
        left = int(self._read_record()["size"])
        fd = os.open(local, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        chunks: Chunks = queue.SimpleQueue()
        finish = keep(ring, chunks, fd, MARK)
        reader = Reader(window, self._socket.sendall)
        while left:
            head = self._read_record()
            buffer = ring.take()
            done = 0
            while done < head["size"]:
                count = self._socket.recv_into(buffer[done : head["size"]])
                if not count:
                    raise RuntimeError("QEMU closed the raw port")
                reader.read(count)
                done += count
            chunks.put(Chunk(buffer, head["size"], head["crc32"]))
            left -= head["size"]
        finish()
        self._check_md5(ring)

    def _check_md5(self, ring: Ring) -> None:
        ours, theirs = ring.digest(), self._read_record()["md5"]
        if theirs != ours:
            raise RuntimeError(f"the raw port damaged something: MD5 {ours} here, {theirs} in the guest")

    def upload_tree(self, local: Path, remote: str) -> None:
        """A directory by tar on both ends; returns when the guest's tar has ended."""
        self._request(op="unpack", path=remote)
        with subprocess.Popen(["tar", "-c", "-C", str(local), "."], stdout=subprocess.PIPE) as tar:
            assert tar.stdout is not None
            while True:
                block = tar.stdout.read(BLOCK)
                self._socket.sendall(record({"size": len(block)}) + block)
                if not block:
                    break
        self._check_tar(tar.returncode)

    def download_tree(self, remote: str, local: Path) -> None:
        """The other way; returns when the tar here has ended."""
        self._request(op="pack", path=remote)
        buffer = memoryview(bytearray(BLOCK))
        with subprocess.Popen(["tar", "-x", "-C", str(local)], stdin=subprocess.PIPE) as tar:
            assert tar.stdin is not None
            while True:
                size = int(self._read_record()["size"])
                if not size:
                    break
                tar.stdin.write(buffer[: self._fill(buffer[:size])])
            tar.stdin.close()
        self._check_tar(tar.returncode)

    def _check_tar(self, ours: int) -> None:
        theirs = self._read_record()["status"]
        if ours or theirs:
            raise RuntimeError(f"tar failed: exit code {ours} here, {theirs} in the guest")

    def __enter__(self) -> RawPort:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is None:
            self._request(op="quit")
        self._socket.close()

    def _request(self, **fields: Any) -> None:
        self._socket.sendall(record(fields))

    def _read_record(self) -> dict[str, Any]:
        buffer = memoryview(bytearray(RECORD))
        self._fill(buffer)
        fields: dict[str, Any] = json.loads(bytes(buffer))
        return fields

    def _fill(self, buffer: memoryview) -> int:
        """Fill it, and return its size."""
        done = 0
        while done < len(buffer):
            count = self._socket.recv_into(buffer[done:])
            if not count:
                raise RuntimeError("QEMU closed the raw port")
            done += count
        return done
