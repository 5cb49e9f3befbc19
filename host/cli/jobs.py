"""The commands that run something: exec, shell, and those for jobs. They stream both ways, and end as the job ends."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import select
import signal
import stat
import sys
import threading
import time
from types import FrameType
from typing import Any, Mapping

from host.cli import exits
from host.cli.output import complain, print_json, print_line, print_table, write_bytes
from host.cli.terminal import Escapes, Left, RawMode, size
from host.client import VirtioRPCClient
from host.errors import RPCError, UsageError
from host.jobs import HELD_SIZE, INPUT_SIZE, Info, Output, RemoteJob

EXEC_TIMEOUT = 30.0
"""Seconds that a command may run where nothing says otherwise; one on a terminal may run for ever."""

_FIRST_WAIT = 5.0  # seconds that the guest waits for first output before it replies to the start
_PIPE_SIZE = 1024 * 1024  # bytes: what a pipe may hold without privileges (pipe(7))
_F_SETPIPE_SZ = 1031  # linux/fcntl.h; in the fcntl module since Python 3.10
_ENDED = "JOB_STATE_ENDED", 2


def exec_(client: VirtioRPCClient, args: argparse.Namespace) -> int:
    """Run a command, with its input and output here."""
    timeout: float | None = args.exec_timeout if args.exec_timeout is not None else args.timeout
    if timeout is None and not (args.detach or args.tty):
        timeout = EXEC_TIMEOUT
    fields: dict[str, Any] = {"command": args.line, "working_dir": args.workdir, **_common(args)}
    if timeout:
        fields["timeout"] = timeout
    if args.detach:
        return _detached(client, fields, args)
    return _attached(client, fields, args.tty, not args.no_stdin, timeout)


def shell(client: VirtioRPCClient, args: argparse.Namespace) -> int:
    """An interactive login shell."""
    fields: dict[str, Any] = {"login_shell": True, **_common(args)}
    if args.workdir:
        fields["working_dir"] = args.workdir
    return _attached(client, fields, os.isatty(sys.stdin.fileno()), True, None)


def attach(client: VirtioRPCClient, args: argparse.Namespace) -> int:
    """Go on with a job: what is kept of its output, then live, with input."""
    job = RemoteJob(client.calls, args.job)
    info = job.info()
    return _follow(job, info, None, feed=not args.no_stdin and info["state"] not in _ENDED)


def logs(client: VirtioRPCClient, args: argparse.Namespace) -> int:
    """What is kept of a job's output."""
    job = RemoteJob(client.calls, args.job)
    sink = _Sink()
    _ = job.follow(sink) if args.follow else job.kept(sink)
    return exits.EXEC_BASE + exits.LOST_OUTPUT if sink.lost else exits.OK


def kill(client: VirtioRPCClient, args: argparse.Namespace) -> int:
    """Send a signal to a job."""
    RemoteJob(client.calls, args.job).signal(args.signal)
    return exits.OK


def jobs(client: VirtioRPCClient, args: argparse.Namespace) -> int:
    """List the jobs."""
    envelope = client.call("Job", "List")
    listed: list[Info] = envelope["data"]["jobs"]
    if args.raw:
        print_json(envelope)
        return exits.OK
    rows = []
    for info in listed:
        ended = info["state"] in _ENDED
        state = f"exit {info['exit_code']}" if ended else "running"
        started = time.strftime("%F %T", time.localtime(int(info["started_ms"]) / 1000))
        rows.append((info["job_id"], state, started, info["user"], info["command"]))
    print_table(("JOB", "STATE", "STARTED", "USER", "COMMAND"), rows)
    return exits.OK


def _common(args: argparse.Namespace) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if args.user:
        fields["user"] = args.user
    if args.env:
        fields["env"] = dict(_variable(text) for text in args.env)
    if args.memory:
        fields["memory_limit"] = args.memory
    if args.processes:
        fields["process_limit"] = args.processes
    return fields


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        if name not in os.environ:
            raise UsageError(f"--env {text}: there is no such variable here; write {text}=VALUE")
        return name, os.environ[name]
    return name, value


def _detached(client: VirtioRPCClient, fields: Mapping[str, Any], args: argparse.Namespace) -> int:
    if args.tty:
        fields = {**fields, "stdin": True, "terminal": _terminal()}
    job, info = RemoteJob.start(client.calls, fields)
    if args.raw:
        print_json(info)
    else:
        print_line(job.id)
    return exits.OK


def _attached(
    client: VirtioRPCClient, fields: dict[str, Any], terminal: bool, stdin: bool, timeout: float | None
) -> int:
    feed = stdin and _has_input()
    fields.update(stdin=feed or terminal, hold_output=True, log_size=HELD_SIZE)
    if terminal:
        fields["terminal"] = _terminal()
    job, info = RemoteJob.start(client.calls, fields)
    try:
        code = _follow(job, info, timeout, feed)
    except Left:
        complain("left", f"the job {job.id} goes on in the guest: attach to it, or kill it")
        return exits.OK
    except (KeyboardInterrupt, SystemExit, OSError):  # also where its output cannot be written
        _end(job)
        raise
    with contextlib.suppress(RPCError):
        job.forget()
    return code


