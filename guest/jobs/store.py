"""All jobs: those that run, and those that ended and are kept for who may still ask for them."""

from __future__ import annotations

import secrets
import threading
import time
from typing import Callable

from guest.errors import error
from guest.jobs.cgroup import NO_LIMITS, Cgroups, no_limits, others_in_unit
from guest.jobs.live import LiveJob, Spec
from vsrpc.errors import RpcError, busy

MAX_JOBS = 256
"""Jobs that run at a time."""

KEPT_JOBS = 256
"""Jobs that are kept after their end."""

KEPT_BYTES = 64 * 1024 * 1024
"""Bytes of output that are kept after the end of their jobs."""

KEPT_SECONDS = 3600.0
"""How long a job is kept after its end."""

LEAVING = "leaving"
"""In the data of the error of a job that came too late, and can be started by whoever serves next."""

_STOP_TIME = 5.0  # seconds for all jobs to end when the daemon stops


class JobStore:
    """Jobs by id. Thread-safe."""

    def __init__(
        self,
        max_jobs: int = MAX_JOBS,
        clock: Callable[[], float] = time.monotonic,
        on_end: Callable[[LiveJob], None] = lambda job: None,
        cgroups: Cgroups | None = None,
        no_cgroups: str = "jobs have control groups where systemd runs them, as vsrpc-jobs.service",
        on_drop: Callable[[LiveJob], None] = lambda job: None,
        describe: Callable[[LiveJob], bytes] = lambda job: b"",
    ) -> None:
        """`on_end` is told of each job that has ended, in its thread, and `on_drop` of each that is forgotten.
        `cgroups`: where their processes belong; `no_cgroups` says why there are none. `describe`: LiveJob's."""
        self._cgroups = cgroups
        self._no_cgroups = no_cgroups
        self.max_jobs = max_jobs
        self._on_end = on_end
        self._on_drop = on_drop
        self._describe = describe
        self._clock = clock
        self._lock = threading.Lock()
        self._jobs: dict[str, LiveJob] = {}
        self._stopped = False

    def start(self, spec: Spec) -> LiveJob:
        """Start a job. Raises RpcError BUSY when too many run, or the system has not what it takes."""
        try:
            with self._lock:
                self._forget_old()
                if self._stopped:
                    message = "What runs jobs is stopping; try again in a moment"
                    raise error("SERVICE_UNAVAILABLE", message, **{LEAVING: "true"})
                running = sum(not job.over for job in self._jobs.values())
                if running >= self.max_jobs:
                    raise busy(f"{running} jobs run already", "limits.jobs", self.max_jobs)
                job = self._begin(secrets.token_hex(4), spec)
                self._jobs[job.id] = job
        except (OSError, RuntimeError) as failure:  # too many files, no further thread
            spec.close()
            raise error("BUSY", f"No further job can be started in this guest: {failure}; {running} run") from failure
        except BaseException:
            spec.close()
            raise
        return job

    def get(self, job_id: str) -> LiveJob:
        """The job of that id. Raises RpcError JOB_NOT_FOUND."""
        job = self.find(job_id)
        if job is None:
            raise _not_found(job_id)
        return job

    def find(self, job_id: str) -> LiveJob | None:
        """The job of that id, if there is one."""
        with self._lock:
            return self._jobs.get(job_id)

    def all(self) -> list[LiveJob]:
        """All jobs, the oldest first."""
        with self._lock:
            self._forget_old()
            return list(self._jobs.values())

    def forget(self, job_id: str, kill: bool) -> None:
        """Drop a job that has ended, or, if told to, end it first. Raises RpcError WRONG_STATE for one that runs."""
        with self._lock:
            job = self._jobs.get(job_id)
        if job is None:
            return
        if not job.over:
            if not kill:
                message = f"Job {job_id} still runs: kill it first, or wait for its end"
                raise error("WRONG_STATE", message, job_id=job_id)
            job.kill()
            job.join()
        with self._lock:
            self._drop(job_id)

    def idle(self, retire: bool = False) -> bool:
        """Whether there are no jobs, and nothing that jobs have left behind; `retire`: then take none any more."""
        with self._lock:
            self._forget_old()
            idle = not self._jobs and not self._leftovers()
            self._stopped = self._stopped or (idle and retire)
            return idle

    def stop(self) -> None:
        """End all jobs, and take no more."""
        with self._lock:
            self._stopped = True
            jobs = list(self._jobs.values())
        for job in jobs:
            job.kill()
        until = time.monotonic() + _STOP_TIME
        for job in jobs:
            job.join(max(0.0, until - time.monotonic()))
        with self._lock:
            for job in jobs:
                if job.over:
                    self._drop(job.id)

    def _leftovers(self) -> bool:
        return others_in_unit() if self._cgroups is None else self._cgroups.sweep()

    def _begin(self, job_id: str, spec: Spec) -> LiveJob:
        if self._cgroups is None:
            if spec.limits != NO_LIMITS:
                raise no_limits(self._no_cgroups)
            job = LiveJob(job_id, spec, self._on_end, describe=self._describe)
            job.start()
            return job
        group = self._cgroups.make(job_id, spec.limits)
        try:
            job = LiveJob(job_id, spec, self._ended, group, self._describe)
            job.start()
            return job
        except BaseException:
            group.remove()
            raise

    def _ended(self, job: LiveJob) -> None:
        assert self._cgroups is not None
        assert job.cgroup is not None
        self._cgroups.give_back(job.cgroup)
        self._on_end(job)

    def _forget_old(self) -> None:
        """Forget ended jobs: those of long ago, and the oldest of too many, or of too much output."""
        ended = sorted((job for job in self._jobs.values() if job.over), key=lambda job: job.ended_at, reverse=True)
        now, bytes_kept = self._clock(), 0
        for number, job in enumerate(ended):
            bytes_kept += job.kept
            if number >= KEPT_JOBS or now - job.ended_at > KEPT_SECONDS or (number and bytes_kept > KEPT_BYTES):
                self._drop(job.id)

    def _drop(self, job_id: str) -> None:
        job = self._jobs.pop(job_id, None)
        if job is not None:
            job.close()
            self._on_drop(job)


def _not_found(job_id: str) -> RpcError:
    shown = repr(job_id[:64])
    message = (
        f"No such job: {shown} (it was forgotten, or ended too long ago, or with its daemon; List tells what is there)"
    )
    return error("JOB_NOT_FOUND", message, job_id=job_id[:64])
