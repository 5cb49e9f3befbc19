"""The daemon's end of the memory of jobs that a keeper runs (guest.jobs.sharing)."""

from __future__ import annotations

import array
import contextlib
import functools
import logging
import os
import select
import socket
import threading
import time
from collections import OrderedDict
from typing import Callable, Iterator

from guest.jobs.access import JobAccess
from guest.jobs.memory import NAP, Memory, OutputRing
from guest.jobs.sharing import DESCRIPTORS, FOUND, ID_SIZE, MAX_INFO
from guest.jobs.wake import Wake
from vsrpc.context import Listen
from vsrpc.deadline import Deadline

_log = logging.getLogger(__name__)

_ANSWER_TIME = 5.0  # seconds until a keeper that says nothing is taken for one that cannot do this
_RETRY = 1.0  # seconds until a keeper that was not there is looked for again

_REMEMBERED = 256  # jobs that do not run, and need not be asked for again
_ENDED = 16  # jobs that have ended and are still seen when another one comes


class JobView(JobAccess):
    """A job of the keeper, seen by the daemon. `close` when it is not looked at any more."""

    stdout: OutputRing
    stderr: OutputRing

    def __init__(self, job_id: str, memory: Memory, wake: Wake, changes: Wake, info: bytes) -> None:
        """`wake` wakes the job; `changes` is set upon changes, and somebody calls `tell` then. Both are this object's
        from now on."""
        super().__init__(job_id, memory, threading.Condition(), wake.set)
        self.stdout, self.stderr = memory.stdout, memory.stderr
        self.info = info
        """What the keeper said of it."""
        self.changes = changes
        self._wakes = wake
        self._news = 0  # how often something has changed
        self._listeners: set[Callable[[], None]] = set()
        self._closed = False

    @property
    def over(self) -> bool:
        """Whether it has ended, or is not to be seen any more: the keeper knows."""
        return self._closed or self._memory.over

    @property
    def closed(self) -> bool:
        """Whether it is not to be seen any more."""
        return self._closed

    @property
    def ending(self) -> bytes:
        """What the keeper says of it since its end; empty before, and where the keeper must be asked."""
        return self._memory.ending

    @property
    def pid(self) -> int:
        """The first process of what runs, or ran last."""
        return self._memory.pid

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """Where each output starts and ends, and the input's offset."""
        return self._memory.sizes

    def watch_output(self) -> Listen:
        """Before a look at its output: what hears of changes since then, once, whether of that or of others."""
        self._memory.watch_output()
        return functools.partial(self._listen, self._news)

    def tell(self) -> None:
        """Something has changed: lets all who wait look at it."""
        with self.changed:
            self._news += 1
            listeners, self._listeners = self._listeners, set()
            self.changed.notify_all()
        for listener in listeners:
            try:
                listener()
            except Exception:  # the others, and who tells, have no part in it
                _log.exception("a call that waited for job %s failed", self.id)

    def close(self) -> None:
        """Look at it no more; `tell` is to be called then. Nothing to do the second time."""
        with self.changed:
            if self._closed:
                return
            self._closed = True
            self._memory.close()
            self._wakes.close()
            self.changes.close()

    def _listen(self, seen: int, listener: Callable[[], None]) -> Callable[[], None] | None:
        with self.changed:
            if self._news != seen:
                return None
            self._listeners.add(listener)
        return functools.partial(self._ignore, listener)

    def _ignore(self, listener: Callable[[], None]) -> None:
        with self.changed:
            self._listeners.discard(listener)

    def _pause(self, deadline: Deadline) -> None:
        super()._pause(deadline.sooner(NAP))