def _follow(job: RemoteJob, info: Info, timeout: float | None, feed: bool) -> int:
    sink = _Sink()
    with _Interrupts(job), _Keyboard(job, info) if info["terminal"] else _Pipe(job, feed):
        info = job.follow(sink)
    if info["failure"]:
        complain("error", info["failure"])
        return exits.EXEC_BASE + exits.REMOTE
    if info["timed_out"]:
        seconds = f" after {timeout:g} s" if timeout else ""
        complain("error", f"the command timed out{seconds}, and was killed; give it more (--timeout, 0 for no limit)")
    elif info.get("out_of_memory"):  # no guest of before 0.2 says so
        complain("error", "the command used all the memory that it may have, and was killed; give it more (--memory)")
    elif info["signal"]:
        complain("warning", f"the command was killed by {info['signal']}")
    code = int(info["exit_code"]) & 0xFF
    return code or (exits.EXEC_BASE + exits.LOST_OUTPUT if sink.lost else exits.OK)


def _end(job: RemoteJob) -> None:
    try:
        job.forget(kill=True)
    except RPCError as error:
        complain("warning", f"the job {job.id} may go on in the guest: {error.message}")


def _terminal() -> dict[str, Any]:
    rows, columns = size()
    return {"rows": rows, "columns": columns, "type": os.environ.get("TERM") or "xterm"}


def _has_input() -> bool:
    """Whether there may be anything to read on stdin: not where it is closed, or /dev/null."""
    try:
        status = os.fstat(0)
    except OSError:
        return False
    return not (stat.S_ISCHR(status.st_mode) and status.st_rdev == os.stat(os.devnull).st_rdev)


class _Sink:
    """Writes output where it belongs, and tells what was lost of it."""

    def __init__(self) -> None:
        self.lost = 0

    def __call__(self, output: Output) -> None:
        if output.lost:
            self.lost += output.lost
            complain("warning", f"{output.lost} bytes of {output.name} were dropped in the guest before they were read")
        write_bytes(sys.stdout if output.name == "stdout" else sys.stderr, bytes(output.content))


class _Interrupts:
    """Ctrl-C goes to the job; the second one ends it, and us."""

    def __init__(self, job: RemoteJob) -> None:
        self._job = job
        self._before: Any = None

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGINT, self._on_interrupt)

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, self._before)
        threading.Thread(target=self._send, daemon=True).start()

    def _send(self) -> None:
        with contextlib.suppress(RPCError):
            self._job.signal("INT")


class _Pipe:
    """Gives the job what comes on stdin."""

    def __init__(self, job: RemoteJob, feed: bool) -> None:
        self._job = job
        self._feed = feed
        self._ended = False

    def __enter__(self) -> _Pipe:
        if self._feed:
            with contextlib.suppress(OSError):  # no pipe, or the user's have too much already
                fcntl.fcntl(0, _F_SETPIPE_SZ, _PIPE_SIZE)  # fewer, larger pieces
            threading.Thread(target=self._pump, name="vsrpc-stdin", daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        """The thread that may still read is left to the end of the process."""

    def _pump(self) -> None:
        try:
            self._job.feed(self._read, self._has_more)
        except RPCError as error:  # else the job has ended: whoever follows it notices
            if error.reason == "WRONG_STATE":
                complain("warning", f"what comes on standard input is not used: {error.message}")

    def _read(self) -> bytes:
        """What is there, once there is any."""
        content = b"" if self._ended else os.read(0, INPUT_SIZE)
        while content and len(content) < INPUT_SIZE and self._has_more():
            more = os.read(0, INPUT_SIZE - len(content))
            if not more:
                self._ended = True  # at a terminal it is said once
                break
            content += more
        return content

    def _has_more(self) -> bool:
        return bool(select.select([0], [], [], 0)[0])


class _Keyboard:
    """Gives the job what is typed, and the size of the terminal; `~.` leaves."""

    def __init__(self, job: RemoteJob, info: Info) -> None:
        self._job = job
        self._raw = RawMode()
        self._escapes = Escapes()
        self._wake_reader, self._wake_writer = os.pipe()

    def __enter__(self) -> _Keyboard:
        self._raw.__enter__()
        self._following = True
        self._leaving = signal.signal(signal.SIGUSR1, self._on_leave)
        self._resized = signal.signal(signal.SIGWINCH, lambda number, frame: os.write(self._wake_writer, b"w"))
        self._thread = threading.Thread(target=self._pump, name="vsrpc-keyboard", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: Any) -> None:
        self._following = False
        signal.signal(signal.SIGUSR1, self._leaving)
        signal.signal(signal.SIGWINCH, self._resized)
        os.write(self._wake_writer, b"e")
        self._thread.join()
        os.close(self._wake_reader)
        os.close(self._wake_writer)
        self._raw.__exit__(kind, error, tb)

    def _on_leave(self, number: int, frame: FrameType | None) -> None:
        if self._following:
            raise Left

    def _pump(self) -> None:
        while True:
            ready, _, _ = select.select([0, self._wake_reader], [], [])
            if self._wake_reader in ready:
                if b"e" in os.read(self._wake_reader, 64):
                    return
                with contextlib.suppress(RPCError):
                    self._job.resize(*size())
            if 0 in ready:
                typed = os.read(0, 4096)
                try:
                    with contextlib.suppress(RPCError):
                        self._job.write(self._escapes.filter(typed), eof=not typed)
                except Left:
                    os.kill(os.getpid(), signal.SIGUSR1)  # whatever the main thread waits for
                    return
                if not typed:
                    return
