"""A guest that serves nothing but jobs, which its own process or a keeper runs."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Callable

import vsrpc
from guest import config, keeper
from guest.config import LimitsConfig
from guest.errors import ERRORS
from guest.jobs.store import JobStore
from guest.policy.commands import CommandPolicy
from guest.policy.paths import PathPolicy
from guest.services.job import JobService
from guest.services.job_proxy import JobProxy
from vsrpc.channel import Channel
from vsrpc.dispatcher import Dispatcher
from vsrpc.server import Server
from vsrpc.transports import Listener, listener
from vsrpc.v1 import job_pb2 as pb
from vsrpc.v1.job_vsrpc import JobStub, add_JobServicer_to_server

MAX_REPLY = 10 * 1024 * 1024


class Guest:
    """A Job service behind a socket; `keeper` behind another one, if it is the proxy's."""

    def __init__(self, directory: Path, allowed: Any = None, *, kept: bool = False, max_jobs: int = 256) -> None:
        self.directory = str(directory)
        policy = CommandPolicy(allowed, PathPolicy([self.directory]))
        self._keeper: keeper.Keeper | None = None
        self._threads: list[threading.Thread] = []
        self._policy = policy
        self._path = f"{directory}/keeper.sock"
        self.keeper_idle_seconds = 600.0
        self.service: JobService | JobProxy
        if kept:
            self.service = JobProxy(policy, LimitsConfig(), MAX_REPLY, self._path, self.start_keeper)
        else:
            self.service = JobService(policy, JobStore(max_jobs), MAX_REPLY, LimitsConfig())
        dispatcher = Dispatcher(errors=ERRORS, max_request_size=MAX_REPLY)
        add_JobServicer_to_server(self.service, dispatcher)
        self._server = Server(dispatcher, workers=4)
        self.target = f"unix:{directory}/guest.sock"
        self._serve(self._server.serve, listener(self.target))
        self.channel: Channel = vsrpc.connect(self.target, vsrpc.ChannelOptions(max_retries=0))
        self.stub = JobStub(self.channel)

    def start_keeper(self) -> None:
        file = f"{self.directory}/guest.yaml"
        Path(file).write_text("security: {allowed_commands: null}\n")
        self._keeper = keeper.Keeper(config.load(file), file, self.keeper_idle_seconds)
        self._serve(self._keeper.serve, listener(f"unix:{self._path}"))

    def _serve(self, serve: Callable[[Listener], None], where: Listener) -> None:
        thread = threading.Thread(target=serve, args=(where,))
        thread.start()
        self._threads.append(thread)

    def close(self, *, keeper: bool = True) -> None:
        self.channel.close()
        self._server.stop()
        self.service.stop()
        if keeper:
            self.close_keeper()

    def close_keeper(self) -> None:
        if self._keeper:
            self._keeper.stop()
        for thread in self._threads:
            thread.join()

    def start(self, command: str = "", **fields: Any) -> pb.JobInfo:
        return self.stub.Start(pb.JobStartRequest(command=command, **fields)).job

    def end(self, job_id: str) -> pb.JobInfo:
        return self.stub.Wait(pb.JobWaitRequest(job_id=job_id, wait=60), timeout=90).job

    def output(self, job_id: str, stdout: int = 0, stderr: int = 0) -> tuple[bytes, bytes, pb.JobInfo]:
        """All output from there on, once the job has ended."""
        out, err = b"", b""
        while True:
            request = pb.JobReadRequest(job_id=job_id, stdout_offset=stdout, stderr_offset=stderr, wait=60)
            reply = self.stub.Read(request, timeout=90)
            out, err = out + reply.stdout, err + reply.stderr
            stdout, stderr = reply.stdout_offset + len(reply.stdout), reply.stderr_offset + len(reply.stderr)
            if reply.job.output_ended and (stdout, stderr) == (reply.job.stdout_size, reply.job.stderr_size):
                return out, err, reply.job

    def until_written(self, job_id: str, size: int) -> None:
        """Wait until standard output has so many bytes."""
        have = 0
        while have < size:
            have = self.stub.Read(pb.JobReadRequest(job_id=job_id, stdout_offset=have, wait=60)).job.stdout_size
