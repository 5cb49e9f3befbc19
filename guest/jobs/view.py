"""The daemon's end of the memory of jobs that a keeper runs (guest.jobs.sharing)."""

from __future__ import annotations

import array
import contextlib
import logging
import os
import socket
import threading
import time
from collections import OrderedDict

from guest.jobs.access import JobAccess
from guest.jobs.memory import NAP, Memory, OutputRing
from guest.jobs.sharing import DESCRIPTORS, FOUND, ID_SIZE, MAX_INFO
from guest.jobs.wake import Wake
from vsrpc.deadline import Deadline

_log = logging.getLogger(__name__)

_ANSWER_TIME = 5.0  # seconds until a keeper that says nothing is taken for one that cannot do this
_RETRY = 1.0  # seconds until a keeper that was not there is looked for again

_REMEMBERED = 256  # jobs that do not run, and need not be asked for again


class JobView(JobAccess):
    """A job of the keeper, seen by the daemon. `close` when it is not looked at any more.

    One of those who wait for a change waits for the pipe that tells of it, and then tells the others.
    """

    stdout: OutputRing
    stderr: OutputRing

    def __init__(self, job_id: str, memory: Memory, wake: Wake, changes: Wake, info: bytes) -> None:
        """`wake` wakes the job, `changes` whoever waits here; both are then this object's."""
        super().__init__(job_id, memory, threading.Condition(), wake.set)
        self.stdout, self.stderr = memory.stdout, memory.stderr
        self.info = info
        """What the keeper said of it."""
        self._wakes = wake, changes
        self._changes = changes
        self._listens = False
        self._closed = False

    @property
    def over(self) -> bool:
        """Whether it has ended, or is not to be seen any more: the keeper knows."""
        return self._closed or self._memory.over

    @property
    def pid(self) -> int:
        """The first process of what runs, or ran last."""
        return self._memory.pid

    def poke(self) -> None:
        """Let whoever waits look again at what it waits for."""
        self._changes.set()

    def close(self) -> None:
        """Look at it no more; whoever waits is told. Nothing to do the second time."""
        with self.changed:
            if self._closed:
                return
            self._closed = True
            self._memory.close()
            if self._listens:
                self._changes.set()
            else:
                self._close_wakes()
            self.changed.notify_all()

    def _told(self) -> None:
        super()._told()
        if self._listens:
            self._changes.set()

    def _pause(self, deadline: Deadline) -> None:
        deadline = deadline.sooner(NAP)
        if self._listens or self._closed:
            self.changed.wait(deadline.remaining())
            return
        self._listens = True
        self.changed.release()
        try:
            self._changes.wait(deadline)
        finally:
            self.changed.acquire()
            self._listens = False
            if self._closed:
                self._close_wakes()
            self.changed.notify_all()

    def _watch(self) -> None:
        self._memory.watched = True

    def _close_wakes(self) -> None:
        for wake in self._wakes:
            wake.close()


class MemoryClient:
    """The daemon's end. Thread-safe."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._changed = threading.Condition()  # and guards all below
        self._peer: socket.socket | None = None
        self._views: dict[str, JobView] = {}
        self._asked: set[str] = set()
        self._none: OrderedDict[str, None] = OrderedDict()
        self._not_before = 0.0
        self._closed = False

    def view(self, job_id: str, *, ask: bool = True) -> JobView | None:
        """The job of that id; None where it does not run or cannot be seen. `ask`: the keeper, if need be."""
        with self._changed:
            view = self._views.get(job_id)
            if view is None and ask and self._may_ask(job_id) and self._ask(job_id):
                if not self._changed.wait_for(lambda: job_id not in self._asked, _ANSWER_TIME):
                    self._asked.discard(job_id)
                    self._drop(job_id)
                view = self._views.get(job_id)
            if view is not None and view.over:
                self._drop(job_id)
                return None
            return view

    def close(self) -> None:
        """Leave the keeper."""
        with self._changed:
            self._closed = True
            self._leave()

    def _may_ask(self, job_id: str) -> bool:
        return job_id not in self._none and len(job_id) == ID_SIZE and job_id.isascii()

    def _ask(self, job_id: str) -> bool:
        if self._peer is None and not self._connect():
            return False
        assert self._peer is not None
        if job_id not in self._asked:
            try:
                self._peer.send(job_id.encode("ascii", "replace"), socket.MSG_DONTWAIT)
            except OSError:
                self._leave()
                return False
            self._asked.add(job_id)
        return True

    def _connect(self) -> bool:
        if self._closed or time.monotonic() < self._not_before:
            return False
        try:
            peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                peer.settimeout(_RETRY)
                peer.connect(self._path)
                peer.settimeout(None)
                threading.Thread(target=self._receive, args=(peer,), name="vsrpc-memory", daemon=True).start()
            except BaseException:
                peer.close()
                raise
        except (OSError, RuntimeError) as failure:  # RuntimeError: no further thread
            self._not_before = time.monotonic() + _RETRY
            _log.debug("%s: %s", self._path, failure)
            return False
        self._peer = peer
        return True

    def _leave(self) -> None:
        """The keeper has gone, or is left. With the lock held."""
        if self._peer is not None:
            with contextlib.suppress(OSError):
                self._peer.shutdown(socket.SHUT_RDWR)
            self._peer = None
        for view in self._views.values():
            view.close()
        self._views.clear()
        self._asked.clear()
        self._changed.notify_all()

    def _receive(self, peer: socket.socket) -> None:
        with peer:
            try:
                while self._on_message(peer):
                    pass
            except OSError:
                pass
            with self._changed:
                if self._peer is peer:
                    self._leave()

    def _on_message(self, peer: socket.socket) -> bool:
        room = socket.CMSG_SPACE(DESCRIPTORS * array.array("i").itemsize)
        message, rights, _, _ = peer.recvmsg(1 + ID_SIZE + MAX_INFO, room, socket.MSG_CMSG_CLOEXEC)
        if not message:
            return False
        kind, job_id, info = message[0], message[1 : 1 + ID_SIZE].decode(), message[1 + ID_SIZE :]
        fds = array.array("i")
        for _, _, data in rights:
            fds.frombytes(data)
        with self._changed:
            if self._peer is peer:
                self._asked.discard(job_id)
                if kind == FOUND and job_id not in self._none:
                    self._add(job_id, fds, info)
                    fds = array.array("i")
                else:
                    self._drop(job_id)
                self._changed.notify_all()
        for fd in fds:
            os.close(fd)
        return True

    def _add(self, job_id: str, fds: array.array[int], info: bytes) -> None:
        for ended in [each for each, view in self._views.items() if view.over]:
            self._drop(ended)  # of which the news was lost
        try:
            memory, wake, reader, writer = fds
            self._views[job_id] = JobView(job_id, Memory(memory), Wake((-1, wake)), Wake((reader, writer)), info)
        except (OSError, ValueError) as failure:  # too many files; a keeper of another version
            _log.info("the memory of job %s cannot be used: %s", job_id, failure)
            for fd in fds:
                os.close(fd)
            self._drop(job_id)

    def _drop(self, job_id: str) -> None:
        """It is not to be seen, and need not be asked for again."""
        view = self._views.pop(job_id, None)
        if view is not None:
            view.close()
        self._none[job_id] = None
        if len(self._none) > _REMEMBERED:
            self._none.popitem(last=False)
