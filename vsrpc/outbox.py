"""What a server has to say on one stream: whole messages, small ones first, never more than the peer has room for.

Whoever has a message writes it at once if that needs no waiting; what is left is written by a thread of the outbox, or,
where it waits for the peer to read, by who brings the acknowledgement. A new session makes void what was queued and
half-sent, so that each message names the session that it is for.

Flow control: at a port the peer grants a window, and acknowledges what it has read in halves of it. What is written and
not acknowledged always fits the peer's socket: were it to die, nothing would be stuck in the port, which costs the port
a descriptor each time.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from typing import Callable, Sequence

from vsrpc.hello import MESSAGE_COST
from vsrpc.transports import Buffer, Transport, TransportClosed, TransportError, TransportTimeout

_log = logging.getLogger(__name__)

# Messages up to so many bytes overtake larger ones.
_SMALL = 32768

# Bytes that may wait to be written before those who have more must wait.
_MAX_QUEUED = 4 << 20

# How long the thread may sleep before it looks whether what it writes is still wanted, and how long it stays when there
# is nothing to write, in seconds.
_NAP = 0.1
_LINGER = 5.0


class _Message:
    """A message, or what is left of it."""

    def __init__(self, buffers: Sequence[Buffer], then: Callable[[], None] | None) -> None:
        self._rest = deque(memoryview(buffer).cast("B") for buffer in buffers if len(buffer))
        self.size = sum(map(len, self._rest))
        self.then = then
        self.pieces: list[memoryview] = []
        """What to write next."""

    def prepare(self, room: int) -> int:
        """Have at most `room` bytes as what to write next; how many they are."""
        piece = self._rest[0]
        if len(piece) >= room:
            self.pieces = [piece[:room]]
            return room
        self.pieces = []
        left = room
        for piece in self._rest:
            if len(piece) >= left:
                self.pieces.append(piece[:left])
                return room
            self.pieces.append(piece)
            left -= len(piece)
        return room - left

    def sent(self, count: int) -> bool:
        """So many bytes were written; whether that was all. Nothing of what was is held any more."""
        self.pieces = []
        while count:
            piece = self._rest[0]
            if count < len(piece):
                self._rest[0] = piece[count:]
                return False
            self._rest.popleft()
            count -= len(piece)
        return not self._rest


class Outbox:
    """Writes to one transport. Thread-safe. `write_timeout`: seconds without progress after which the peer is given up;
    `on_failure` is then told, in the thread that writes."""

    def __init__(
        self, transport: Transport, write_timeout: float, on_failure: Callable[[TransportError], None]
    ) -> None:
        self._transport = transport
        self._write_timeout = write_timeout
        self._on_failure = on_failure
        self._lock = threading.RLock()  # all below
        self._changed = threading.Condition(self._lock)
        self._session = 0
        self.said = 0
        """Messages that were put so far."""
        self._small: deque[_Message] = deque()
        self._large: deque[_Message] = deque()
        self._queued = 0
        self._current: _Message | None = None
        self._writing = False  # somebody writes, and will go on with what is put meanwhile
        self._handed_over = False  # ... and that is the thread
        self._parked = False  # ... or whoever brings the acknowledgement that there is no room without
        self._thread: threading.Thread | None = None
        self._closed = False
        self._given_up = math.inf  # when the peer is, on the monotonic clock
        self._window = 0
        self._granted = 0
        self._used = 0
        self._sending = 0  # bytes that may have gone out, and are not in `used` yet

    def begin(self) -> int:
        """A new session: its number. Nothing of an earlier one will be written any more, but what has been begun."""
        with self._lock:
            self._session += 1
            self._drop()
            self._window = 0
            self._given_up = time.monotonic() + self._write_timeout
            return self._session

    def grant(self, window: int) -> None:
        """From the message on that is put next, write at most `window` bytes ahead of the peer's acknowledgements."""
        with self._lock:
            self._window = self._granted = window
            self._used = 0

    def acknowledge(self, halves: int) -> None:
        """The peer has read so much more of its window."""
        with self._lock:
            # No peer can have read more than was sent, or is just being sent.
            most = self._used + self._sending + MESSAGE_COST + self._window
            self._granted = min(self._granted + halves * (self._window // 2), most)
            if not self._parked:
                return
            self._parked = False
            message = self._next()
        if not self._write(message, may_wait=False):
            self._hand_over()

    @property
    def backlog(self) -> int:
        """Bytes that wait to be written."""
        return self._queued

    @property
    def on_the_way(self) -> bool:
        """Whether there is something that has not been written yet."""
        with self._lock:
            return self._writing or bool(self._queued)

    def put(
        self, session: int, buffers: Sequence[Buffer], *, wait: bool = False, then: Callable[[], None] | None = None
    ) -> None:
        """Have a message of a session written; `then` is called once it is. With `wait`, first wait for room."""
        message = _Message(buffers, then)
        with self._lock:
            if wait:
                self._changed.wait_for(lambda: self._queued < _MAX_QUEUED or session != self._session or self._closed)
            if session != self._session or self._closed:
                return
            (self._small if message.size <= _SMALL else self._large).append(message)
            self._queued += message.size
            self.said += 1
            if self._writing:
                return
            self._writing = True
            first = self._next()
        if not self._write(first, may_wait=False):
            self._hand_over()

    def flush(self, seconds: float) -> bool:
        """Wait until all is written; whether it was in time."""
        with self._lock:
            return self._changed.wait_for(lambda: not self._writing or self._closed, seconds)

    def close(self) -> None:
        """Write no more; waits for the thread."""
        with self._lock:
            self._closed = True
            self._drop()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _drop(self) -> None:
        self._small.clear()
        self._large.clear()
        self._queued = 0
        self._current = None
        if self._parked:
            self._parked = self._writing = False
        self._changed.notify_all()

    # -- whoever writes

    def _hand_over(self) -> None:
        with self._lock:
            if self._closed:
                self._writing = False
                return
            self._handed_over = True
            self._need_thread()
            self._changed.notify_all()

    def _need_thread(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="vsrpc-outbox", daemon=True)
            self._thread = thread
            try:
                thread.start()
            except RuntimeError:  # no further thread
                self._thread = None
                raise

    def _run(self) -> None:
        """Write what was handed over; and watch over a peer that acknowledges nothing."""
        while True:
            with self._lock:
                self._changed.wait_for(lambda: self._handed_over or self._closed, min(_LINGER, self._write_timeout))
                silent = self._parked and time.monotonic() >= self._given_up
                if not silent and not self._handed_over and (self._closed or not self._parked):
                    self._thread = None
                    return
                handed_over, self._handed_over = self._handed_over, False
            if silent:
                self._fail(TransportTimeout(f"{self._transport.peer}: the host does not read in time"))
            elif handed_over:
                with self._lock:
                    message = self._next()
                self._write(message, may_wait=True)

    def _write(self, message: _Message | None, may_wait: bool) -> bool:
        """Write what was prepared of a message, and what else there is and there is room for; False when that needs
        waiting that is not allowed."""
        if may_wait:
            self._given_up = time.monotonic() + self._write_timeout
        try:
            while message is not None:
                sent = 0
                try:
                    sent = self._transport.send_some(message.pieces, _NAP if may_wait else 0)
                except TransportTimeout:
                    if not may_wait:
                        return False
                    if time.monotonic() >= self._given_up:
                        raise
                else:
                    if may_wait:
                        self._given_up = time.monotonic() + self._write_timeout
                message = self._sent(message, sent)
        except TransportError as error:
            self._fail(error)
        return True

    def _sent(self, message: _Message, count: int) -> _Message | None:
        """So much of a message was written: tell who waits for all of it. What to write next."""
        whole = message.sent(count)
        with self._lock:
            self._sending = 0
            current = self._current is message  # no new session has begun
            if current:
                self._used += count
                self._queued -= count
            if not current or not whole:
                return self._next()
            self._used += MESSAGE_COST
            self._current = None
            self._changed.notify_all()
        if message.then is not None:
            message.then()
        with self._lock:
            return self._next()

    def _next(self) -> _Message | None:
        """Prepare what to write next, if there is something and room for it."""
        message = self._current
        if message is None:
            queue = self._small or self._large
            if not queue:
                self._writing = False
                self._changed.notify_all()
                return None
            message = self._current = queue.popleft()
        room = self._granted - self._used if self._window else message.size
        if room <= 0:
            self._parked = True
            self._given_up = time.monotonic() + self._write_timeout
            if self._thread is None:
                self._need_thread()
            return None
        self._sending = message.prepare(room)
        return message

    def _fail(self, error: TransportError) -> None:
        with self._lock:
            self._writing = self._parked = False
            self._drop()
        level = logging.DEBUG if isinstance(error, TransportClosed) else logging.WARNING
        _log.log(level, "%s; its session is ended", error)
        self._on_failure(error)
