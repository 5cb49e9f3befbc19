"""A job's memory: what it wrote and what it is to read, and how far each is. Processes may share it.

It is an open file that is in no file system (memfd_create(2)): a page of counters, and a ring for each stream, in which
byte N stands at N modulo the ring's size. One process, the job's, fills the rings of output and empties that of input;
any may read the one and fill the other. Pages that were never written use no memory.

A counter is eight aligned bytes, which one store writes: whoever reads one sees it before or after. What a counter
speaks of is there before the counter says so, and given up after it says so.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import mmap
import os
import threading
import time

ATTENTION = 60.0
"""Seconds after a Read for which a job that holds its output waits for the next: longer than a link takes to heal."""

MAX_AHEAD = 4 * 1024 * 1024
"""Bytes of input that may wait for the job to read them: some calls' worth."""

NAP = 0.5
"""Seconds after which whoever waits looks again, should the news of a change have been lost: with the process that was
about to tell, or since a counter and the flag that asks for news are written by different processors."""

_MOMENT = 0.001  # seconds

_LAYOUT = 2  # its version
_HEAD = 65536  # bytes before the rings: what is mapped begins with a page, of which some machines have larger ones

# The counters. Those of a ring of output: the first byte that is still there, how many came, how many of them a reader
# has, and when that was last said. Of that of input: how many bytes callers gave, and the job took. For how much room
# for input somebody waits (another version of us may say 1 for any). How long the job's ending is.
_VERSION, _OUTPUT_SIZE, _INPUT_SIZE, _HOLDS, _OUTPUT_WATCHED, _INPUT_WATCHED, _OVER, _PID, _STDOUT = range(9)
_START, _END, _TAKEN, _SEEN = range(4)
_STDERR = _STDOUT + 4
_INPUT = _STDERR + 4
_OFFSET, _FED, _EOF, _CLOSED = range(4)
_ENDING_SIZE = _INPUT + 4
_COUNTERS = _ENDING_SIZE + 1

_ENDING = 4096  # where the ending stands in the head


