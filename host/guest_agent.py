"""A client of the QEMU guest agent (qemu-ga): a way into a guest where no vsrpc runs yet.

Protocol: docs/interop/qemu-ga.rst and qga/qapi-schema.json of QEMU. Two ways lead to the agent: its socket, where QEMU
was started with one, and libvirt, which keeps that socket for itself and passes requests on.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import socket
import time
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Protocol, Sequence

from host.errors import RPCError, failure
from host.virsh import Virsh
from vsrpc.deadline import Deadline

NEEDED = ("guest-exec", "guest-exec-status", "guest-file-open", "guest-file-write", "guest-file-close")
"""What an installation needs, and some distributions disable."""

_POLL_FIRST, _POLL_MOST = 0.05, 0.5  # seconds; a poll costs an emulated guest some ms
_SYNC_AGAIN = 2.0  # seconds until the sync is sent once more: a guest that boots loses what was queued
_REPLY_SECONDS = 60.0

_SOCKET_PIECE = 192 * 1024
# virsh takes the request as an argument, of which Linux allows 128 KiB (MAX_ARG_STRLEN), in base64.
_VIRSH_PIECE = 72 * 1024


class AgentError(RPCError):
    """The agent has answered by an error; `message` is its own."""


class Transport(Protocol):
    """One way to an agent."""

    piece: int
    """Bytes of a file to write at a time."""

    def request(self, name: str, arguments: Mapping[str, Any], seconds: float = _REPLY_SECONDS) -> Any:
        """Make a request: what it returns. Raises AgentError, and RPCError where nobody answers."""

    def close(self) -> None:
        """Leave the agent to others."""


class AgentSocket:
    """The agent's port as a UNIX socket. Raises RPCError where no agent answers in so many seconds."""

    piece = _SOCKET_PIECE
    _numbers = itertools.count(1)

    def __init__(self, path: str, seconds: float) -> None:
        self._path = path
        self._buffer = b""
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._connect(seconds)
            self._sync(Deadline(seconds), seconds)
        except BaseException:
            self._socket.close()
            raise

    def request(self, name: str, arguments: Mapping[str, Any], seconds: float = _REPLY_SECONDS) -> Any:
        """See Transport."""
        self._socket.settimeout(seconds)
        try:
            self._send(b"", name, arguments)
            line = self._line()
        except socket.timeout:
            raise failure("READ_TIMEOUT", f"the guest agent has not answered {name} in {seconds:g} s") from None
        return _result(name, line)

    def close(self) -> None:
        """See Transport."""
        self._socket.close()

    def _connect(self, seconds: float) -> None:
        self._socket.settimeout(seconds)
        try:
            self._socket.connect(self._path)
        except socket.timeout:
            raise self._silent(seconds) from None
        except OSError as error:
            hint = "is the VM running? (libvirt keeps its agents' sockets for itself: use --domain DOMAIN)"
            message = f"cannot reach the guest agent's socket {self._path}: {error.strerror or error}; {hint}"
            raise failure("CONNECTION_REFUSED", message) from None

    def _sync(self, deadline: Deadline, seconds: float) -> None:
        """Reach a state where the next line answers the next request, whatever was under way before."""
        while True:
            number = int(time.time()) << 20 | os.getpid() % 1024 << 10 | next(self._numbers) % 1024
            self._socket.settimeout(max(0.01, min(_SYNC_AGAIN, deadline.remaining() or 0.0)))
            try:
                # 0xFF is no JSON: it makes the agent drop a request that an earlier client has left half sent.
                self._send(b"\xff", "guest-sync-delimited", {"id": number})
                while not self._line().endswith(b'\xff{"return": %d}' % number):
                    pass  # meant for somebody else
                return
            except socket.timeout:
                if deadline.expired:
                    raise self._silent(seconds) from None

    def _silent(self, seconds: float) -> RPCError:
        message = f"no guest agent answers at {self._path} within {seconds:g} s"
        causes = "the guest has not booted, qemu-guest-agent does not run there, or another program has the socket"
        return failure("READ_TIMEOUT", f"{message}: {causes} (libvirt: use --domain DOMAIN)")

    def _send(self, prefix: bytes, name: str, arguments: Mapping[str, Any]) -> None:
        try:
            self._socket.sendall(prefix + _request(name, arguments).encode() + b"\n")
        except (BrokenPipeError, ConnectionResetError):
            raise self._gone() from None

    def _line(self) -> bytes:
        while b"\n" not in self._buffer:
            try:
                data = self._socket.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            if not data:
                raise self._gone()
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _gone(self) -> RPCError:
        return failure("CONNECTION_LOST", f"the guest agent's socket {self._path} was closed: has the VM ended?")


