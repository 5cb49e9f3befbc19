"""A job that runs on its own, in a thread of its own, with output that is read and input that is written by offset.

`Job` (job.py) runs its processes; here is what is around them: logs, input, terminal, timeout, and how it ended. What
is run, and whether it may, is the business of whoever makes one.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from dataclasses import dataclass
from typing import Any, Callable

from guest.errors import error
from guest.jobs.access import JobAccess
from guest.jobs.cgroup import NO_LIMITS, Cgroup, ResourceLimits
from guest.jobs.changes import Changes
from guest.jobs.feed import InputFeed
from guest.jobs.job import CannotExecute, Input, Job, JobCancelled, JobSignalled, JobTimeout, NoInput
from guest.jobs.log import OutputLog
from guest.jobs.memory import Memory
from guest.jobs.process_tree import User
from guest.jobs.stage import Status
from guest.jobs.terminal import is_controlling, key_signals, open_terminal, set_size
from guest.os_errors import printable
from guest.policy.commands_syntax import CommandSyntaxError
from vsrpc.deadline import Deadline
from vsrpc.errors import RpcError

_log = logging.getLogger(__name__)

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


class LiveJob(JobAccess):
    """One job. Everything but `start` may be called from any thread."""

    stdout: OutputLog
    stderr: OutputLog

    def __init__(
        self,
        job_id: str,
        spec: Spec,
        on_end: Callable[[LiveJob], None] = lambda job: None,
        cgroup: Cgroup | None = None,
        describe: Callable[[LiveJob], bytes] = lambda job: b"",
    ) -> None:
        """`cgroup`: where its processes belong. `describe` says, for who shares its memory, how it has ended."""
        takes_input = spec.stdin or spec.terminal is not None
        memory = Memory.make(spec.log_size, takes_input=takes_input, holds_output=spec.hold_output)
        self._changes = Changes(memory)
        super().__init__(job_id, memory, self._changes, self._wake_job)
        self.cgroup = cgroup
        self._on_end = on_end
        self._describe = describe
        self.spec = spec
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
        self.stdout = OutputLog(memory, memory.stdout, self._changes)
        self.stderr = OutputLog(memory, memory.stderr, self._changes)
        self._feeder: InputFeed | None = None
        self._leader = -1
        try:
            self._stdin: Input = NoInput()
        except BaseException:
            memory.close()
            raise
        try:
            self._open(memory)
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

    def share(self) -> list[int] | None:
        """New descriptors for another process: its memory, what wakes it, and, twice, what tells of changes. None where
        it has ended. Raises OSError."""
        fds: list[int] = []
        with self.changed, self._memory.file() as fd:
            if fd is None or self.over:
                return None
            try:
                fds.append(os.dup(fd))
                fds += self._job.dup_wake()
                fds += self._changes.dup()
            except BaseException:
                for each in fds:
                    os.close(each)
                raise
        return fds

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
        self._memory.release()
        self.poke()
        self._job.cancel()

    def join(self, seconds: float | None = None) -> None:
        """Wait for its end."""
        self._thread.join(seconds)

    @property
    def kept(self) -> int:
        """Bytes of output that are there."""
        return self.stdout.end - self.stdout.start + self.stderr.end - self.stderr.start

    def close(self) -> None:
        """Forget its output; only after its end."""
        self.stdout.close_reader()
        self.stderr.close_reader()
        self._memory.close()

    def _began(self, pid: int) -> None:
        self._memory.pid = pid

    def _wake_job(self) -> None:
        self._job.wake()

    def _feed(self) -> None:
        assert self._feeder is not None, "it takes input"
        self._feeder.feed()  # at once, where there is room: the job's thread would be a change of threads more
        if self._feeder.pending()[0] >= 0:
            self._job.wake()

    # -- its own thread

    def _open(self, memory: Memory) -> None:
        if self.spec.terminal is not None:
            self._use_terminal(memory, *self.spec.terminal)
            return
        self.stdout.open_pipe()
        self.stderr.open_pipe()
        if self.spec.stdin:
            self._take_input(InputFeed(memory, self._changes))

    def _take_input(self, feeder: InputFeed) -> None:
        self._stdin.close()
        self._stdin = self._feeder = feeder

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
            on_process=self._began,
        )

    def _let_go(self) -> None:
        """Of all that it has open."""
        self._stdin.close()
        self.close()
        if self._leader >= 0:
            os.close(self._leader)
            self._leader = -1

    def _use_terminal(self, memory: Memory, rows: int, columns: int) -> None:
        self._leader, self.stderr.writer = open_terminal(rows, columns)
        self.stdout.use_terminal(self._leader, self.stderr.writer)
        feeder = InputFeed(memory, self._changes, os.dup(self._leader), self._typed)
        self._take_input(feeder)
        feeder.reader = os.dup(self.stderr.writer)

    def _typed(self, typed: memoryview) -> None:
        """Do what the kernel does where a session has the terminal: the commands of a pipeline have one each."""
        if not is_controlling(self._leader):
            for number in key_signals(self._leader, bytes(typed)):
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
            left, most = output.waiting(), output.end + output.most_waiting
            while left > 0 and not output.ended:
                before = output.end
                output.read(left)
                left -= output.end - before
                if output.has_room and output.end == before:
                    break
                if not output.has_room:
                    self._job.sleep(Deadline(output.pause))
                if left <= 0 and output.end < most:
                    left = output.waiting()

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
            try:
                self._memory.ending = self._describe(self)
            except Exception:  # who looks into the memory asks instead
                _log.exception("the end of job %s cannot be described", self.id)
            self._memory.over = True
            self.changed.notify_all()
            self._changes.close()
        self._on_end(self)


def job_end(job: LiveJob) -> dict[str, Any]:
    """How a job ended, for logs."""
    assert job.status is not None, "it has ended"
    facts: dict[str, Any] = {"job_id": job.id, "exit_code": job.status.code, "signal": job.status.signal}
    facts.update(stdout_size=job.stdout.end, stderr_size=job.stderr.end, timed_out=job.timed_out)
    if job.failure is not None:
        facts["failure"] = job.failure.details()
    return {**facts, "seconds": round(job.ended - job.started, 1)}
