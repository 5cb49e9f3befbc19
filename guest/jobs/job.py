"""One job: pipelines that run one after the other, with one pair of outputs, one deadline and one end.

Nothing of policy, syntax or messages is known here: a stage says which program to execute. A job belongs to the thread
that runs it; only `cancel` may be called from others. Every descriptor, process and thread is gone when `close`
returns, whatever happened.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
import time
from typing import Callable, Protocol, Sequence

from guest.jobs.process_tree import Home, NoHome, ProcessTree, User
from guest.jobs.rest import PIPE_SIZE
from guest.jobs.stage import CANNOT_EXECUTE, FailedStage, OpenFile, Stage, Status
from guest.jobs.wake import Wake, milliseconds
from vsrpc.deadline import Deadline

MAX_OUTPUT = 4 * 1024 * 1024
"""Bytes kept of each output: two of them fit into a reply of the default max_request_size."""

KILL_GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL: enough to remove a temporary file."""

_KILL_WAIT = 5.0  # seconds until a process that does not even die of SIGKILL is left alone

_FATAL = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGKILL)

_DIED = 128  # beyond which the exit code is the signal's number


class JobTimeout(Exception):
    """The deadline passed; the processes were killed."""


class JobCancelled(Exception):
    """`cancel` was called; the processes were killed."""


class JobSignalled(Exception):
    """A signal that was sent to the job ended it; `status` says which."""

    def __init__(self, status: Status) -> None:
        super().__init__(status)
        self.status = status


class CannotExecute(Exception):
    """The operating system could not execute `program`; `why` is its reason."""

    def __init__(self, program: str, why: str) -> None:
        super().__init__(program, why)
        self.program = program
        self.why = why


class Output(Protocol):
    """Where a job's processes write to, and what becomes of it."""

    reader: int
    """The descriptor that is polled; -1 for none."""
    writer: int
    """The processes' end."""
    ended: bool

    @property
    def pause(self) -> float:
        """Seconds for which `read` need not be called, unless something else happens: 0 when it may take something."""

    def read(self, limit: int = ...) -> None:
        """Take what is there, without waiting, at most about `limit` bytes; of a terminal perhaps less."""

    def add(self, piece: bytes) -> None:
        """Write bytes of our own."""

    def close_writer(self) -> None:
        """Close our own copy of the writing end."""


class Input(Protocol):
    """What the processes read, and who feeds it."""

    reader: int
    """The processes' end."""

    @property
    def echoes(self) -> bool:
        """Whether what is fed may be output at once: a terminal's."""

    def pending(self) -> tuple[int, float]:
        """The descriptor into which more is to be written once there is room, -1 for none; and in how many seconds."""

    def feed(self) -> None:
        """Write what there is room for, without waiting."""

    def release_reader(self) -> None:
        """No further process will be given it."""

    def close(self) -> None:
        """Let go of everything."""


class NoInput:
    """An input that has ended: /dev/null."""

    echoes = False

    def __init__(self) -> None:
        self.reader = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def pending(self) -> tuple[int, float]:
        """Never anything."""
        return -1, 0.0

    def feed(self) -> None:
        """Nothing to write."""

    def release_reader(self) -> None:
        """It stays until the end."""

    def close(self) -> None:
        """Close the null device."""
        if self.reader >= 0:
            os.close(self.reader)
            self.reader = -1


