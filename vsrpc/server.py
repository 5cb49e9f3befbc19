"""The server: lets peers in, and runs their requests on a pool of workers.

Each peer has a session (server_session.py), which reads its requests and sends the responses.
"""

from __future__ import annotations

import logging
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor

from vsrpc.dispatcher import Dispatcher
from vsrpc.hello import Peer
from vsrpc.incoming import IncomingCall
from vsrpc.server_session import ServerSession
from vsrpc.transports import Listener, TransportClosed

_log = logging.getLogger(__name__)


class Server:
    """Serves a dispatcher's services to the peers of listeners."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        agent: str = "vsrpc",
        workers: int = 32,
        queue: int = 128,
        stall_timeout: float = 15.0,
        write_timeout: float = 30.0,
    ) -> None:
        """`workers` requests run at a time and `queue` more wait; what comes on top is refused at once.

        `stall_timeout`: seconds without a byte in the middle of a request after which its sender is given up.
        """
        self.dispatcher = dispatcher
        self.stall_timeout = stall_timeout
        self.write_timeout = write_timeout
        self.me = Peer(secrets.token_hex(16), agent, dispatcher.max_request_size)
        self._slots = threading.BoundedSemaphore(workers + queue)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="vsrpc-worker")
        self._lock = threading.Lock()
        self._sessions: set[ServerSession] = set()
        self._listeners: set[Listener] = set()
        self._stopping = False

    def serve(self, listener: Listener) -> None:
        """Serve the listener's peers until stop(). Raises OSError when listening fails."""
        with self._lock:
            if self._stopping:
                return
            self._listeners.add(listener)
        try:
            while True:
                session = ServerSession(self, listener.accept())
                with self._lock:
                    if self._stopping:
                        session.end()
                        return
                    self._sessions.add(session)
                    session.thread.start()
        except TransportClosed:
            return
        finally:
            with self._lock:
                self._listeners.discard(listener)

    def stop(self) -> None:
        """Answer UNAVAILABLE to what is not done yet and cancel it, end all sessions, and make serve() return.

        Waits for the running handlers. Not to be called from one.
        """
        with self._lock:
            self._stopping = True
            listeners, sessions = list(self._listeners), list(self._sessions)
        for listener in listeners:
            listener.close()
        for session in sessions:
            session.stop()
        self._pool.shutdown()
        for session in sessions:
            session.thread.join()

    def submit(self, session: ServerSession, call: IncomingCall) -> bool:
        """Run a call on a worker; False when too much waits already."""
        if not self._slots.acquire(blocking=False):
            return False
        try:
            self._pool.submit(self._work, session, call)
        except RuntimeError:  # the pool is shut down
            self._slots.release()
            return False
        return True

    def _work(self, session: ServerSession, call: IncomingCall) -> None:
        try:
            if session.waits_for(call) and not self._stopping:
                session.finish(call, call.run())
        except Exception:
            _log.exception("%s [%s]: no response could be made", call.path, call.request_id)
            session.finish(call, call.respond(500, [], b""))  # a caller on a port learns nothing from silence
        finally:
            self._slots.release()

    def forget(self, session: ServerSession) -> None:
        """A session has ended."""
        with self._lock:
            self._sessions.discard(session)
