"""The guest's end of the raw reference: a file across the port with nothing around it.

Everything that is no file content is a record: JSON, filled up with blanks to RECORD bytes, so that neither end ever
reads into what comes next. The host is connected before this starts and stays: once it has left, this ends, since
poll() would spin on the port's HUP.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import queue
import select
import subprocess
import sys
import threading
from typing import Any, Callable

RECORD = 256
WRITE_SLICE = 32 << 10  # what the driver takes in one buffer
WRITE_BLOCK = 32 * WRITE_SLICE
READ_SLICE = 4 << 10  # what the driver gives in one buffer
READ_BLOCK = 64 * READ_SLICE
RING_BYTES = 4 << 20  # of content that may wait to be hashed


class Ring:
    """Buffers that are used again and again. With `md5`, a thread hashes what is in one before it is free again."""

    def __init__(self, block: int, md5: bool, count: int | None = None) -> None:
        """`count`: of the buffers; by default as many as hashing needs."""
        self._digest = hashlib.md5() if md5 else None
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self._full: queue.SimpleQueue[tuple[memoryview, int] | None] = queue.SimpleQueue()
        for _ in range(count or (RING_BYTES // block if md5 else 1)):
            self._free.put(memoryview(bytearray(block)))
        self._thread = threading.Thread(target=self._hash, daemon=True)
        if md5:
            self._thread.start()

    def take(self) -> memoryview:
        """A buffer to fill."""
        return self._free.get()

    def give(self, buffer: memoryview, count: int) -> None:
        """Done with a buffer, whose first `count` bytes are content."""
        if self._digest is None:
            self._free.put(buffer)
        else:
            self._full.put((buffer, count))

    def digest(self) -> str:
        """Of all content; "" without `md5`."""
        if self._digest is None:
            return ""
        self._full.put(None)
        self._thread.join()
        return self._digest.hexdigest()

    def _hash(self) -> None:
        assert self._digest is not None
        while True:
            item = self._full.get()
            if item is None:
                return
            buffer, count = item
            self._digest.update(buffer[:count])
            self._free.put(buffer)


def record(fields: dict[str, Any]) -> bytes:
    """What is no content, as it travels."""
    return json.dumps(fields).encode().ljust(RECORD)


@functools.lru_cache(maxsize=16)
def parse(data: bytes) -> dict[str, Any]:
    """A record that travelled; most say the same as the one before."""
    fields: dict[str, Any] = json.loads(data)
    return fields


class Port:
    """The port, without blocking: a blocking write would wait for the host's news one buffer at a time."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(self._fd, select.POLLIN)
        self._writable.register(self._fd, select.POLLOUT)

    def read_record(self) -> dict[str, Any]:
        """The next record."""
        data = b""
        while len(data) < RECORD:
            data += _some(self._again(self._readable, os.read, RECORD - len(data)))
        return parse(data)

    def read_into(self, slices: list[memoryview]) -> int:
        """How much came: at least a byte."""
        count: int = _some(self._again(self._readable, os.readv, slices))
        return count

    def write(self, slices: list[memoryview]) -> None:
        """Write them all."""
        while slices:
            count: int = self._again(self._writable, os.writev, slices)
            while slices and count >= len(slices[0]):
                count -= len(slices[0])
                slices = slices[1:]
            if count:
                slices = [slices[0][count:], *slices[1:]]

    def _again(self, ready: select.poll, action: Callable[[int, Any], Any], argument: object) -> Any:
        while True:
            try:
                return action(self._fd, argument)
            except BlockingIOError:
                if any(events & select.POLLHUP for _, events in ready.poll()):
                    sys.exit("the host has left")


def _some(read: Any) -> Any:
    """What was read, unless it is nothing."""
    return read or sys.exit("the host has left")


def cut(buffer: memoryview, size: int) -> list[memoryview]:
    """The buffer in slices."""
    return [buffer[start : start + size] for start in range(0, len(buffer), size)]


def send(port: Port, path: str, md5: bool) -> None:
    """A file of the guest to the host: its size, its content, its digest."""
    ring, fd = Ring(WRITE_BLOCK, md5), os.open(path, os.O_RDONLY)
    size = os.fstat(fd).st_size
    port.write([memoryview(record({"size": size}))])
    for offset in range(0, size, WRITE_BLOCK):
        buffer = ring.take()
        count = os.preadv(fd, [buffer], offset)
        port.write(cut(buffer[:count], WRITE_SLICE))
        ring.give(buffer, count)
    os.close(fd)
    port.write([memoryview(record({"md5": ring.digest()}))])


def receive(port: Port, path: str, size: int, md5: bool) -> None:
    """A file of the host; answered with what was written and its digest, once the file is closed."""
    ring, fd = Ring(READ_BLOCK, md5), os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    slices: dict[int, list[memoryview]] = {}
    done = 0
    while done < size:
        buffer = ring.take()
        count = port.read_into(slices.setdefault(id(buffer), cut(buffer, READ_SLICE)))
        left = buffer[:count]
        while left:
            left = left[os.write(fd, left) :]
        ring.give(buffer, count)
        done += count
    os.close(fd)
    port.write([memoryview(record({"size": done, "md5": ring.digest()}))])


def unpack(port: Port, path: str) -> None:
    """A tar archive of the host, unpacked: in blocks, each after a record of its size; the last is empty."""
    tar = subprocess.Popen(["tar", "-x", "-C", path], stdin=subprocess.PIPE)
    assert tar.stdin is not None
    buffer = memoryview(bytearray(READ_BLOCK))
    while True:
        left = port.read_record()["size"]
        if not left:
            break
        while left:
            count = port.read_into(cut(buffer[: min(left, READ_BLOCK)], READ_SLICE))
            tar.stdin.write(buffer[:count])
            left -= count
    tar.stdin.close()
    port.write([memoryview(record({"status": tar.wait()}))])


def pack(port: Port, path: str) -> None:
    """A tar archive of a directory to the host, in blocks of which each comes after a record of its size."""
    tar = subprocess.Popen(["tar", "-c", "-C", path, "."], stdout=subprocess.PIPE)
    assert tar.stdout is not None
    while True:
        block = tar.stdout.read(WRITE_BLOCK)
        port.write([memoryview(record({"size": len(block)}))])
        if not block:
            break
        port.write(cut(memoryview(block), WRITE_SLICE))
    port.write([memoryview(record({"status": tar.wait()}))])
