"""Jobs of the guest, seen from here: started, followed over links that break, fed, and ended.

Nothing here prints or knows a terminal: output goes to a function, input comes from one.
"""

from __future__ import annotations

import base64
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Protocol

from host.backend import Buffer, Reply
from host.errors import RPCError, failure

READ_SIZE = 3 * 1024 * 1024
"""Bytes asked for in one reply."""

INPUT_SIZE = 3 * 1024 * 1024
"""Bytes of input that are best given in one call, where they are there."""

HELD_SIZE = 12 * 1024 * 1024
"""Bytes of each output that the guest keeps of a job that waits for us: some replies' worth."""

# Replies with output that are under way at a time, where the guest has so much.
_MAX_READS = 2

# Input that is under way at a time: what hides the time that a call takes beside its bytes, in some pieces.
_MAX_UNDER_WAY = 4 * 1024 * 1024
_MAX_PIECES = 16
_LEAST = 32 * 1024  # bytes in a call that every guest takes

# Seconds for which the guest waits for output before it says that there is none. Between two calls others may have the
# port: one who follows a job for hours must not keep them from it.
_READ_WAIT = 2.0
_ANSWER_TIME = 15.0  # seconds more until a reply is given up
_BREATH = 0.2  # seconds between attempts while nobody answers

# While we cannot take more output, the guest is told so often that we are still there; it waits for a minute.
_HEARTBEAT = 15.0

# What a link that is about to heal makes of calls.
TRANSIENT = frozenset(
    ("CONNECTION_LOST", "CONNECTION_REFUSED", "READ_TIMEOUT", "WRITE_TIMEOUT", "SERVICE_UNAVAILABLE", "BUSY")
)

Info = Mapping[str, Any]
"""The fields of a JobInfo."""


class Calls(Protocol):
    """What is needed of the client (host.calls.Calls)."""

    give_way: Callable[[], None]
    """Lets others have the port between two calls."""

    @property
    def starts_at_once(self) -> bool:
        """Whether what `start` begins is under way before its reply is asked for."""

    def reply(self, service: str, rpc: str, fields: Mapping[str, Any], timeout: float | None = None) -> Reply:
        """Call an rpc and wait."""

    def start(self, service: str, rpc: str, fields: Mapping[str, Any], timeout: float | None = None) -> Pending:
        """Begin a call that may be repeated."""


class Pending(Protocol):
    """A call under way."""

    def result(self) -> Reply:
        """Wait for its reply."""

    def cancel(self) -> None:
        """Give it up."""


@dataclass(frozen=True)
class Output:
    """Some of what a job wrote; `lost` are bytes that were dropped before them."""

    name: str
    content: Buffer
    lost: int = 0


Sink = Callable[[Output], None]


@dataclass(frozen=True)
class _Piece:
    """Some input, and the call that gives it."""

    begin: int
    content: bytes
    call: Pending

    @property
    def end(self) -> int:
        return self.begin + len(self.content)


