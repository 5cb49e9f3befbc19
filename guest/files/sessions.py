"""Uploads in chunks: what has arrived, its digest, and who is allowed to go on.

Chunks may come in any order, from several threads, and again. The digest is computed while chunks arrive, so that the
end of an upload has little left to do. An upload that nobody uses for a while is dropped.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from typing import Any, Callable, Iterator

from guest.errors import error
from guest.files.content import BLOCK, new_md5
from guest.files.ranges import Ranges
from guest.files.target import TargetFile
from guest.os_errors import printable
from vsrpc.errors import RpcError

MAX_SESSIONS = 32
"""Uploads open at a time: each holds two file descriptors and, perhaps, disk space."""

IDLE_SECONDS = 900.0
"""An upload without a call for so long is dropped. Longer than a host needs to come back after a reboot."""

_CATCH_UP = 16 * 1024 * 1024  # bytes digested in one call beyond its own chunk, so that no call takes long


class UploadSession:
    """One upload. All of it is used with `lock` held (UploadSessions.use)."""

    def __init__(self, target: TargetFile, size: int, chunk_size: int, now: float) -> None:
        self.lock = threading.Lock()
        self.used = now
        self.path = target.spec.path
        self.size = size
        self.chunk_size = chunk_size
        self.chunks = 0
        self.closed = False
        self._target = target
        self._received = Ranges()
        self._digest: Any = new_md5()
        self._digested = 0

    @property
    def received(self) -> int:
        """Bytes of the file that have arrived."""
        return self._received.total

    def write(self, offset: int, content: bytes, go_on: Callable[[], None]) -> None:
        """Take a chunk; one that has arrived already changes nothing. A failure to write ends the upload."""
        end = offset + len(content)
        if offset < 0 or end > self.size:
            message = f"Chunk of {len(content)} bytes at offset {offset} is outside the file of {self.size} bytes"
            raise error("INVALID_PARAMS", f"{message} that was announced: {printable(self.path)}", offset=offset)
        if not content or self._has(offset, content):
            return
        try:
            self._target.write(content, offset)
        except RpcError:
            self.close()
            raise
        self.chunks += 1
        if offset < self._digested:  # bytes that are in the digest changed
            self._digest, self._digested = new_md5(), 0
        if offset == self._digested:
            self._digest.update(content)
            self._digested = end
        self._received.add(offset, end)
        self._catch_up(self._digested + _CATCH_UP, go_on)

    def finish(self, md5: str, go_on: Callable[[], None]) -> str:
        """Check all that arrived and put it in place; returns its MD5. Only missing pieces leave the upload open."""
        gap = self._received.first_gap(self.size)
        if gap is not None:
            message = f"Bytes {gap[0]} to {gap[1] - 1} of {self.size} have not arrived: {printable(self.path)}"
            raise error("CONTENT_MISMATCH", f"{message} (send them, then finish again)", offset=gap[0], end=gap[1])
        self._catch_up(self.size, go_on)
        actual = str(self._digest.hexdigest())
        if md5 and md5.lower() != actual:
            self.close()
            message = f"MD5 of what arrived is {actual}, not {md5.lower()}: {printable(self.path)}"
            raise error("CONTENT_MISMATCH", f"{message} (the target is unchanged; upload again)", md5=actual)
        try:
            self._target.commit()
        finally:
            self.close()
        return actual

    def close(self) -> None:
        """End the upload and remove what is not in place; does nothing the second time."""
        self.closed = True
        self._target.discard()

    def _has(self, offset: int, content: bytes) -> bool:
        """Whether these very bytes are there: a chunk sent again after a lost reply."""
        end = offset + len(content)
        if not self._received.contains(offset, end):
            return False
        return self._target.read(len(content), offset) == content

    def _catch_up(self, limit: int, go_on: Callable[[], None]) -> None:
        """Digest what has arrived without a gap, up to `limit`, from the file."""
        end = min(self._received.end_from(self._digested), limit)
        while self._digested < end:
            go_on()
            block = self._target.read(min(BLOCK, end - self._digested), self._digested)
            if not block:
                self.close()
                message = f"The temporary file was cut by somebody in the guest: {printable(self.path)} (upload again)"
                raise error("CONTENT_MISMATCH", message, path=printable(self.path))
            self._digest.update(block)
            self._digested += len(block)


class UploadSessions:
    """All uploads of the daemon, by an id that cannot be guessed."""

    def __init__(
        self,
        max_sessions: int = MAX_SESSIONS,
        idle_seconds: float = IDLE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max = max_sessions
        self._idle = idle_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._sessions: dict[str, UploadSession] = {}
        self._timer: threading.Timer | None = None
        self._stopped = False

    def open(self, target: TargetFile, size: int, chunk_size: int) -> str:
        """Begin an upload, and take over `target`; returns the id. Raises BUSY when too many are open."""
        self.drop_idle()
        session = UploadSession(target, size, chunk_size, self._clock())
        with self._lock:
            if self._stopped:
                refusal = error("SERVICE_UNAVAILABLE", "The daemon is stopping; try again in a moment")
            elif len(self._sessions) >= self._max:
                wait = f"finish or abort one (one that is not used for {self._idle:.0f} s is dropped)"
                refusal = error("BUSY", f"{self._max} uploads are open already: {wait}", limit=self._max)
            else:
                session_id = secrets.token_hex(16)
                self._sessions[session_id] = session
                self._arm()
                return session_id
        session.close()
        raise refusal

    @contextlib.contextmanager
    def use(self, session_id: str) -> Iterator[UploadSession]:
        """The upload of this id, for this thread alone; raises SESSION_NOT_FOUND."""
        with self._lock:
            session = self._sessions.get(session_id)
        if session is None:
            raise _not_found(session_id)
        with session.lock:
            if session.closed:
                raise _not_found(session_id)
            try:
                yield session
            finally:
                session.used = self._clock()
                if session.closed:
                    with self._lock:
                        self._sessions.pop(session_id, None)

    def drop_idle(self) -> None:
        """Drop the uploads that nobody has used for the idle time."""
        oldest = self._clock() - self._idle
        with self._lock:
            idle = [item for item in self._sessions.items() if item[1].used <= oldest]
        for session_id, session in idle:
            if not session.lock.acquire(blocking=False):
                continue  # in use just now
            try:
                if session.used > oldest:
                    continue
                session.close()
            finally:
                session.lock.release()
            with self._lock:
                self._sessions.pop(session_id, None)

    def stop(self) -> None:
        """Drop all uploads and take no more."""
        with self._lock:
            self._stopped = True
            sessions = list(self._sessions.values())
            self._sessions.clear()
            if self._timer is not None:
                self._timer.cancel()
        for session in sessions:
            with session.lock:
                session.close()

    def _arm(self) -> None:
        """See to it that idle uploads are dropped even if no call comes; with the lock held."""
        if self._timer is None and self._sessions and not self._stopped:
            self._timer = threading.Timer(self._idle, self._wake)
            self._timer.daemon = True
            self._timer.start()

    def _wake(self) -> None:
        self.drop_idle()
        with self._lock:
            self._timer = None
            self._arm()


def _not_found(session_id: str) -> RpcError:
    message = f"No such upload: {session_id[:64]!r} (finished, aborted or idle too long): begin it again"
    return error("SESSION_NOT_FOUND", message, session_id=session_id[:64])