class Job:
    """Runs pipelines until `close`."""

    def __init__(
        self,
        directory: str,
        deadline: Deadline,
        stdout: Output,
        stderr: Output,
        stdin: Input,
        user: User | None = None,
        on_start: Callable[[], None] = lambda: None,
        home: Home | None = None,
        on_process: Callable[[int], None] = lambda pid: None,
    ) -> None:
        """`on_start` is called once, before the first process; `on_process` for each pipeline, with its first one's
        number."""
        self._on_process = on_process
        self._on_start: Callable[[], None] | None = on_start
        self._home = home or NoHome()
        self._directory = directory
        self._deadline = deadline
        self._user = user
        self._started = time.monotonic()
        self._cancelled = False
        self._wake = Wake()
        self._poller = select.poll()
        self._polled: dict[int, int] = {}  # what it polls, and for what
        self.stdout = stdout
        self.stderr = stderr
        self._stdin = stdin
        self._lock = threading.Lock()  # the next four
        self._tree: ProcessTree | None = None
        self._sent = 0  # the last fatal signal that went to processes
        self._pending = 0  # one that came when there were none
        self._stopped = False  # whether the last of SIGSTOP and SIGCONT was the first
        self.pid = 0
        """The first process of what runs, or ran last."""

    def cancel(self) -> None:
        """End the job soon; may be called by any thread at any time."""
        self._cancelled = True
        self._wake.set()

    def wake(self) -> None:
        """There is input, or room for output; from any thread."""
        self._wake.set()

    def sleep(self, deadline: Deadline) -> None:
        """Wait until wake(), or the deadline; for the thread that runs it."""
        self._wake.wait(deadline)

    def dup_wake(self) -> list[int]:
        """New descriptors for a Wake of another process that does what wake() does. Raises OSError, ValueError after
        `close`."""
        return self._wake.dup(reader=False)

    def signal(self, number: int) -> None:
        """Send a signal to all processes of what runs now; from any thread.

        As with a shell, nothing more is run after one that ends programs unless they handle it, nor between SIGSTOP and
        SIGCONT.
        """
        with self._lock:
            if number in (signal.SIGSTOP, signal.SIGCONT):
                self._stopped = number == signal.SIGSTOP
            if self._tree is not None and self._tree.send(number):
                self._sent = number if number in _FATAL else self._sent
            elif number in _FATAL:
                self._pending = number

    @property
    def duration(self) -> float:
        """Seconds since the job began."""
        return time.monotonic() - self._started

    def run(self, stages: Sequence[Stage | FailedStage], strict: bool = False) -> Status:
        """Run one pipeline to its end; its status is that of the last stage.

        Raises JobTimeout and JobCancelled. A stage that cannot be executed says so on standard error, as in a shell,
        and the others run. `strict`: it is the only command of the job, and CannotExecute is raised instead.
        """
        tree = ProcessTree(self._wake, self._home)
        try:
            self.check()
            if self._on_start is not None:
                self._on_start()
                self._on_start = None
            last = self._start(tree, stages, strict)
            if strict:
                self._stdin.release_reader()
            tree.watch()
            with self._lock:
                self._tree, self.pid = tree, tree.pid
                self._on_process(tree.pid)
                if self._pending and tree.send(self._pending):
                    self._sent, self._pending = self._pending, 0
                if self._stopped:
                    tree.send(signal.SIGSTOP)
            ended = tree.ended
            while not ended:
                ended = self._poll(self._deadline, tree)
                if not ended:
                    self.check(tree)
        finally:
            with self._lock:
                self._tree = None
            tree.close(_KILL_WAIT)
            for stage in stages:
                stage.close()
        status = last if isinstance(last, Status) else _status(last.returncode)
        if self._home.out_of_memory:
            raise JobSignalled(_status(-signal.SIGKILL))
        if self._sent:
            if status.code == _DIED + self._sent:
                raise JobSignalled(status)
            self._pending = self._sent  # what runs outlived it, or was just ending: a shell would have died of it
        return status

    def finish(self) -> None:
        """Take what is still in the pipes; a daemon that a command left behind may hold them, and is not waited for."""
        for output in (self.stdout, self.stderr):
            output.close_writer()
            output.read(limit=PIPE_SIZE)

    def close(self) -> None:
        """Let go of all but the outputs."""
        self._wake.close()
        self._stdin.close()

    def _start(
        self, tree: ProcessTree, stages: Sequence[Stage | FailedStage], strict: bool
    ) -> Status | subprocess.Popen[bytes]:
        """Start all stages; returns the last one's process, or its status if it could not be started."""
        started: Status | subprocess.Popen[bytes] = Status(0)
        stdin = self._stdin.reader
        for number, stage in enumerate(stages):
            last = number == len(stages) - 1
            reader, writer = (self._stdin.reader, self.stdout.writer) if last else os.pipe()
            try:
                started = self._start_stage(tree, stage, (stdin, writer, self.stderr.writer), strict)
            except BaseException:
                self._close_pipe(reader)
                raise
            finally:
                self._close_pipe(stdin)
                self._close_pipe(writer)
            stdin = reader
        return started

    def _close_pipe(self, fd: int) -> None:
        if fd not in (self._stdin.reader, self.stdout.writer):
            os.close(fd)

    def _start_stage(
        self, tree: ProcessTree, stage: Stage | FailedStage, descriptors: tuple[int, int, int], strict: bool
    ) -> Status | subprocess.Popen[bytes]:
        if isinstance(stage, FailedStage):
            return self._failed(stage)
        table = list(descriptors)
        for redirection in stage.redirections:
            if isinstance(redirection, OpenFile):
                table[redirection.fd] = redirection.file
            else:
                table[redirection.fd] = table[redirection.source]
        try:
            stdin, stdout, stderr = table
            return tree.spawn(
                stage.argv,
                stage.program,
                stage.environment,
                self._directory,
                (stdin, stdout, stderr),
                self._user,
                session=not stage.makes_session,
            )
        except OSError as failure:
            why = failure.strerror or str(failure)
            if strict:
                raise CannotExecute(stage.argv[0], why) from failure
            return self._failed(FailedStage(CANNOT_EXECUTE, f"{stage.argv[0]}: {why}"))

    def _failed(self, stage: FailedStage) -> Status:
        self.stderr.read(limit=PIPE_SIZE)  # what earlier commands wrote comes first
        self.stderr.add(f"vsrpc: {stage.message}\n".encode("utf-8", "surrogateescape"))
        return Status(stage.code)

    def _poll(self, deadline: Deadline, tree: ProcessTree) -> bool:
        """Wait until there is output, the processes ended, the job was cancelled, or the deadline passed; whether all
        processes have ended."""
        outputs: dict[int, Output] = {}
        wanted = dict.fromkeys((self._wake.fileno(), *tree.filenos()), select.POLLIN)
        for output in (self.stdout, self.stderr):
            if output.reader >= 0 and not output.ended:
                pause = output.pause
                if pause:
                    deadline = deadline.sooner(pause)
                else:
                    outputs[output.reader] = output
                    wanted[output.reader] = select.POLLIN
        into, pause = self._stdin.pending()
        if into >= 0 and pause:
            deadline = deadline.sooner(pause)
        elif into >= 0:
            wanted[into] = select.POLLOUT
        if wanted != self._polled:  # seldom: most of the time it is told, and waits for the same again
            self._poller, self._polled = select.poll(), wanted
            for fd, events in wanted.items():
                self._poller.register(fd, events)
        ready = dict(self._poller.poll(milliseconds(deadline)))
        if self._wake.fileno() in ready:
            self._wake.clear()
            self._stdin.feed()
            if self._stdin.echoes and self.stdout.reader in outputs:
                self.stdout.read()
        elif into in ready:
            self._stdin.feed()
        for fd, output in outputs.items():
            if fd in ready:
                output.read()
        return tree.may_have_ended(ready) and tree.ended

    def check(self, tree: ProcessTree | None = None) -> None:
        """Raise JobTimeout, JobCancelled or JobSignalled when the job must not go on; what runs is killed first."""
        if not tree and self._pending:
            raise JobSignalled(_status(-self._pending))
        if not self._cancelled and not self._deadline.expired:
            return
        if tree:
            tree.send(signal.SIGTERM)
            grace = Deadline(KILL_GRACE)
            while not grace.expired and not self._poll(grace, tree):
                pass
            tree.send(signal.SIGKILL)
        raise JobCancelled if self._cancelled else JobTimeout


def _status(returncode: int) -> Status:
    if returncode >= 0:
        return Status(returncode)
    number = -returncode
    try:
        name = signal.Signals(number).name
    except ValueError:  # a real-time signal between SIGRTMIN and SIGRTMAX
        name = f"SIGRTMIN+{number - signal.SIGRTMIN}"
    return Status(_DIED + number, name)