class Memory:
    """The memory of one job, until `close`. Thread-safe."""

    def __init__(self, fd: int) -> None:
        """`fd` is closed, unless it raises OSError, or ValueError for a file that another version has made."""
        self._fd = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)  # so that its locks are our own
        self._lock = threading.Lock()  # the next two
        self._users = 0
        self._closed = False
        try:
            self._head = memoryview(mmap.mmap(self._fd, _HEAD))
            self.counters: memoryview[int] | array.array[int] = self._head[: 8 * _COUNTERS].cast("q")
            if self.counters[_VERSION] != _LAYOUT:
                raise ValueError(f"the layout is {self.counters[_VERSION]}, not {_LAYOUT}")
        except BaseException:
            os.close(self._fd)
            raise
        os.close(fd)
        size, input_size = self.counters[_OUTPUT_SIZE], self.counters[_INPUT_SIZE]
        self.input = InputRing(self, _HEAD, input_size) if input_size else None
        self.stdout = OutputRing(self, _HEAD + input_size, size, _STDOUT)
        self.stderr = OutputRing(self, _HEAD + input_size + size, size, _STDERR)

    def close(self) -> None:
        """Forget what is in it; only how much it was is still known. Nothing to do the second time."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            # Whoever still uses the page has it a moment longer.
            self.counters, self._head = array.array("q", self.counters), memoryview(b"")
            if self.input is not None:
                self.input.unmap()
            if not self._users:
                os.close(self._fd)

    def file(self) -> OpenFile:
        """A context in which its descriptor stays open; None instead once all is forgotten."""
        return OpenFile(self)

    def open(self) -> int | None:
        """For OpenFile: one more uses the descriptor."""
        with self._lock:
            if self._closed:
                return None
            self._users += 1
            return self._fd

    def leave(self) -> None:
        """For OpenFile: one less."""
        with self._lock:
            self._users -= 1
            if self._closed and not self._users:
                os.close(self._fd)

    @classmethod
    def make(cls, output_size: int, *, takes_input: bool, holds_output: bool = False) -> Memory:
        """A new one. `output_size`: bytes of each ring of output. Raises OSError."""
        fd = os.memfd_create("vsrpc-job", os.MFD_CLOEXEC)
        try:
            input_size = MAX_AHEAD if takes_input else 0
            os.ftruncate(fd, _HEAD + 2 * output_size + input_size)
            with mmap.mmap(fd, _HEAD) as mapped, memoryview(mapped) as page, page.cast("q") as counters:
                counters[_VERSION] = _LAYOUT
                counters[_OUTPUT_SIZE], counters[_INPUT_SIZE] = output_size, input_size
                counters[_HOLDS] = holds_output
                counters[_STDOUT + _SEEN] = counters[_STDERR + _SEEN] = time.monotonic_ns()
            memory = cls(fd)
        except BaseException:
            os.close(fd)
            raise
        try:
            if memory.input is not None:
                memory.input.map()
        except BaseException:
            memory.close()
            raise
        return memory

    @property
    def over(self) -> bool:
        """Whether the job has ended, and all of its output is here."""
        return bool(self.counters[_OVER])

    @over.setter
    def over(self, value: bool) -> None:
        self.counters[_OVER] = value

    @property
    def pid(self) -> int:
        """The first process of what runs, or ran last."""
        return self.counters[_PID]

    @pid.setter
    def pid(self, value: int) -> None:
        self.counters[_PID] = value

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """Where each output starts and ends, and the input's offset; in one step, for who needs them all."""
        counters = self.counters
        return (
            counters[_STDOUT + _START],
            counters[_STDOUT + _END],
            counters[_STDERR + _START],
            counters[_STDERR + _END],
            counters[_INPUT + _OFFSET],
        )

    @property
    def ending(self) -> bytes:
        """What is known of the job that has ended, in its owner's words; empty where it is not told here."""
        return bytes(self._head[_ENDING : _ENDING + self.counters[_ENDING_SIZE]])

    @ending.setter
    def ending(self, value: bytes) -> None:
        """Before `over` is set. What is too long is not told."""
        if len(value) <= _HEAD - _ENDING:
            self._head[_ENDING : _ENDING + len(value)] = value
            self.counters[_ENDING_SIZE] = len(value)

    def watch_output(self) -> None:
        """Another process is to be told when there is more output, or the job ends."""
        self.counters[_OUTPUT_WATCHED] = True

    def watch_input(self, room: int) -> None:
        """Whoever waits is to be told when so many bytes of input can be given, or the job takes none any more."""
        asked = self.counters[_INPUT_WATCHED]
        self.counters[_INPUT_WATCHED] = min(asked, room) if asked else room

    def take_output_watch(self) -> bool:
        """Whether another process is to be told that there is more output; it is not asked for any more."""
        if not self.counters[_OUTPUT_WATCHED]:
            return False
        self.counters[_OUTPUT_WATCHED] = False
        return True

    def take_input_watch(self, *, over: bool = False) -> bool:
        """Whether those who wait are to be told that there is room for input; it is not asked for any more. `over`: or
        of another change, which may be the job's end."""
        asked = self.counters[_INPUT_WATCHED]
        if not asked or not (over or self.input is None or self.input.room >= asked or self.input.closed):
            return False
        self.counters[_INPUT_WATCHED] = 0
        return True

    def attend(self, stdout: int, stderr: int) -> bool:
        """A reader has the outputs up to there, and stays; whether that makes room for a job that waits for it."""
        made_room = [self.stdout.attend(stdout), self.stderr.attend(stderr)]
        return any(made_room)

    def release(self) -> None:
        """Hold no output for readers any more: from now on what is new takes the place of what is oldest."""
        self.counters[_HOLDS] = False


class OpenFile:
    """The use of a memory's descriptor. A class, since a generator takes three times as long, each time."""

    __slots__ = ("_fd", "_memory")

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._fd: int | None = None

    def __enter__(self) -> int | None:
        self._fd = self._memory.open()
        return self._fd

    def __exit__(self, *exception: object) -> None:
        if self._fd is not None:
            self._memory.leave()