class AgentOfDomain:
    """The agent of a libvirt domain, by `virsh qemu-agent-command`. Raises RPCError where none answers."""

    piece = _VIRSH_PIECE

    def __init__(self, virsh: Virsh, domain: str, seconds: float) -> None:
        self._virsh = virsh
        self._domain = domain
        self.request("guest-ping", {}, seconds)

    def request(self, name: str, arguments: Mapping[str, Any], seconds: float = _REPLY_SECONDS) -> Any:
        """See Transport."""
        words = ("--timeout", str(max(1, round(seconds))), _request(name, arguments))
        try:
            reply = self._virsh.run("qemu-agent-command", self._domain, *words, seconds=seconds + 10)
        except RPCError as error:
            if "unable to execute QEMU agent command" in error.message:
                raise AgentError(error.code, error.message.rpartition("agent command ")[2]) from None
            if "agent is not" in error.message:
                hint = "does qemu-guest-agent run in the guest, and has the domain its channel org.qemu.guest_agent.0?"
                raise failure("CONNECTION_REFUSED", f"{error.message}; {hint}") from None
            raise
        return _result(name, reply.encode())

    def close(self) -> None:
        """See Transport."""


@dataclass(frozen=True)
class Completed:
    """A command of the guest that has ended; one that signal N killed has the code 128 + N."""

    code: int
    output: str
    errors: str


class GuestAgent:
    """Files and commands of a guest, as root, through its agent, to which `connect` leads."""

    def __init__(self, connect: Callable[[], Transport]) -> None:
        self._connect = connect
        self._transport = connect()
        self._open: int | None = None
        """The handle of a file that is being written."""

    def disabled(self, names: Sequence[str] = NEEDED) -> list[str]:
        """Which of these requests the agent does not have, or refuses by its configuration."""
        info = self._transport.request("guest-info", {})
        enabled = {each.get("name") for each in info.get("supported_commands", ()) if each.get("enabled")}
        return [name for name in names if name not in enabled]

    def run(self, argv: Sequence[str], input: str = "", seconds: float = _REPLY_SECONDS) -> Completed:
        """Run a command to its end; where that takes longer it goes on in the guest, and READ_TIMEOUT is raised."""
        arguments: dict[str, Any] = {"path": argv[0], "arg": list(argv[1:]), "capture-output": True}
        if input:
            arguments["input-data"] = base64.b64encode(input.encode()).decode()
        deadline, pause = Deadline(seconds), _POLL_FIRST
        pid = self._transport.request("guest-exec", arguments)["pid"]
        while True:
            status = self._transport.request("guest-exec-status", {"pid": pid})
            if status["exited"]:
                break
            if deadline.expired:
                raise failure("READ_TIMEOUT", f"{argv[0]} has not ended in the guest within {seconds:g} s; it goes on")
            time.sleep(pause)
            pause = min(pause * 1.5, _POLL_MOST)
        code = status["exitcode"] if "exitcode" in status else 128 + status.get("signal", 0)
        return Completed(code, _text(status.get("out-data")), _text(status.get("err-data")))

    def write(self, path: str, content: bytes, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Write a file, replacing what is there. Where it fails, recover() must come next."""
        request, piece = self._transport.request, self._transport.piece
        self._open = request("guest-file-open", {"path": path, "mode": "w"})
        for start in range(0, len(content), piece):
            part = memoryview(content)[start : start + piece]
            while len(part):
                encoded = base64.b64encode(part).decode()
                written = request("guest-file-write", {"handle": self._open, "buf-b64": encoded})["count"]
                if written < 1:
                    raise failure("NO_SPACE", f"the guest agent wrote nothing more to {path}: is its disk full?")
                part = part[written:]
            progress(min(start + piece, len(content)), len(content))
        self._close_file()

    def recover(self) -> None:
        """After a failure in the middle of a request: speak with the agent anew, and let go of a half-written file."""
        self._transport.close()
        self._transport = self._connect()
        self._close_file()

    def close(self) -> None:
        """Leave the agent to others."""
        self._transport.close()

    def _close_file(self) -> None:
        handle, self._open = self._open, None
        if handle is not None:
            self._transport.request("guest-file-close", {"handle": handle})


def _request(name: str, arguments: Mapping[str, Any]) -> str:
    return json.dumps({"execute": name, "arguments": dict(arguments)} if arguments else {"execute": name})


def _result(name: str, line: bytes) -> Any:
    try:
        reply = json.loads(line.rpartition(b"\xff")[2])
        if "error" not in reply:
            return reply["return"]
        said = str(reply["error"].get("desc", reply["error"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        message = f"what answers {name} is no QEMU guest agent: {line[:80]!r}; is this the agent's socket?"
        raise failure("PROTOCOL_ERROR", message) from None
    code = failure("CMD_EXEC_FAILED", said).code
    raise AgentError(code, f"the guest agent refuses {name}: {said}")


def _text(encoded: str | None) -> str:
    return base64.b64decode(encoded).decode("utf-8", "replace") if encoded else ""
