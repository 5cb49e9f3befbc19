"""Waiting for a guest: until its socket is there, somebody listens, the guest has booted and its daemon answers."""

from __future__ import annotations

import time
from typing import Any

from host import unix_socket
from host.client import VirtioRPCClient
from host.errors import RPCError, failure
from vsrpc.deadline import Deadline
from vsrpc.port_lock import LockUnusable, PortLock
from vsrpc.transports import socket_path

# How often a socket is looked for that is not there, or on which nobody listens, in seconds. While somebody listens
# there is nothing to look for: the link waits for the answer.
_POLL = 0.5

_PASSING = ("CONNECTION_REFUSED", "CONNECTION_LOST", "SERVICE_UNAVAILABLE", "READ_TIMEOUT", "WRITE_TIMEOUT")
_LASTING = (unix_socket.Fault.WRONG_KIND, unix_socket.Fault.FORBIDDEN)


def wait(client: VirtioRPCClient, seconds: float) -> dict[str, Any]:
    """Wait until the guest answers a ping: its reply.

    Raises RPCError: READ_TIMEOUT after so many seconds, with what was last wrong; and at once what waiting cannot mend.
    The client's time for connecting must be as long.
    """
    deadline = Deadline(seconds)
    while True:
        try:
            client.connect(deadline.remaining())
            return client.ping(deadline.remaining())
        except RPCError as error:
            if error.reason not in _PASSING or _lasts(client):
                raise
            remaining = deadline.remaining() or 0.0
            if remaining <= _POLL:
                message = f"the guest has not answered within {seconds:g} s; last: {error.message}"
                raise failure("READ_TIMEOUT", message) from error
        time.sleep(_POLL)


def _lasts(client: VirtioRPCClient) -> bool:
    """Whether what is wrong will not pass by itself."""
    path = socket_path(client.channel.name)
    if path is None:
        return False
    try:
        PortLock(path, client.channel.options.lock_dir).holder()
    except LockUnusable:
        return True
    return unix_socket.look(path)[0] in _LASTING