class MemoryClient:
    """The daemon's end. Thread-safe."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._changed = threading.Condition()  # and guards all below
        self._peer: socket.socket | None = None
        self._poll: select.epoll | None = None  # of the peer, and of what its views are told by
        self._views: dict[str, JobView] = {}
        self._told: dict[int, JobView] = {}  # the same, by that descriptor
        self._gone: list[JobView] = []  # of which nobody was told yet
        self._asked: set[str] = set()
        self._none: OrderedDict[str, None] = OrderedDict()
        self._not_before = 0.0
        self._closed = False

    def view(self, job_id: str, *, ask: bool = True) -> JobView | None:
        """The job of that id, until it is forgotten; None where it cannot be seen. `ask`: the keeper, if need be."""
        view = self._views.get(job_id)  # without the lock: it is called for each key
        if view is not None and not view.over:
            return view
        with self._locked():
            view = self._views.get(job_id)
            if view is None and ask and self._may_ask(job_id) and self._ask(job_id):
                if not self._changed.wait_for(lambda: job_id not in self._asked, _ANSWER_TIME):
                    self._asked.discard(job_id)
                    self._drop(job_id)
                view = self._views.get(job_id)
            if view is not None and view.over and not view.ending:
                self._drop(job_id)
                return None
            return view

    def expect(self, job_id: str) -> None:
        """The job was just started, and will be looked at."""
        with self._locked():
            if job_id not in self._views and self._may_ask(job_id):
                self._ask(job_id)

    def forget(self, job_id: str) -> None:
        """The keeper has forgotten it, and will say so."""
        with self._locked():
            if job_id in self._views:
                self._drop(job_id)

    def close(self) -> None:
        """Leave the keeper."""
        with self._locked():
            self._closed = True
            self._leave()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """With the lock held; after that all who wait for what has gone are told."""
        with self._changed:
            yield
            gone, self._gone = self._gone, []
        for view in gone:
            view.tell()

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
            with contextlib.ExitStack() as opened:
                peer = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                peer.settimeout(_RETRY)
                peer.connect(self._path)
                peer.settimeout(None)
                poll = opened.enter_context(select.epoll())
                poll.register(peer, select.EPOLLIN)
                threading.Thread(target=self._watch, args=(peer, poll), name="vsrpc-memory", daemon=True).start()
                opened.pop_all()
        except (OSError, RuntimeError) as failure:  # RuntimeError: no further thread
            self._not_before = time.monotonic() + _RETRY
            _log.debug("%s: %s", self._path, failure)
            return False
        self._peer, self._poll = peer, poll
        return True

    def _leave(self) -> None:
        """The keeper has gone, or is left. With the lock held."""
        if self._peer is not None:
            with contextlib.suppress(OSError):
                self._peer.shutdown(socket.SHUT_RDWR)
            self._peer = None
        for job_id in list(self._views):
            self._let_go(job_id)
        self._asked.clear()
        self._changed.notify_all()

    def _watch(self, peer: socket.socket, poll: select.epoll) -> None:
        with peer, poll:
            try:
                while self._on_event(peer, poll):
                    pass
            except OSError:
                pass
            finally:
                with self._locked():
                    if self._peer is peer:
                        self._leave()

    def _on_event(self, peer: socket.socket, poll: select.epoll) -> bool:
        for fd, _ in poll.poll():
            if fd != peer.fileno():
                self._tell(fd)
            elif not self._on_message(peer):
                return False
        return True

    def _tell(self, fd: int) -> None:
        with self._changed:
            view = self._told.get(fd)
            if view is not None:
                view.changes.clear()
        if view is not None:
            view.tell()

    def _on_message(self, peer: socket.socket) -> bool:
        room = socket.CMSG_SPACE(DESCRIPTORS * array.array("i").itemsize)
        message, rights, _, _ = peer.recvmsg(1 + ID_SIZE + MAX_INFO, room, socket.MSG_CMSG_CLOEXEC)
        if not message:
            return False
        kind, job_id, info = message[0], message[1 : 1 + ID_SIZE].decode(), message[1 + ID_SIZE :]
        fds = array.array("i")
        for _, _, data in rights:
            fds.frombytes(data)
        with self._locked():
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
        ended = [each for each, view in self._views.items() if view.over]
        useless = [each for each in ended if not self._views[each].ending]
        for each in {*ended[:-_ENDED], *useless}:
            self._drop(each)
        try:
            memory, wake, reader, writer = fds
            view = JobView(job_id, Memory(memory), Wake((-1, wake)), Wake((reader, writer)), info)
        except (OSError, ValueError) as failure:  # too many files; a keeper of another version
            _log.info("the memory of job %s cannot be used: %s", job_id, failure)
            for fd in fds:
                os.close(fd)
            self._drop(job_id)
            return
        self._let_go(job_id)  # one that was asked for twice
        assert self._poll is not None, "a message came"
        self._views[job_id] = self._told[reader] = view
        self._poll.register(reader, select.EPOLLIN)

    def _drop(self, job_id: str) -> None:
        """It is not to be seen, and need not be asked for again."""
        self._let_go(job_id)
        self._none[job_id] = None
        if len(self._none) > _REMEMBERED:
            self._none.popitem(last=False)

    def _let_go(self, job_id: str) -> None:
        view = self._views.pop(job_id, None)
        if view is None:
            return
        del self._told[view.changes.fileno()]
        with contextlib.suppress(OSError, ValueError):  # the thread has gone, and its poll with it
            assert self._poll is not None, "it has a view"
            self._poll.unregister(view.changes)  # before it is closed: the keeper has it open as well
        view.close()
        self._gone.append(view)
