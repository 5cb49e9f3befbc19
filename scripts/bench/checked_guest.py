"""The guest's end of the checked reference: a file across the port with what vsrpc promises of each, and nothing else.

It moves chunks, each after a record with its size and its CRC-32. As in vsrpc, who sends a chunk looks whether it
contains the marker of a new session, and who receives one looks for that; output keeps within a window of which the
host acknowledges each half; an upload is answered chunk by chunk, of which two are under way; a file is on its disk
before it is said to be there. There are no calls, no HTTP, no protobuf, no paths to judge, no client that could be
another.
"""

from __future__ import annotations

import os
import queue
import threading
import zlib
from typing import Callable, NamedTuple, Optional

from scripts.bench.raw_guest import READ_BLOCK, READ_SLICE, WRITE_SLICE, Port, Ring, cut, record

CHUNK = 2 << 20
UNDER_WAY = 2  # chunks of an upload without an answer
ACK = b"\x06"
MAGIC = bytes.fromhex("165696d6d69656d69696d65656d6d696")  # not in what the host sends
MARK = b"HTTP/1.1 100 Continue\r\nvsrpc-sync: "  # not in what the guest sends


class Chunk(NamedTuple):
    """A buffer of a Ring, how much of it is content, and the CRC-32 of that."""

    buffer: memoryview
    count: int
    crc32: int


Chunks = queue.SimpleQueue[Optional[Chunk]]


class Window:
    """What may be written ahead of the acknowledgements. `size` in bytes; `more` waits for some, and says how many."""

    def __init__(self, size: int, more: Callable[[], int]) -> None:
        self._half = size // 2
        self._acknowledged = 0
        self._written = 0
        self._more = more

    def take(self, most: int) -> int:
        """How much is to be written now: at least a byte."""
        while True:
            room = (self._acknowledged + 2) * self._half - self._written
            if room:
                break
            self._acknowledged += self._more()
        taken = min(most, room)
        self._written += taken
        return taken

    def close(self) -> None:
        """Wait for all acknowledgements: whoever reads next expects none."""
        while self._acknowledged < self._written // self._half:
            self._acknowledged += self._more()


class Reader:
    """Counts what was read, and acknowledges each half of the window."""

    def __init__(self, size: int, acknowledge: Callable[[bytes], object]) -> None:
        self._half = size // 2
        self._acknowledge = acknowledge
        self._count = 0

    def read(self, count: int) -> None:
        """So much more was read."""
        halves = (self._count + count) // self._half - self._count // self._half
        self._count += count
        if halves:
            self._acknowledge(ACK * halves)


def check_clean(buffer: memoryview, start: int, end: int, marker: bytes) -> None:
    """Look for the marker there, in a buffer of a Ring."""
    whole = buffer.obj
    assert isinstance(whole, bytearray)
    if whole.find(marker, start, end) >= 0:
        raise RuntimeError("the file contains the marker: this reference moves only what is random")


def keep(
    ring: Ring, chunks: Chunks, fd: int, marker: bytes = b"", answer: Callable[[], object] = lambda: None
) -> Callable[[], None]:
    """Check and write, in a thread of its own, the chunks that come, looking for a marker if one is given; what is
    returned waits until all are on the disk, closes the file, and raises what failed."""
    failures: list[Exception] = []

    def work() -> None:
        while True:
            chunk = chunks.get()
            if chunk is None:
                return
            try:
                store(chunk)
            except Exception as failure:
                failures.append(failure)
            ring.give(chunk.buffer, chunk.count)
            answer()

    def store(chunk: Chunk) -> None:
        content = chunk.buffer[: chunk.count]
        if marker:
            check_clean(chunk.buffer, 0, chunk.count, marker)
        if zlib.crc32(content) != chunk.crc32:
            raise RuntimeError("a chunk is damaged")
        while content:
            content = content[os.write(fd, content) :]

    def finish() -> None:
        chunks.put(None)
        thread.join()
        os.fsync(fd)
        os.close(fd)
        if failures:
            raise failures[0]

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return finish


def send(port: Port, path: str, window: int, md5: bool) -> None:
    """A file of the guest to the host: its size, its chunks, its digest."""
    ring, fd = Ring(CHUNK, md5, 4), os.open(path, os.O_RDONLY)
    size = os.fstat(fd).st_size
    ready: Chunks = queue.SimpleQueue()

    def prepare() -> None:
        for offset in range(0, size, CHUNK):
            buffer = ring.take()
            count = os.preadv(fd, [buffer], offset)
            check_clean(buffer, 0, count, MARK)
            ready.put(Chunk(buffer, count, zlib.crc32(buffer[:count])))

    threading.Thread(target=prepare, daemon=True).start()
    answers = [memoryview(bytearray(64))]
    room = Window(window, lambda: port.read_into(answers))
    port.write([memoryview(record({"size": size}))])
    left = size
    while left:
        chunk = ready.get()
        assert chunk is not None
        port.write([memoryview(record({"size": chunk.count, "crc32": chunk.crc32}))])
        done = 0
        while done < chunk.count:
            some = room.take(chunk.count - done)
            port.write(cut(chunk.buffer[done : done + some], WRITE_SLICE))
            done += some
        ring.give(chunk.buffer, chunk.count)
        left -= chunk.count
    room.close()
    os.close(fd)
    port.write([memoryview(record({"md5": ring.digest()}))])


def receive(port: Port, path: str, size: int, md5: bool) -> None:
    """A file of the host; answered when each chunk is written, and when all is on the disk."""
    ring, fd = Ring(CHUNK, md5, UNDER_WAY + 1), os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    chunks: Chunks = queue.SimpleQueue()
    written = memoryview(record({"written": True}))
    finish = keep(ring, chunks, fd, answer=lambda: port.write([written]))
    slices: dict[int, list[memoryview]] = {}
    left = size
    while left:
        head = port.read_record()
        buffer = ring.take()
        pages = slices.setdefault(id(buffer), cut(buffer, READ_SLICE))
        done = 0
        while done < head["size"]:
            page, rest = divmod(done, READ_SLICE)
            some = pages[page : page + READ_BLOCK // READ_SLICE]
            if rest or done + READ_BLOCK > head["size"]:
                some = cut(buffer[done : min(done + READ_BLOCK, head["size"])], READ_SLICE)
            count = port.read_into(some)
            check_clean(buffer, done, done + count, MAGIC)
            done += count
        chunks.put(Chunk(buffer, head["size"], head["crc32"]))
        left -= head["size"]
    finish()
    port.write([memoryview(record({"md5": ring.digest()}))])
