"""The faults: each cycle breaks one thing in one way, chosen by a seed, and then looks whether the next client works.

What must hold (PROTOCOL.md, "What is promised"): no caller gets a response to another call; no call that must not be
repeated takes effect twice; one that was reported successful took effect once; a client that follows one of ours works
without waiting for a time-out; no byte of a file is wrong without an error; and the daemon neither exits nor leaks.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Callable

from fault_places import Place
from fault_puppet import AnotherTime, Puppet
from fault_victims import Read, Send, Victims

import vsrpc
from vsrpc import ChannelOptions, Code, RpcError
from vsrpc.v1.file_pb2 import DownloadChunkRequest, UploadRequest
from vsrpc.v1.file_vsrpc import FileStub
from vsrpc.v1.shell_pb2 import ExecRequest
from vsrpc.v1.shell_vsrpc import ShellStub
from vsrpc.v1.system_vsrpc import SystemStub
from vsrpc.wire import MAGIC, NONCE_SIZE

BIG = 3_000_000
_AFTERMATH = 0.03  # seconds that the guest is busy after a command: its log, its journal. No matter of the next fault
CALL = 60.0  # seconds that a call has: longer than any healing takes
_SOURCE = Path(__file__).resolve().parents[2] / "vsrpc" / "wire" / "sync.py"


@dataclass
class Report:
    """What the cycles of one soak brought."""

    cycles: Counter[str] = field(default_factory=Counter)
    recoveries: dict[str, list[float]] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")


class Soak:
    """Cycles at one place. `seed` decides on what they do."""

    def __init__(self, place: Place, seed: int) -> None:
        self.place = place
        self.report = Report()
        self._random = random.Random(seed)
        self._name = secrets.token_hex(4)  # of this soak's files
        self._tokens: dict[str, str] = {}  # what was to be done once → how that ended, as far as its caller knows
        self._content = self._random.randbytes(BIG)
        self._big = f"{place.effects}/big-{self._name}"
        with self._channel() as channel:
            FileStub(channel).Upload(UploadRequest(path=self._big, content=self._content), timeout=CALL)
        self._victims = Victims()

    def __enter__(self) -> Soak:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        self._victims.close()

    def _channel(self) -> vsrpc.Channel:
        return vsrpc.connect(f"unix:{self.place.socket}", ChannelOptions(connect_timeout=CALL, retry_interval=0.05))

    # -- what is done, and whether it was done right

    def _token(self) -> tuple[str, str]:
        """A new effect: its name, and the command that has it."""
        token = secrets.token_hex(8)
        self._tokens[token] = "unknown"
        return token, f"echo {token} >> {self.place.effects}/done-{self._name}"

    def _effect(self, channel: vsrpc.Channel) -> None:
        token, command = self._token()
        try:
            reply = ShellStub(channel).Exec(ExecRequest(command=f"{command} && echo {token}"), timeout=CALL)
        except RpcError as error:
            self._failed(error)
            if error.not_run:
                self._tokens[token] = "not run"
            return
        if reply.signal == "SIGTERM":  # systemd ends the daemon's commands with it, and the reply says so
            self.report.calls["SIGTERM"] += 1
            return
        self.report.calls["OK"] += 1
        self._tokens[token] = "done"
        if reply.stdout.decode() != f"{token}\n":
            self.report.wrong.append(f"the call for {token} got {reply.stdout!r}")

    def _read(self, channel: vsrpc.Channel) -> None:
        offset = self._random.randrange(BIG)
        size = self._random.choice([10, 5000, 200_000, BIG])
        try:
            reply = FileStub(channel).DownloadChunk(
                DownloadChunkRequest(path=self._big, offset=offset, size=size), timeout=CALL
            )
        except RpcError as error:
            self._failed(error)
            return
        self.report.calls["OK"] += 1
        if reply.content != self._content[offset : offset + size]:
            self.report.wrong.append(f"{size} bytes at {offset} are not those of the file")

    def _failed(self, error: RpcError) -> None:
        self.report.calls[error.reason or error.code().name] += 1
        self.report.errors.append(str(error))
        if error.code() is Code.DEADLINE_EXCEEDED:
            self.report.wrong.append(f"a call waited for {CALL:g} s: {error}")

    def follow(self, kind: str) -> None:
        """The next client: how soon it is answered, and whether it is answered right."""
        begun = time.monotonic()
        with self._channel() as channel:
            try:
                SystemStub(channel).Ping(timeout=CALL)
            except RpcError as error:
                self.report.wrong.append(f"after {kind}: a client that followed was not served: {error}")
                return
            seconds = time.monotonic() - begun
            self.report.recoveries.setdefault(kind, []).append(seconds)
            attempts = ", ".join(
                f"{each.seconds:.2f} s {each.message or 'answered'}" for each in channel.beginning.attempts
            )
            self.report.slowest = max(self.report.slowest, (seconds, f"{seconds:.2f} s after {kind}: {attempts}"))
            checks = [check for check in (self._effect, self._read) if self._random.random() < 0.3]
            for check in checks:
                check(channel)
        if checks:
            time.sleep(_AFTERMATH)

    def verify(self) -> None:
        """Count what was really done."""
        done = Counter(self.place.read_effects(f"done-{self._name}"))
        for token, count in done.items():
            if count > 1:
                self.report.wrong.append(f"{token} was done {count} times")
            if token not in self._tokens:
                self.report.wrong.append(f"{token} was done, and nobody asked for it")
        for token, state in self._tokens.items():
            if state == "done" and not done[token]:
                self.report.wrong.append(f"{token} was reported done, and was not")
            if state == "not run" and done[token]:
                self.report.wrong.append(f"{token} was reported not done, and was")
        self.report.wrong += [f"a temporary file was left: {name}" for name in self.place.leftovers()]

    def run(self, cycles: int, kinds: dict[str, float]) -> None:
        """So many cycles, of kinds with these weights."""
        names, weights = list(kinds), list(kinds.values())
        for _ in range(cycles):
            kind = self._random.choices(names, weights)[0]
            self.report.cycles[kind] += 1
            KINDS[kind](self)
            self.follow(kind)

    # -- the faults

    def _greeted(self, step: int | None = None) -> Puppet:
        """A client of ours in the middle of a session; `step`: bytes that it sends and reads at a time."""
        while True:
            puppet = Puppet(self.place.socket, step)
            try:
                puppet.greet()
                return puppet
            except (AnotherTime, TimeoutError) as again:  # as a client of ours does; QEMU may leave a port deaf
                self.report.calls[f"puppet: {type(again).__name__}"] += 1
                puppet.close()
                time.sleep(0.02)

    def nothing(self) -> None:
        """No fault: what recoveries are measured against."""

    def _dies(self, puppet: Puppet, *steps: Send | Read) -> None:
        """A process does that with the puppet's socket, and is killed with SIGKILL."""
        if self._victims.kill(puppet.sock, *steps) != signal.SIGKILL:
            self.report.wrong.append("a client that was to be killed ended by itself")

    def die_connecting(self) -> None:
        self._dies(Puppet(self.place.socket))

    def die_in_sync(self) -> None:
        puppet = Puppet(self.place.socket)
        greeting = puppet.greeting()
        cut = self._random.randrange(len(greeting) + 1)
        self._dies(puppet, Send(greeting[:cut]))

    def die_in_head(self) -> None:
        puppet = self._greeted()
        request = puppet.exec(self._token()[1])
        cut = self._random.randrange(request.index(b"\r\n\r\n") + 4)
        self._dies(puppet, Send(request[:cut]))

    def die_in_body(self) -> None:
        """Also of one that contains the magic, whole and in parts, and our own source."""
        puppet = self._greeted()
        forged = MAGIC + bytes(NONCE_SIZE) + puppet.exec(self._token()[1])
        filling = self._random.choice([forged * 50, _SOURCE.read_bytes() * 3, MAGIC[:15] * 3000, bytes(100_000)])
        request = puppet.upload_chunk(filling)
        cut = self._random.randrange(request.index(b"\r\n\r\n") + 4, len(request))
        self._dies(puppet, Send(request[:cut]))

    def die_waiting(self) -> None:
        puppet = self._greeted()
        request = puppet.exec(self._token()[1])
        self._dies(puppet, Send(request))

    def die_in_download(self) -> None:
        """At full speed."""
        puppet = self._greeted()
        request = puppet.download(self._big, BIG)
        self._dies(puppet, Send(request), puppet.reading(self._random.randrange(BIG)))

    def die_not_reading(self) -> None:
        """With both directions full."""
        puppet = self._greeted()
        patience = self._random.choice([0.01, 0.05])
        requests = b"".join(puppet.download(self._big, BIG) for _ in range(4))
        self._dies(puppet, Send(requests), Send(puppet.upload_chunk(bytes(4 << 20)), patience=patience))

    def die_in_queue(self) -> None:
        """Clients that wait behind another, of which some die before their turn; they ask nothing before the echo."""
        self._queue(lambda puppet: puppet.greeting())

    def zombies_ask(self) -> None:
        """The same, but these do not wait for the echo: what they ask for is done although they are dead."""
        self._queue(lambda puppet: puppet.greeting() + puppet.exec(self._token()[1]))

    def _queue(self, words: Callable[[Puppet], bytes]) -> None:
        first = self._greeted()
        waiting = [Puppet(self.place.socket) for _ in range(2)]
        requests = [words(puppet) for puppet in waiting]
        self._random.shuffle(waiting)
        for puppet, request in zip(waiting, requests):
            puppet.send(request)
        self._dies(waiting[0])
        last = first.exec(self._token()[1])
        self._dies(first, Send(last))
        self._dies(waiting[1])

    def slow_client(self) -> None:
        """One that sends and reads a byte at a time, and dies like that."""
        puppet = self._greeted(step=1)
        request = puppet.exec(self._token()[1])
        cut = self._random.randrange(len(request) + 1)
        self._dies(puppet, Send(request[:cut], step=1))

    def say_garbage(self) -> None:
        with Puppet(self.place.socket) as puppet:
            puppet.send(self._random.randbytes(self._random.choice([1, 100, 5000])))

    def plain_client_dies_in_body(self) -> None:
        """With a body that would be a sync and a call, were it not content."""
        with Puppet(self.place.socket) as puppet:
            forged = puppet.greeting() + puppet.exec(f"echo forged >> {self.place.effects}/done-{self._name}")
            body = forged * 20
            head = b"POST /vsrpc.v1.File/UploadChunk HTTP/1.1\r\nHost: g\r\nContent-Type: application/proto\r\n"
            request = head + b"Content-Length: %d\r\n\r\n" % (len(body) + 1) + body
            puppet.send(request, self._random.randrange(len(request)))

    def daemon_dies(self) -> None:
        """While calls are under way on a channel that lives through it."""
        self._during(self.place.kill_daemon)

    def daemon_restarts(self) -> None:
        self._during(self.place.restart_daemon)

    def port_is_replugged(self) -> None:
        self._during(self.place.replug)

    def guest_is_paused(self) -> None:
        """And a client leaves meanwhile, which may leave the port throttled for the next one."""
        with self._greeted() as puppet:
            puppet.send(puppet.download(self._big, BIG))
            self.place.pause()
        time.sleep(0.02)
        self.place.resume()

    def _during(self, fault: Callable[[], None]) -> None:
        with self._channel() as channel:
            SystemStub(channel).Ping(timeout=CALL)
            work: list[Callable[[vsrpc.Channel], None]] = [self._effect, self._read, self._effect, self._read]
            threads = [threading.Thread(target=each, args=(channel,)) for each in work]
            for thread in threads:
                thread.start()
            time.sleep(self._random.random() * 0.03)
            fault()
            for thread in threads:
                thread.join()

    def clock_jumps(self) -> None:
        """A day forward and back, while calls are under way."""
        self._during(lambda: self.place.jump_clock(86400))
        self.place.jump_clock(-86400)

    def another_version(self) -> None:
        """A client that is too new, which leaves when it hears that."""
        with Puppet(self.place.socket) as puppet:
            puppet.send(puppet.greeting().replace(b"vsrpc-version: 1", b"vsrpc-version: 7"))
            puppet.sock.recv(1)

    def process_is_killed(self) -> None:
        """A real vsrpc-host, at any time of a download."""
        target = f"{self.place.socket}.download"
        command = [sys.executable, "-m", "host", "-s", self.place.socket, "download", self._big, target]
        process = subprocess.Popen(
            [*command, "--chunk-size", "1MB"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(self._random.random() * 0.35)  # from its start to mid-download
        process.send_signal(signal.SIGKILL)
        process.wait()
        directory = os.path.dirname(target)
        for name in os.listdir(directory):
            if ".download" in name:
                os.unlink(os.path.join(directory, name))

    def many_calls(self) -> None:
        """64 calls at once on one link."""
        with self._channel() as channel:
            threads = [
                threading.Thread(target=self._read if number % 4 else self._effect, args=(channel,))
                for number in range(64)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def worse_port(self) -> None:
        """From now on, what the port reads and writes at a time is small."""
        sizes = [1, 7, 100, 4096]
        delays = [0, 0, 0.001]
        self.place.distort(
            host_read_max=self._random.choice(sizes),
            host_read_delay=self._random.choice(delays),
            guest_read_max=self._random.choice(sizes),
            guest_write_max=self._random.choice([1, 100, 5000, 32768]),
            output_delay=self._random.choice(delays),
            zero_write_rate=self._random.choice([0, 0.1]),
        )
        with self._channel() as channel:
            self._effect(channel)
            SystemStub(channel).Ping(timeout=CALL)
        self.place.distort(host_read_max=4096, guest_read_max=4096, guest_write_max=32768)
        self.place.distort(host_read_delay=0.0, output_delay=0.0, zero_write_rate=0.0)


KINDS: dict[str, Callable[[Soak], Any]] = {
    name: function
    for name, function in vars(Soak).items()
    if callable(function) and not name.startswith("_") and name not in ("follow", "verify", "run")
}
