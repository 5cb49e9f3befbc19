"""Byte streams between the two ends: what they offer (base), and the ones there are.

A transport knows bytes and peers, nothing of HTTP.
"""

from __future__ import annotations

from typing import Callable, Optional

from vsrpc.transports.base import (
    Buffer,
    ConnectFailed,
    Listener,
    Transport,
    TransportClosed,
    TransportError,
    TransportTimeout,
    send_all,
)

__all__ = [
    "Buffer",
    "ConnectFailed",
    "Connector",
    "Listener",
    "Transport",
    "TransportClosed",
    "TransportError",
    "TransportTimeout",
    "connector",
    "listener",
    "send_all",
    "socket_path",
]

Connector = Callable[[Optional[float]], Transport]
"""Makes a new connection within so many seconds, or raises ConnectFailed."""


def connector(target: str) -> tuple[str, Connector]:
    """What `target` names: its full form, for messages, and how to connect to it.

    Targets are "unix:PATH" or a bare PATH (a VM's socket for the port), and "vsock:CID:PORT". Raises ValueError.
    """
    from vsrpc.transports import sockets

    kind, _, rest = target.partition(":")
    if kind == "vsock" and target != kind:
        cid_text, _, port_text = rest.partition(":")
        cid, port = _vsock_number(cid_text), _vsock_number(port_text)
        if cid is None or port is None:
            raise ValueError(f"target {target!r}: write vsock:CID:PORT with two numbers, for example vsock:3:7000")
        return target, lambda timeout: sockets.connect_vsock(cid, port, timeout)
    path = socket_path(target)
    if path is None:
        raise ValueError(f"target {target!r}: no such kind of target; write unix:PATH or vsock:CID:PORT")
    if not path:
        raise ValueError(f"target {target!r}: a path is missing; write unix:PATH or vsock:CID:PORT")
    return f"unix:{path}", lambda timeout: sockets.connect_unix(path, timeout)


def socket_path(target: str) -> str | None:
    """The UNIX socket that a target names, which may be a port's; None for any other target."""
    kind, separator, rest = target.partition(":")
    if kind == "unix" and separator:
        return rest
    return None if separator and "/" not in kind else target


def _vsock_number(text: str) -> int | None:
    """A context id or port: 32 bits (linux/vm_sockets.h)."""
    number = int(text) if text.isdecimal() and len(text) <= 10 else 2**32
    return number if number < 2**32 else None


def listener(address: str, buffer_size: int = 262144, allow_rebind: bool = False) -> Listener:
    """A listener for "unix:PATH", "vsock:PORT", or the path of a virtio-serial port. Raises ValueError, OSError.

    Of a virtio-serial port: `buffer_size`, bytes asked for in one read; `allow_rebind`, whether its driver may be bound
    anew when that is the only way to keep it working.
    """
    kind, separator, rest = address.partition(":")
    if kind == "unix" and separator:
        from vsrpc.transports.sockets import listen_unix

        return listen_unix(rest)
    if kind == "vsock" and separator:
        from vsrpc.transports.sockets import listen_vsock

        port = _vsock_number(rest)
        if port is None:
            raise ValueError(f"address {address!r}: write vsock:PORT with a number, for example vsock:7000")
        return listen_vsock(port)
    from vsrpc.transports.serial import SerialListener
    from vsrpc.transports.serial_port import rebind_driver

    return SerialListener(address, buffer_size, rebind=rebind_driver if allow_rebind else None)
