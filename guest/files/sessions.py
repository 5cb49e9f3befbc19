"""All uploads in chunks: by their ids, no more than so many, and none that nobody uses for a while."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Iterator

from guest.config import LimitsConfig
from guest.errors import error, too_large
from guest.files.target import TargetFile
from guest.files.upload import UploadSession
from vsrpc.admission import Budget
from vsrpc.errors import RpcError, busy

KEPT = 8 * 1024 * 1024
"""Bytes of all uploads that wait in memory to be digested."""

_ANY_SIZE = 2**63 - 1

_DEFAULT_LIMITS = LimitsConfig()

_DIGESTERS = 2  # threads: as many as a small guest has CPUs


class UploadSessions:
    """All uploads of the daemon, by an id that cannot be guessed.

    Each holds two file descriptors and, perhaps, disk space. The idle time should be longer than a host needs to come
    back after a reboot.
    """

    def __init__(
        self,
        limits: LimitsConfig = _DEFAULT_LIMITS,
        clock: Callable[[], float] = time.monotonic,
        kept: int = KEPT,
        on_dropped: Callable[[str, UploadSession, str], None] = lambda session_id, session, why: None,
    ) -> None:
        """`kept`: bytes of all uploads that may wait in memory to be digested; the rest is read back from the file.

        `on_dropped` hears of uploads that end by no call, with their id and why.
        """
        self._limits = limits
        self._on_dropped = on_dropped
        self._clock = clock
        self._lock = threading.Lock()
        self._sessions: dict[str, UploadSession] = {}
        self._timer: threading.Timer | None = None
        self._stopped = False
        self._budget = Budget(kept)
        self._digesters = ThreadPoolExecutor(_DIGESTERS, thread_name_prefix="vsrpc-digest")

    @property
    def largest(self) -> int:
        """Bytes of an upload at most."""
        return _ANY_SIZE if self._limits.upload_space is None else self._limits.upload_space

    def open(
        self,
        target: TargetFile,
        size: int,
        chunk_size: int,
        *,
        digest_early: bool = True,
        checksum: int = 0,
        stream: bool = False,
    ) -> str:
        """Begin an upload, and take over `target`; returns the id. Raises BUSY when too many are open, or too large
        ones, and TOO_LARGE for one that is so alone.

        `digest_early`: compute the digest while chunks arrive. `stream`: the size is said at the end, and `size` is
        what it may be at most.
        """
        self.drop_idle()
        session = UploadSession(
            target, size, chunk_size, self._clock(), digest_early, self._digesters.submit, self._budget, checksum
        )
        session.stream = stream
        with self._lock:
            refusal = self._refusal(size)
            if refusal is None:
                session_id = secrets.token_hex(16)
                self._sessions[session_id] = session
                self._arm()
                return session_id
        session.close()
        raise refusal

    def _refusal(self, size: int) -> RpcError | None:
        """Why an upload of that size may not be opened; with the lock held."""
        limits = self._limits
        if self._stopped:
            return error("SERVICE_UNAVAILABLE", "The daemon is stopping; try again in a moment")
        wait = f"finish or abort one (one that is not used for {limits.upload_idle:.0f} s is dropped)"
        if len(self._sessions) >= limits.uploads:
            return busy(f"{len(self._sessions)} uploads are open already: {wait}", "limits.uploads", limits.uploads)
        space = limits.upload_space
        if space is None:
            return None
        if size > space:
            return too_large("The upload", size, "limits.upload_space", space)
        taken = sum(session.size for session in self._sessions.values())
        if taken + size > space:
            what = f"{size} bytes are too many beside the {taken} of the uploads that are open already: {wait}"
            return busy(what, "limits.upload_space", space)
        return None

    def end(self, path: str) -> None:
        """End the uploads to a path that another one is to go on with, or takes the place of: their caller has gone."""
        with self._lock:
            ended = [each for each in self._sessions.items() if each[1].resumable and each[1].path == path]
            for session_id, _ in ended:
                del self._sessions[session_id]
        for session_id, session in ended:
            session.close()
            self._on_dropped(session_id, session, "begun anew")

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
                    ended = self._sessions.pop(session_id, None)
                if ended is not None and session.failure is not None:
                    self._on_dropped(session_id, session, session.failure.reason)

    def drop_idle(self) -> None:
        """Drop the uploads that nobody has used for the idle time."""
        oldest = self._clock() - self._limits.upload_idle
        with self._lock:
            sessions = list(self._sessions.items())
        idle = [(session_id, session) for session_id, session in sessions if session.close_if_idle(oldest)]
        with self._lock:
            for session_id, _ in idle:
                self._sessions.pop(session_id, None)
        for session_id, session in idle:
            self._on_dropped(session_id, session, "idle")

    def stop(self) -> None:
        """Drop all uploads and take no more."""
        with self._lock:
            self._stopped = True
            sessions = list(self._sessions.items())
            self._sessions.clear()
            if self._timer is not None:
                self._timer.cancel()
        for session_id, session in sessions:
            session.close()
            self._on_dropped(session_id, session, "the daemon stops")
        self._digesters.shutdown()

    def _arm(self) -> None:
        """See to it that idle uploads are dropped even if no call comes; with the lock held."""
        if self._timer is None and self._sessions and not self._stopped:
            self._timer = threading.Timer(self._limits.upload_idle, self._wake)
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