class OutputRing:
    """What came out of one of a job's outputs, by absolute offset: the last bytes of it."""

    def __init__(self, memory: Memory, base: int, size: int, counter: int) -> None:
        self._memory = memory
        self._base = base
        self.size = size
        self._counter = counter

    @property
    def start(self) -> int:
        """The first byte that is still there."""
        return self._memory.counters[self._counter + _START]

    @property
    def end(self) -> int:
        """Bytes written so far."""
        return self._memory.counters[self._counter + _END]

    # -- for readers

    def content(self, offset: int, limit: int) -> tuple[int, bytes]:
        """At most `limit` bytes from `offset` on, and where they begin: later where older ones were dropped."""
        end = self.end
        there, at = min(limit, end - offset), offset % self.size
        if there <= 0:
            return end if offset > end else max(offset, self.start), b""
        if there <= self.size - at:  # in a row, as most small pieces are: at once
            with self._memory.file() as fd:
                piece = b"" if fd is None else os.pread(fd, there, self._base + at)
            if piece and self.start <= offset:  # and was not overwritten meanwhile
                return offset, piece
        buffer = bytearray(max(0, min(limit, self.end - max(offset, self.start))))
        begin, count = self.read_into(offset, memoryview(buffer))
        return begin, bytes(buffer[:count])

    def read_into(self, offset: int, buffer: memoryview) -> tuple[int, int]:
        """The same into a buffer: where they begin, and how many they are."""
        with self._memory.file() as fd:
            while True:
                begin = min(max(offset, self.start), self.end)
                count = 0 if fd is None else min(len(buffer), self.end - begin)
                if fd is not None and count:
                    at = begin % self.size
                    first = min(count, self.size - at)
                    os.preadv(fd, [buffer[:first]], self._base + at)
                    if first < count:
                        os.preadv(fd, [buffer[first:count]], self._base)
                if self.start <= begin:  # not overwritten meanwhile
                    return begin, count

    def attend(self, offset: int) -> bool:
        """Somebody has all before `offset` and stays; whether that makes room for a job that may wait for it."""
        self._memory.counters[self._counter + _SEEN] = time.monotonic_ns()
        before = max(self._memory.counters[self._counter + _TAKEN], self.start)
        self._memory.counters[self._counter + _TAKEN] = taken = max(before, min(offset, self.end))
        return taken > before and self.end - before >= self.size  # as it was seen until now

    # -- for the job

    @property
    def room(self) -> int:
        """Bytes that can be taken without losing what a reader still wants."""
        if not self._memory.counters[_HOLDS] or self._silent > ATTENTION:
            return self.size
        return self.size - (self.end - max(self._memory.counters[self._counter + _TAKEN], self.start))

    @property
    def patience(self) -> float:
        """Seconds for which a full ring waits for readers, before it is looked at again; 0 while it is not full."""
        return 0.0 if self.room > 0 else max(_MOMENT, min(NAP, ATTENTION - self._silent))

    def place(self, room: int) -> tuple[int, int]:
        """Where in the file the next bytes belong, and how many at most, not more than `room`, stand there in a row."""
        at = self.end % self.size
        return self._base + at, min(room, self.size - at)

    def make_way(self, count: int) -> None:
        """Give up what `count` further bytes will overwrite, before they do."""
        start = self.end + count - self.size
        if start > self.start:
            self._memory.counters[self._counter + _START] = start

    def grow(self, count: int) -> None:
        """So many bytes have been put in their place."""
        self._memory.counters[self._counter + _END] += count

    @property
    def _silent(self) -> float:
        """Seconds since somebody read."""
        return (time.monotonic_ns() - self._memory.counters[self._counter + _SEEN]) / 1e9


class _Alone:
    """Against other threads, and other processes: of one that dies the kernel takes the lock away (flock(2))."""

    __slots__ = ("_fd", "_lock")

    def __init__(self, lock: threading.Lock, fd: int | None) -> None:
        self._lock = lock
        self._fd = fd

    def __enter__(self) -> None:
        self._lock.acquire()
        try:
            if self._fd is not None:
                fcntl.flock(self._fd, fcntl.LOCK_EX)
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, *exception: object) -> None:
        try:
            if self._fd is not None:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
        finally:
            self._lock.release()


