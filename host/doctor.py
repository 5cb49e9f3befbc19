"""What is wrong with the way to a guest, found by walking it: socket, turn, who else is there, hello, ping, policy.

Each step is a Finding; the first that fails ends the walk, since nothing further can be told then. Nothing here prints:
findings are handed on as they are made, and the Report sums them up. No step changes anything in the guest.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Callable, NoReturn

from host import symptoms, unix_socket
from host.client import VirtioRPCClient
from host.config import KEY_SOURCES
from host.errors import RPCError, from_rpc_error
from vsrpc._version import __version__
from vsrpc.client_session import Attempt, Beginning
from vsrpc.deadline import Deadline
from vsrpc.errors import RpcError
from vsrpc.hello import VERSION
from vsrpc.port_lock import LockUnusable, PortBusy, PortLock
from vsrpc.transports import socket_path
from vsrpc.transports.serial_port import DESCRIPTORS

OK, NOTE, FAULT = "ok", "note", "fault"

_PINGS = 5
# Lost descriptors from which on something should be done about them; a daemon that may does it then.
_ALARMING = DESCRIPTORS // 2

_HARMLESS = "true"
_HARMLESS_TIME = 10.0  # seconds


@dataclass(frozen=True)
class Finding:
    """One check: its name, how it ended (OK, NOTE or FAULT), and what was found."""

    check: str
    state: str
    found: str
    hints: tuple[str, ...] = ()
    """Where it is not known what is wrong: each possible cause, how to tell it, and the way out."""


@dataclass
class Report:
    """What the walk came to.

    `verdict` is a short name for programs, `summary` says it to people with what to do; `reason` is the error code (its
    short name) of what is wrong, "" where the guest can be called. `facts` are what was learned of the guest.
    """

    target: str
    verdict: str = "fine"
    summary: str = ""
    reason: str = ""
    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)


Tell = Callable[[Finding], None]


class _Ended(Exception):
    """The walk has ended early: what to say of that."""

    def __init__(self, verdict: str, summary: str, reason: str) -> None:
        self.verdict, self.summary, self.reason = verdict, summary, reason


def examine(client: VirtioRPCClient, tell: Tell = lambda finding: None) -> Report:
    """Walk the way to the client's guest. Raises UsageError for a target that is none.

    The client's time for connecting is how long each step waits.
    """
    report = Report(client.channel.name)
    try:
        _Walk(client, report, tell).all()
    except _Ended as end:
        report.verdict, report.summary, report.reason = end.verdict, end.summary, end.reason
    return report


class _Walk:
    def __init__(self, client: VirtioRPCClient, report: Report, tell: Tell) -> None:
        self._client = client
        self._channel = client.channel
        self._patience = self._channel.options.connect_timeout
        self._path = socket_path(self._channel.name)
        self._report = report
        self._tell = tell
        self._verdicts: list[tuple[str, str]] = []  # of what is no fault, and what to do

    def all(self) -> None:
        if self._path is not None:
            self._socket(self._path)
            self._turn(self._path)
            self._clients(self._path)
        self._guest()
        self._key()
        self._ping()
        self._output()
        self._policy()
        if self._verdicts:
            self._report.verdict = self._verdicts[0][0]
            self._report.summary = "the guest can be called; " + "; ".join(text for _, text in self._verdicts)
        else:
            self._report.summary = "the guest can be called"

    # -- the steps

    def _socket(self, path: str) -> None:
        fault, found = unix_socket.look(path)
        if fault is not None:
            self._fail("socket", found, fault.value, symptoms.SOCKET[fault], "CONNECTION_REFUSED")
        listeners = unix_socket.users(path).listeners
        self._add("socket", OK, f"{found}" + (f"; {listeners[0]} listens" if listeners else ""))

    def _turn(self, path: str) -> None:
        lock = PortLock(path, self._channel.options.lock_dir)
        begun = time.monotonic()
        try:
            holder = lock.holder()
            lock.acquire(Deadline(self._patience))
            lock.release()
        except LockUnusable as error:
            self._fail("turn", str(error), "lock_unusable", str(error), "CONNECTION_REFUSED")
        except PortBusy as error:
            summary = f"{error}; wait until it ends, or end it: others have their turn then"
            self._fail("turn", f"{error}, and was for all of {self._patience:g} s", "held", summary, "READ_TIMEOUT")
        waited = f"free after {time.monotonic() - begun:.1f} s; it was held by {holder}" if holder else ""
        self._add("turn", OK, waited or "free: no other vsrpc client has the port")

    def _clients(self, path: str) -> None:
        users = unix_socket.users(path)
        others = "; ".join([*users.clients, *(f"{each} (in the queue)" for each in users.queued)])
        if users.unknown:
            self._add("clients", NOTE, f"who else is connected cannot be found out here: {users.unknown}")
        else:
            self._add("clients", NOTE if others else OK, f"connected: {others}" if others else "nobody is connected")

    def _guest(self) -> None:
        try:
            self._channel.connect(2 * self._patience)
        except RpcError as error:
            self._no_session(from_rpc_error(error), self._channel.beginning.attempts)
        beginning = self._channel.beginning
        peer = beginning.peer
        assert peer is not None, "the channel has said hello"
        number = len(beginning.attempts)
        seconds = sum(each.seconds for each in beginning.attempts)
        self._report.facts.update(
            agent=peer.agent,
            instance=peer.instance,
            protocol_version=VERSION,
            client_version=__version__,
            max_request_size=peer.max_request_size,
            attempts=number,
            connect_ms=round(seconds * 1000, 1),
            port=bool(peer.window),
            lost_output=peer.lost_output,
        )
        healed = _healing(beginning)
        who = f"{peer.agent}, protocol version {VERSION}, instance {peer.instance}"
        which = "the first attempt" if number == 1 else f"attempt {number}"
        found = f"answered at {which} after {seconds * 1000:.0f} ms: {who}"
        self._add("guest", NOTE if healed else OK, found + (f"; {healed}" if healed else ""))
        if healed:
            text = f"the link was wedged and has healed by itself at {which} ({healed}): nothing to do"
            self._verdicts.append(("healed", text))

    def _no_session(self, error: RPCError, attempts: tuple[Attempt, ...]) -> None:
        if error.reason == "PROTOCOL_ERROR" and attempts:
            telling = next((each for each in reversed(attempts) if each.heard), attempts[-1])
            verdict, summary = symptoms.of_stranger(telling, error.message)
            self._fail("guest", error.message, verdict, summary, error.reason)
        if error.reason == "READ_TIMEOUT" and not attempts:
            self._fail("guest", error.message, "held", error.message, error.reason)
        users = unix_socket.Users() if self._path is None else unix_socket.users(self._path)
        if users.clients:
            who = ", ".join(users.clients)
            self._fail(
                "guest", f"nobody answers while {who} is connected", "held", symptoms.HELD.format(who), "READ_TIMEOUT"
            )
        if error.reason == "READ_TIMEOUT":
            self._silent(attempts, users)
        if error.reason == "CONNECTION_REFUSED" and attempts:
            self._fail("guest", error.message, "hangs_up", symptoms.HANGS_UP, error.reason)
        summary = error.message if self._path is None else symptoms.REFUSED
        self._fail("guest", error.message, "refused", summary, error.reason)

    def _silent(self, attempts: tuple[Attempt, ...], users: unix_socket.Users) -> None:
        seconds = sum(each.seconds for each in attempts)
        found = f"connected {len(attempts)} times in {seconds:.1f} s, and nobody answers"
        hints = symptoms.SILENT if self._path is not None else symptoms.SILENT_VSOCK
        if users.unknown:
            hints = (*hints, symptoms.UNKNOWN_CLIENTS)
        self._fail("guest", found, "silent", symptoms.SILENT_SUMMARY, "READ_TIMEOUT", hints)

    def _key(self) -> None:
        peer, key = self._channel.beginning.peer, self._channel.options.key
        wanted = self._report.facts["signatures"] = peer is not None and peer.challenge is not None
        if wanted and key is None:
            summary = f"{symptoms.NO_KEY}: {KEY_SOURCES}"
            self._fail("key", symptoms.NO_KEY, "no_key", summary, "UNAUTHENTICATED")
        if wanted and key is not None:
            try:
                self._client.ping(self._patience)
            except RPCError as error:
                if error.reason != "UNAUTHENTICATED":
                    return  # the next step's matter
                summary = f"{error.message}; {KEY_SOURCES}"
                self._fail("key", error.message, "key_refused", summary, error.reason)
            self._add("key", OK, f"the guest wants signatures, and takes those with key {key.name}")

    def _ping(self) -> None:
        times = []
        try:
            self._client.ping(self._patience)  # which may load what it needs
            for _ in range(_PINGS):
                begun = time.monotonic()
                self._client.ping(self._patience)
                times.append((time.monotonic() - begun) * 1000)
        except RPCError as error:
            self._fail("ping", error.message, "call_failed", error.message, error.reason)
        self._report.facts["round_trip_ms"] = round(statistics.median(times), 2)
        self._add("ping", OK, f"round trip {statistics.median(times):.1f} ms (median of {_PINGS})")

    def _policy(self) -> None:
        try:
            code = self._client.exec_command(_HARMLESS, timeout=_HARMLESS_TIME)["data"]["exit_code"]
        except RPCError as error:
            if error.reason == "PERMISSION_DENIED":
                summary = symptoms.POLICY.format(_HARMLESS)
                self._add("policy", NOTE, f"refused: {error.message}")
                raise _Ended("refused_by_policy", summary, error.reason) from None
            self._fail(
                "policy", error.message, "call_failed", f"pings work, commands do not: {error.message}", error.reason
            )
        if code:
            found = f"the command {_HARMLESS!r} ran and failed with exit code {code}"
            self._fail("policy", found, "call_failed", f"pings work; {found}: look at the guest", "CMD_EXEC_FAILED")
        self._add("policy", OK, f"the command {_HARMLESS!r} may run, and did")

    def _output(self) -> None:
        facts = self._report.facts
        if not facts["port"]:
            return
        lost = facts["lost_output"]
        if not lost:
            self._add("output", OK, f"none of the port's {DESCRIPTORS} output descriptors is lost")
            return
        found = f"{lost} of the port's {DESCRIPTORS} output descriptors may be lost for good"
        self._add("output", NOTE, f"{found}: as many clients were killed, or left in the middle of a reply")
        if lost >= _ALARMING:
            self._verdicts.append(("output_lost", symptoms.OUTPUT_LOST.format(found, DESCRIPTORS)))

    # -- what they say

    def _add(self, check: str, state: str, found: str, hints: tuple[str, ...] = ()) -> None:
        finding = Finding(check, state, found, hints)
        self._report.findings.append(finding)
        self._tell(finding)

    def _fail(
        self, check: str, found: str, verdict: str, summary: str, reason: str, hints: tuple[str, ...] = ()
    ) -> NoReturn:
        self._add(check, FAULT, found, hints)
        raise _Ended(verdict, summary, reason)


def _healing(beginning: Beginning) -> str:
    """What was in the way before the server answered; "" where nothing was."""
    *before, last = beginning.attempts
    told = [symptoms.of_attempt(each) for each in before]
    if last.heard:
        told.append(f"{symptoms.shown(last.heard)} came before the answer, left by an earlier client")
    return "; ".join(f"{number}. {text}" for number, text in enumerate(told, 1)) if len(told) > 1 else "".join(told)
