"""Lets the daemon look into the memory of jobs that a keeper runs, so that output and input do not pass through both.

On a socket of the keeper (SOCK_SEQPACKET) the daemon asks for a job by its id. The answer is what is known of the job,
with descriptors (SCM_RIGHTS of unix(7)): the job's memory; a pipe in which a byte makes the job look into it; and both
ends of one in which a byte says that something has changed in memory that is watched. Where the keeper has gone, or is
of a version that does not do this, all goes by calls.

    to the keeper    ID              which job?
    to the daemon    "+" ID INFO     this one: with the descriptors
                     "?" ID          none that runs
                     "-" ID          it was forgotten
"""

from __future__ import annotations

import array
import contextlib
import logging
import os
import socket
import threading
import time
from typing import Callable

from guest.jobs.live import LiveJob

_log = logging.getLogger(__name__)

FOUND, NONE, FORGOTTEN = b"+?-"

ID_SIZE = 8  # characters
MAX_INFO = 64 * 1024  # bytes: a job with a longer command is read by calls
DESCRIPTORS = 4
_BACKLOG = 8

_ACCEPT_PAUSE = 1.0  # seconds, where nobody could be let in


def socket_beside(path: str) -> str:
    """The name of this socket of a keeper that serves calls at `path`."""
    return f"{path}.memory"


class MemoryServer:
    """The keeper's end. `find` gives a job by its id; `describe` says what is known of it, in the daemon's words."""

    def __init__(self, path: str, find: Callable[[str], LiveJob | None], describe: Callable[[LiveJob], bytes]) -> None:
        """Raises OSError."""
        self._find = find
        self._describe = describe
        self._lock = threading.Lock()
        self._peers: set[socket.socket] = set()
        self._closed = False
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            os.fchmod(self._listener.fileno(), 0o600)  # of the file that bind() makes
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            self._listener.bind(path)
            self._listener.listen(_BACKLOG)
        except BaseException:
            self._listener.close()
            raise
        threading.Thread(target=self._accept, name="vsrpc-memory", daemon=True).start()

    def forgotten(self, job: LiveJob) -> None:
        """A job's memory is needed no more."""
        news = bytes((FORGOTTEN,)) + job.id.encode()
        with self._lock:
            for peer in self._peers:
                try:
                    peer.send(news, socket.MSG_DONTWAIT)
                except OSError:  # it has gone; or reads nothing, and would keep the memory
                    with contextlib.suppress(OSError):
                        peer.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Take no more, and leave who is there."""
        with self._lock:
            self._closed = True
            peers = [self._listener, *self._peers]
        for peer in peers:
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with self._listener:
            while True:
                try:
                    peer, _ = self._listener.accept()
                except OSError as failure:
                    if self._closed:
                        return
                    _log.warning("nobody can be let in: %s", failure)  # too many files, say
                    time.sleep(_ACCEPT_PAUSE)
                    continue
                with self._lock:
                    if self._closed:
                        peer.close()
                        return
                    self._peers.add(peer)
                try:
                    threading.Thread(target=self._serve, args=(peer,), name="vsrpc-memory", daemon=True).start()
                except RuntimeError:  # no further thread
                    with self._lock:
                        self._peers.discard(peer)
                    peer.close()

    def _serve(self, peer: socket.socket) -> None:
        with peer:
            try:
                while True:
                    job_id = peer.recv(ID_SIZE)
                    if not job_id:
                        return
                    self._answer(peer, job_id)
            except OSError:
                pass
            finally:
                with self._lock:
                    self._peers.discard(peer)

    def _answer(self, peer: socket.socket, job_id: bytes) -> None:
        job = self._find(job_id.decode("ascii", "replace"))
        info = b"" if job is None else self._describe(job)
        shared: list[int] | None = None
        if job is not None and len(info) <= MAX_INFO:
            with contextlib.suppress(OSError, ValueError):  # too many files; it is just ending
                shared = job.share()
        if shared is None:
            peer.send(bytes((NONE,)) + job_id)
            return
        try:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", shared))]
            peer.sendmsg([bytes((FOUND,)), job_id, info], rights)
        finally:
            for fd in shared:
                os.close(fd)