class RemoteJob:
    """One job. `patience`: seconds without an answer after which a broken link is given up; the job goes on then."""

    def __init__(self, calls: Calls, job_id: str, patience: float = 300.0) -> None:
        self.id = job_id
        self._calls = calls
        self._patience = patience
        self._offsets = {"stdout": 0, "stderr": 0}
        self._input = 0
        self._reads = _MAX_READS
        self._most = INPUT_SIZE  # bytes of input in a call; fewer where the guest takes no such requests

    @classmethod
    def start(cls, calls: Calls, fields: Mapping[str, Any], timeout: float | None = None) -> tuple[RemoteJob, Info]:
        """Start a job, and what is known of it then. Raises RPCError."""
        info = _job_of(calls.reply("Job", "Start", fields, timeout))
        return cls(calls, info["job_id"]), info

    def follow(self, sink: Sink) -> Info:
        """Hand its output to the sink until it has ended; what is known of it then. Raises RPCError."""
        beating = threading.Event()
        heart = threading.Thread(target=self._beat, args=(beating,), name="vsrpc-heartbeat", daemon=True)
        heart.start()
        under_way: deque[Pending] = deque()
        try:
            self._read_on(under_way, 0)
            turn = time.monotonic()
            while True:
                before = self._offsets["stdout"]
                reply = self._next(under_way)
                outputs = self._take(reply)
                info = _job_of(reply)
                over = info["output_ended"] and all(
                    self._offsets[name] >= info[f"{name}_size"] for name in self._offsets
                )
                if info["output_ended"] and not over and not outputs:
                    raise failure("PROTOCOL_ERROR", f"the guest has no more of job {self.id}, and says that there is")
                full = self._offsets["stdout"] - before == READ_SIZE
                if not full:
                    _give_up(under_way)  # they asked for what follows a full one
                long = time.monotonic() - turn >= _READ_WAIT
                if long and not under_way:
                    self._calls.give_way()
                    long, turn = False, time.monotonic()
                if not (over or long):
                    self._read_on(under_way, info["stdout_size"] if full else 0)
                for output in outputs:  # while more is on its way
                    sink(output)
                if over:
                    return info
        finally:
            _give_up(under_way)
            beating.set()
            heart.join()

    def kept(self, sink: Sink) -> Info:
        """Hand what is there of its output to the sink, and wait for no more."""
        while True:
            reply = self._again(self._read(0), lambda: self._read(0))
            outputs = self._take(reply)
            for output in outputs:
                sink(output)
            if not any(len(output.content) for output in outputs):
                return _job_of(reply)

    def feed(self, source: Callable[[], bytes], has_more: Callable[[], bool] = lambda: True) -> None:
        """Give it input, as `source` gives it, until that is empty or nobody reads. `has_more`: whether that has
        something at once; until then all that it gave is seen to be taken. Raises RPCError."""
        under_way: deque[_Piece] = deque()
        most = _MAX_UNDER_WAY if self._calls.starts_at_once else 0
        try:
            content = b" "
            while content:
                content = source()
                if len(content) > self._most:
                    if not (self._settle_all(under_way) and self.write(content)):
                        return
                    continue
                begin = under_way[-1].end if under_way else self._input
                call = self._calls.start("Job", "Write", self._piece(begin, content), _READ_WAIT + _ANSWER_TIME)
                under_way.append(_Piece(begin, content, call))
                while under_way and (
                    not content
                    or len(under_way) > _MAX_PIECES
                    or under_way[-1].end - under_way[0].begin > most
                    or not has_more()
                ):
                    if not self._settle(under_way):
                        return
        finally:
            for piece in under_way:
                piece.call.cancel()

    def write(self, content: bytes, eof: bool = False) -> bool:
        """Give it bytes, and wait until they are taken; False where nobody reads them."""
        begin, end = self._input, self._input + len(content)
        while True:
            part = content[self._input - begin :][: self._most]
            fields = self._piece(self._input, part, eof=eof and self._input + len(part) == end)
            try:
                reply = self._patiently("Write", fields)
            except RPCError as error:
                if error.reason != "TOO_LARGE" or self._most <= _LEAST:
                    raise
                self._most //= 2
                continue
            # Not beyond these bytes: later ones may have been taken whose replies were lost, and will be given again.
            self._input = min(int(reply.data["offset"]), end)
            if reply.data["closed"]:
                return False
            if self._input >= end:
                return True
            self._calls.give_way()

    def signal(self, name: str) -> None:
        """Send a signal to all of its processes. Raises RPCError."""
        self._calls.reply("Job", "Signal", {"job_id": self.id, "signal": name})

    def resize(self, rows: int, columns: int) -> None:
        """Change the size of its terminal. Raises RPCError."""
        self._calls.reply("Job", "Resize", {"job_id": self.id, "rows": rows, "columns": columns})

    def info(self, wait: float = 0.0) -> Info:
        """What is known of it, after waiting so many seconds for its end. Raises RPCError."""
        fields = {"job_id": self.id, "wait": wait}
        return _job_of(self._calls.reply("Job", "Wait", fields, wait + _ANSWER_TIME))

    def forget(self, kill: bool = False) -> None:
        """Drop it and its output. Raises RPCError."""
        self._calls.reply("Job", "Forget", {"job_id": self.id, "kill": kill})

    def _piece(self, begin: int, content: bytes, *, eof: bool | None = None) -> dict[str, Any]:
        eof = not content if eof is None else eof
        return {"job_id": self.id, "offset": begin, "content": content, "eof": eof, "wait": _READ_WAIT}

    def _settle(self, under_way: deque[_Piece]) -> bool:
        """Wait until the oldest piece is taken, or, where it does not go smoothly, until all are; False where nobody
        reads them."""
        try:
            reply = under_way[0].call.result()
            if reply.data["closed"]:
                return False
            if int(reply.data["offset"]) >= under_way[0].end:
                self._input = under_way.popleft().end
                return True
        except RPCError:
            pass  # what is wrong shows again
        pieces = list(under_way)
        under_way.clear()
        for piece in pieces:
            piece.call.cancel()
        self._calls.give_way()
        return all(self.write(piece.content, eof=not piece.content) for piece in pieces)

    def _settle_all(self, under_way: deque[_Piece]) -> bool:
        while under_way:
            if not self._settle(under_way):
                return False
        return True

    def _read_on(self, under_way: deque[Pending], end: int) -> None:
        """Ask for what follows, ahead of replies only for what there is for sure: the output goes up to `end`."""
        most = self._reads if self._calls.starts_at_once else 1
        while len(under_way) < most:
            behind = READ_SIZE * len(under_way)
            if under_way and self._offsets["stdout"] + behind + READ_SIZE > end:
                return
            under_way.append(self._read(_READ_WAIT, behind))

    def _next(self, under_way: deque[Pending]) -> Reply:
        """The reply of the first call under way, which is made anew where that may help."""
        try:
            reply = self._again(under_way[0], lambda: self._read_again(under_way))
        except RPCError as error:
            if error.reason != "INVALID_PARAMS" or self._reads == 1:
                raise
            self._reads = 1  # a guest of before `stdout_behind`
            reply = self._again(self._read_again(under_way), lambda: self._read_again(under_way))
        under_way.popleft()
        return reply

    def _read_again(self, under_way: deque[Pending]) -> Pending:
        _give_up(under_way)
        under_way.append(self._read(_READ_WAIT))
        return under_way[0]

    def _read(self, wait: float, behind: int = 0) -> Pending:
        """`behind`: bytes of standard output that calls under way ask for."""
        fields = {
            "job_id": self.id,
            "stdout_offset": self._offsets["stdout"] + behind,
            "stderr_offset": self._offsets["stderr"],
            "max_bytes": READ_SIZE,
            "wait": wait,
            **({"stdout_behind": behind} if behind else {}),
        }
        before = behind // READ_SIZE  # replies that come first
        return self._calls.start("Job", "Read", fields, (wait + _ANSWER_TIME) * (1 + before))

    def _take(self, reply: Reply) -> list[Output]:
        outputs = []
        for name, content in (("stdout", _stdout(reply)), ("stderr", _text(reply.data, "stderr"))):
            begin, have = int(reply.data[f"{name}_offset"]), self._offsets[name]
            # Standard error may be in two replies: each of those under way was asked for what is new.
            if begin < (0 if name == "stderr" else have):
                raise failure("PROTOCOL_ERROR", f"the guest gave {name} from {begin} on, not from {have}")
            fresh, lost = content[max(0, have - begin) :], max(0, begin - have)
            if len(fresh) or lost:
                outputs.append(Output(name, fresh, lost))
                self._offsets[name] = begin + len(content)
        return outputs

    def _again(self, pending: Pending, anew: Callable[[], Pending]) -> Reply:
        """The reply of a call, which is made anew for as long as there is patience with the link."""
        begun: float | None = None
        while True:
            try:
                return pending.result()
            except RPCError as error:
                begun = self._bear(error, begun)
            pending = anew()

    def _patiently(self, rpc: str, fields: Mapping[str, Any]) -> Reply:
        begun: float | None = None
        while True:
            try:
                return self._calls.reply("Job", rpc, fields, _READ_WAIT + _ANSWER_TIME)
            except RPCError as error:
                begun = self._bear(error, begun)

    def _bear(self, error: RPCError, begun: float | None) -> float:
        now = time.monotonic()
        begun = now if begun is None else begun
        if error.reason not in TRANSIENT:
            raise error
        if error.reason == "READ_TIMEOUT":
            self._reads = 1  # a slow link, on which a reply that was given up delays the next
        if now - begun > self._patience:
            raise failure(
                error.reason, f"{error.message}; the job {self.id} may go on in the guest: attach to it later"
            ) from error
        time.sleep(_BREATH)
        return begun

    def _beat(self, over: threading.Event) -> None:
        """Say that we are there, also while the sink takes its time."""
        while not over.wait(_HEARTBEAT):
            fields = {"job_id": self.id, **{f"{name}_offset": at for name, at in self._offsets.items()}, "max_bytes": 1}
            try:
                self._calls.reply("Job", "Read", fields)
            except RPCError:
                pass  # the one who follows will notice


def _give_up(under_way: deque[Pending]) -> None:
    while under_way:
        under_way.popleft().cancel()  # does nothing where it has ended


def _job_of(reply: Reply) -> Info:
    info = reply.data.get("job")
    if not isinstance(info, dict) or not info.get("job_id"):
        raise failure("PROTOCOL_ERROR", "the reply says nothing of a job; is it a vsrpc guest of this version?")
    return info


def _stdout(reply: Reply) -> Buffer:
    return reply.content if "stdout" not in reply.data or len(reply.content) else _text(reply.data, "stdout")


def _text(data: Mapping[str, Any], name: str) -> Buffer:
    """Bytes of an output, which JSON gives as text, exact only where it is text."""
    value = data.get(name, b"")
    exact = data.get(f"{name}_base64")
    if exact:
        return base64.b64decode(exact)
    return value.encode() if isinstance(value, str) else value