class InputRing:
    """What callers gave a job to read, by absolute offset, and it has not taken yet."""

    def __init__(self, memory: Memory, base: int, size: int) -> None:
        self._memory = memory
        self._base = base
        self.size = size
        self._map: mmap.mmap | None = None  # in the job's process
        self._mapped = memoryview(b"")
        self._lock = threading.Lock()

    @property
    def offset(self) -> int:
        """Bytes taken from callers so far."""
        return self._memory.counters[_INPUT + _OFFSET]

    @property
    def behind(self) -> int:
        """Bytes that the job has not taken."""
        return self.offset - self._memory.counters[_INPUT + _FED]

    @property
    def room(self) -> int:
        """Bytes that can be taken now."""
        return self.size - self.behind

    @property
    def eof(self) -> bool:
        """Whether there will be no more."""
        return bool(self._memory.counters[_INPUT + _EOF])

    @property
    def closed(self) -> bool:
        """Whether nobody will read any more."""
        return bool(self._memory.counters[_INPUT + _CLOSED])

    # -- for callers

    def takes(self, offset: int, count: int) -> bool:
        """Whether there is room for so many bytes that belong at `offset`."""
        counters = self._memory.counters
        taken = counters[_INPUT + _OFFSET]
        return offset <= taken and offset + count - counters[_INPUT + _FED] <= self.size

    def take(self, offset: int, content: memoryview, eof: bool) -> bool:
        """Take what there is room for of bytes that belong at `offset`; bytes that were taken before are passed over.

        Returns whether all of it was taken, or nobody reads. Raises ValueError for bytes that leave a gap, or come
        after the end.
        """
        with self._memory.file() as fd, _Alone(self._lock, fd):
            counters = self._memory.counters
            fresh = self._fresh(offset, content)
            if counters[_INPUT + _CLOSED] or fd is None:
                return True
            taken = counters[_INPUT + _OFFSET]
            piece = fresh[: self.size - (taken - counters[_INPUT + _FED])]
            self._pwrite(fd, piece, taken % self.size)
            counters[_INPUT + _OFFSET] = taken + len(piece)
            if eof and len(piece) == len(fresh):
                counters[_INPUT + _EOF] = True
            return len(piece) == len(fresh)

    # -- for the job

    def map(self) -> None:
        """Make ready for `next`. Raises OSError."""
        with self._memory.file() as fd:
            assert fd is not None, "it is new"
            self._map = mmap.mmap(fd, self.size, offset=self._base)
            self._mapped = memoryview(self._map)

    def unmap(self) -> None:
        """There is no `next` any more."""
        self._map, self._mapped = None, memoryview(b"")

    def next(self) -> memoryview:
        """The next bytes, all that stand in a row; they stay until `fed` says so."""
        counters = self._memory.counters
        fed = counters[_INPUT + _FED]
        at = fed % self.size
        return self._mapped[at : min(at + counters[_INPUT + _OFFSET] - fed, self.size)]

    def fed(self, count: int) -> None:
        """The job has taken so many."""
        self._memory.counters[_INPUT + _FED] += count

    def close(self) -> None:
        """Nobody will read any more; what is left is forgotten."""
        with self._memory.file() as fd, _Alone(self._lock, fd):
            self._memory.counters[_INPUT + _CLOSED] = True
            self._memory.counters[_INPUT + _FED] = self.offset
            if self._map is not None:
                with contextlib.suppress(OSError):
                    self._map.madvise(mmap.MADV_REMOVE)  # the pages, which a job's end leaves for an hour else
            self.unmap()

    def _fresh(self, offset: int, content: memoryview) -> memoryview:
        """What of bytes at `offset` was not taken before."""
        taken = self.offset
        if offset > taken:
            raise ValueError(f"offset {offset} is beyond the {taken} bytes that were written so far")
        fresh = content[taken - offset :]
        if len(fresh) and self.eof:
            raise ValueError(f"the input has ended after {taken} bytes")
        return fresh

    def _pwrite(self, fd: int, piece: memoryview, at: int) -> None:
        first = min(len(piece), self.size - at)
        os.pwrite(fd, piece[:first], self._base + at)
        if first < len(piece):
            os.pwrite(fd, piece[first:], self._base)
