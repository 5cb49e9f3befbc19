"""A job that runs on its own, in a thread of its own, with output that is read and input that is written by offset.

`Job` (job.py) runs its processes; here is what is around them: logs, input, terminal, timeout, and how it ended. What
is run, and whether it may, is the business of whoever makes one.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass
from typing import Any, Callable

from guest.errors import error
from guest.jobs.cgroup import NO_LIMITS, Cgroup, ResourceLimits
from guest.jobs.feed import InputFeed
from guest.jobs.job import CannotExecute, Input, Job, JobCancelled, JobSignalled, JobTimeout, NoInput
from guest.jobs.log import OutputLog
from guest.jobs.process_tree import User
from guest.jobs.stage import Status
from guest.jobs.terminal import is_controlling, key_signals, open_terminal, set_size
from guest.os_errors import printable
from guest.policy.commands_syntax import CommandSyntaxError
from vsrpc.deadline import Deadline
from vsrpc.errors import RpcError

TIMED_OUT = 124
"""Exit code of a job that ran into its timeout, as of timeout(1)."""

KILLED = 137
"""Exit code of a job that was killed before it could tell one: 128 + SIGKILL."""

FAILED = 126
"""Exit code of a job of which a part was refused or could not run."""


@dataclass(frozen=True)
class Spec:
    """What a job is. `run` runs it to its end on a Job, and raises what Script.run and Job.run raise."""

    run: Callable[[Job], Status]
    shown: str
    """The command, for people."""
    directory: str
    user: str
    log_size: int
    """Bytes kept of each output."""
    close: Callable[[], None]
    """Called once, when it has ended or is not started: lets go of what `run` needs."""
    timeout: float | None = None
    run_as: User | None = None
    stdin: bool = False
    terminal: tuple[int, int] | None = None
    """Rows and columns."""
    hold_output: bool = False
    limits: ResourceLimits = NO_LIMITS


class LiveJob:
    """One job. Everything but `start` may be called from any thread."""

    def __init__(
        self,
        job_id: str,
        spec: Spec,
        on_end: Callable[[LiveJob], None] = lambda job: None,
        cgroup: Cgroup | None = None,
    ) -> None:
        """`cgroup`: where its processes belong."""
        self.id = job_id
        self.cgroup = cgroup
        self._on_end = on_end
        self.spec = spec
        self.changed = threading.Condition()
        """Notified of all that happens; guards what is below."""
        self.started = time.time()
        self.ended = 0.0
        self.ended_at = 0.0
        """The same by the monotonic clock."""
        self.status: Status | None = None
        """How it ended."""
        self.failure: RpcError | None = None
        """Why it ended without having run all of it."""
        self.timed_out = False
        self.out_of_memory = False
        """Whether it was killed because it had used up the memory that it may have."""
        self.stdout = OutputLog(spec.log_size, self.changed, hold=spec.hold_output)
        self.stderr = OutputLog(spec.log_size, self.changed, hold=spec.hold_output)
        self.feed: InputFeed | None = None
        self._stdin: Input = NoInput()
        self._leader = -1
        try:
            self._open()
            self._job = self._make_job()
        except BaseException:
            self._let_go()
            raise
        self._thread = threading.Thread(target=self._run, name=f"vsrpc-job-{job_id}", daemon=True)

    def start(self) -> None:
        """Begin. Raises RuntimeError where there can be no thread more; nothing is then left of it."""
        try:
            self._thread.start()
        except RuntimeError:
            self._job.close()
            self._let_go()
            raise

    @property
    def pid(self) -> int:
        """The first process of what runs, or ran last."""
        return self._job.pid

    @property
    def over(self) -> bool:
        """Whether it has ended, and all of its output is in the logs."""
        return self.status is not None

    def attend(self, stdout: int, stderr: int) -> None:
        """A reader has the outputs up to there, and stays."""
        made_room = [self.stdout.attend(stdout), self.stderr.attend(stderr)]
        if any(made_room):
            self._job.wake()
            self.poke()

    def write(self, offset: int, content: bytes, eof: bool, deadline: Deadline) -> None:
        """Give it input; returns when all was taken, at the deadline, or when nobody reads.

        Raises ValueError: see InputFeed.take.
        """
        feed = self.feed
        if feed is None:
            raise ValueError("the job was started without input")
        with self.changed:
            while True:
                all_taken = feed.take(offset, content, eof)
                feed.feed()  # at once, where there is room: the job's thread would be a change of threads more
                if feed.behind:
                    self._job.wake()
                if all_taken or feed.closed or deadline.expired:
                    return
                if feed.behind:
                    self.changed.wait(deadline.remaining())

    def signal(self, number: int) -> bool:
        """Send a signal to all of its processes; False where it has ended."""
        if self.over:
            return False
        self._job.signal(number)
        if number == signal.SIGKILL:
            self._kill_rest()
        return True

    def resize(self, rows: int, columns: int) -> bool:
        """Change the size of its terminal; False where it has none."""
        with self.changed:
            if self._leader < 0:
                return False
            set_size(self._leader, rows, columns)
            if not is_controlling(self._leader):
                self._job.signal(signal.SIGWINCH)
            return True

    def kill(self) -> None:
        """End it: SIGTERM, and soon SIGKILL. It waits for no reader any more."""
        self.stdout.release()
        self.stderr.release()
        self._job.cancel()

    def poke(self) -> None:
        """Let whoever waits look again at what it waits for."""
        with self.changed:
            self.changed.notify_all()

    def wait(self, deadline: Deadline, until: Callable[[], bool]) -> None:
        """Wait until `until()`, which is called with the lock held, or the deadline."""
        with self.changed:
            while not until() and not deadline.expired:
                self.changed.wait(deadline.remaining())

    def join(self, seconds: float | None = None) -> None:
        """Wait for its end."""
        self._thread.join(seconds)

    @property
    def kept(self) -> int:
        """Bytes of output that are there."""
        with self.changed:
            return self.stdout.end - self.stdout.start + self.stderr.end - self.stderr.start

    def close(self) -> None:
        """Forget its output; only after its end."""
        self.stdout.close()
        self.stderr.close()

    # -- its own thread

    def _open(self) -> None:
        if self.spec.terminal is not None:
            self._use_terminal(*self.spec.terminal)
            return
        self.stdout.open_pipe()
        self.stderr.open_pipe()
        if self.spec.stdin:
            self._take_input(InputFeed(self.changed))

    def _take_input(self, feed: InputFeed) -> None:
        self._stdin.close()
        self._stdin = self.feed = feed

    def _make_job(self) -> Job:
        spec = self.spec
        return Job(
            spec.directory,
            Deadline(spec.timeout),
            self.stdout,
            self.stderr,
            self._stdin,
            spec.run_as,
            home=self.cgroup,
        )

    def _let_go(self) -> None:
        """Of all that it has open."""
        self.stdout.close()
        self.stderr.close()
        self._stdin.close()
        if self._leader >= 0:
            os.close(self._leader)
            self._leader = -1

    def _use_terminal(self, rows: int, columns: int) -> None:
        self._leader, self.stderr.writer = open_terminal(rows, columns)
        self.stdout.use_terminal(self._leader, self.stderr.writer)
        feed = InputFeed(self.changed, os.dup(self._leader), self._typed)
        self._take_input(feed)
        feed.reader = os.dup(self.stderr.writer)

    def _typed(self, typed: bytes) -> None:
        """Do what the kernel does where a session has the terminal: the commands of a pipeline have one each."""
        if not is_controlling(self._leader):
            for number in key_signals(self._leader, typed):
                self._job.signal(number)

    def _run(self) -> None:
        status, failure = Status(FAILED), None
        try:
            status = self.spec.run(self._job)
        except JobTimeout:
            self._kill_rest()
            self.timed_out, status = True, Status(TIMED_OUT)
        except JobSignalled as end:
            status = end.status
        except JobCancelled:
            self._kill_rest()
            status = Status(KILLED, "SIGKILL")
        except CannotExecute as wrong:
            program = printable(wrong.program)
            failure = error("CMD_EXEC_FAILED", f"Cannot execute: {program} ({wrong.why})", command=program)
        except CommandSyntaxError as wrong:
            failure = error("INVALID_PARAMS", f"command: {wrong}", field="command")
        except RpcError as refusal:
            failure = refusal
        except BaseException as defect:
            failure = error("INTERNAL_ERROR", f"the job failed: {defect!r}")
            raise
        finally:
            self.spec.close()
            self._drain()
            self._end(status, failure)

    def _kill_rest(self) -> None:
        """Kill also what has left the sessions of the processes that we started."""
        if self.cgroup is not None:
            self.cgroup.kill()

    def _drain(self) -> None:
        """Take what is still in the pipes, also where that has to wait for a reader; a process that the command left
        behind may hold them, and is not waited for."""
        for output in (self.stdout, self.stderr):
            output.close_writer()
            if output.reader < 0:
                continue
            left = output.waiting()
            while left > 0 and not output.ended:
                before = output.end
                output.read(left)
                left -= output.end - before
                if output.has_room and output.end == before:
                    break
                self.wait(output.patience, lambda output=output: output.has_room)  # type: ignore[misc]

    def _end(self, status: Status, failure: RpcError | None) -> None:
        self.stdout.close_reader()
        self.stderr.close_reader()
        self._job.close()
        self.out_of_memory = self.cgroup is not None and self.cgroup.out_of_memory
        with self.changed:
            if self._leader >= 0:
                os.close(self._leader)
                self._leader = -1
            self.failure = failure
            self.status = status
            self.ended, self.ended_at = time.time(), time.monotonic()
            self.changed.notify_all()
        self._on_end(self)


def job_end(job: LiveJob) -> dict[str, Any]:
    """How a job ended, for logs."""
    assert job.status is not None, "it has ended"
    facts: dict[str, Any] = {"job_id": job.id, "exit_code": job.status.code, "signal": job.status.signal}
    facts.update(stdout_size=job.stdout.end, stderr_size=job.stderr.end, timed_out=job.timed_out)
    if job.failure is not None:
        facts["failure"] = job.failure.details()
    return {**facts, "seconds": round(job.ended - job.started, 1)}
