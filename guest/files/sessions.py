"""All uploads in chunks: by their ids, no more than so many, and none that nobody uses for a while."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Iterator

from guest.errors import error
from guest.files.target import TargetFile
from guest.files.upload import UploadSession
from vsrpc.admission import Budget
from vsrpc.errors import RpcError

MAX_SESSIONS = 32
"""Uploads open at a time: each holds two file descriptors and, perhaps, disk space."""

IDLE_SECONDS = 900.0
"""An upload without a call for so long is dropped. Longer than a host needs to come back after a reboot."""

KEPT = 8 * 1024 * 1024
"""Bytes of all uploads that wait in memory to be digested."""

_DIGESTERS = 2  # threads: as many as a small guest has CPUs


class UploadSessions:
    """All uploads of the daemon, by an id that cannot be guessed."""

    def __init__(
        self,
        max_sessions: int = MAX_SESSIONS,
        idle_seconds: float = IDLE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        kept: int = KEPT,
    ) -> None:
        """`kept`: bytes of all uploads that may wait in memory to be digested; the rest is read back from the file."""
        self._max = max_sessions
        self._idle = idle_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._sessions: dict[str, UploadSession] = {}
        self._timer: threading.Timer | None = None
        self._stopped = False
        self._budget = Budget(kept)
        self._digesters = ThreadPoolExecutor(_DIGESTERS, thread_name_prefix="vsrpc-digest")

    def open(self, target: TargetFile, size: int, chunk_size: int, *, digest_early: bool = True) -> str:
        """Begin an upload, and take over `target`; returns the id. Raises BUSY when too many are open.

        `digest_early`: compute the MD5 while chunks arrive.
        """
        self.drop_idle()
        session = UploadSession(
            target, size, chunk_size, self._clock(), digest_early, self._digesters.submit, self._budget
        )
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
        """The upload of this id; raises SESSION_NOT_FOUND."""
        with self._lock:
            session = self._sessions.get(session_id)
        if session is None or not session.enter():
            raise _not_found(session_id)
        try:
            yield session
        finally:
            session.leave(self._clock())
            if session.closed:
                with self._lock:
                    self._sessions.pop(session_id, None)

    def drop_idle(self) -> None:
        """Drop the uploads that nobody has used for the idle time."""
        oldest = self._clock() - self._idle
        with self._lock:
            sessions = list(self._sessions.items())
        idle = [session_id for session_id, session in sessions if session.close_if_idle(oldest)]
        with self._lock:
            for session_id in idle:
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
            session.close()
        self._digesters.shutdown()

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
