"""Schema-first RPC between a KVM host and its Linux guests over a virtio-serial port.

    import vsrpc
    from vsrpc.v1.system_vsrpc import SystemStub

    with vsrpc.connect("unix:/path/to/port.sock") as channel:
        info = SystemStub(channel).Info(timeout=5)

What is named here is the public interface of the runtime; a server needs vsrpc.dispatcher and vsrpc.server as well.
"""

from __future__ import annotations

from vsrpc._version import __version__
from vsrpc.auth import Key
from vsrpc.channel import Channel, ChannelOptions, connect
from vsrpc.errors import ErrorDetail, RpcError
from vsrpc.status import Code

__all__ = ["Channel", "ChannelOptions", "Code", "ErrorDetail", "Key", "RpcError", "__version__", "connect"]
