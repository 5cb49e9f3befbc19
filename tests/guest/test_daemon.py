"""The daemon as a program: how it starts, what it logs, and how it ends."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import pty
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Iterator

import file_systems
import pytest

import guest.daemon
import vsrpc
from guest import logging_setup
from guest.config import AllowedPath, GuestConfig, LoggingConfig, SecurityConfig
from guest.memory import give_back
from vsrpc._version import __version__
from vsrpc.transports import listener
from vsrpc.v1 import file_pb2, shell_pb2, system_pb2
from vsrpc.v1.file_vsrpc import FileStub
from vsrpc.v1.shell_vsrpc import ShellStub
from vsrpc.v1.system_vsrpc import SystemStub

START = [sys.executable, "-m", "guest"]
REPOSITORY = Path(__file__).parents[2]


class Daemon:
    """A running daemon. A thread takes its log, so that it never waits for the test to read it."""

    def __init__(self, *options: str) -> None:
        self.process = subprocess.Popen(
            [*START, *options], cwd=REPOSITORY, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, encoding="utf-8"
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_for(self, pattern: str) -> str:
        """The log up to, and with, the first line that matches."""
        seen = ""
        while True:
            line = self._lines.get(timeout=30)
            seen += line
            assert line, f"the log ended without {pattern!r}:\n{seen}"
            if re.search(pattern, line):
                return seen

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; returns the exit code and the rest of the log."""
        self.process.send_signal(number)
        code = self.process.wait(timeout=30)
        self._reader.join()
        rest = "".join(iter(self._lines.get, ""))
        return code, rest

    def kill(self) -> None:
        """End it whatever it does."""
        self.process.kill()
        self.process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as log:
            for line in log:
                self._lines.put(line)
        self._lines.put("")


@contextlib.contextmanager
def daemon(*options: str) -> Iterator[Daemon]:
    running = Daemon(*options)
    try:
        yield running
    finally:
        running.kill()


def run(*options: str) -> subprocess.CompletedProcess[str]:
    """Run a daemon that is to end by itself."""
    return subprocess.run([*START, *options], cwd=REPOSITORY, capture_output=True, encoding="utf-8", timeout=60)


def config(tmp_path: Path, content: str = "") -> str:
    path = tmp_path / "guest.yaml"
    path.write_text(content or f"security:\n  allowed_paths: ['{tmp_path}/files/']\n")
    (tmp_path / "files").mkdir(exist_ok=True)
    return str(path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_all_services_and_ends_cleanly(tmp_path: Path, number: int) -> None:
    path = tmp_path / "port.sock"
    with daemon("--listen", f"unix:{path}", "--config", config(tmp_path)) as running:
        running.wait_for(r"serves unix:")
        assert path.stat().st_mode & 0o777 == 0o600
        with vsrpc.connect(f"unix:{path}") as channel:
            assert SystemStub(channel).Ping(system_pb2.PingRequest(), timeout=10).message == "pong"
            assert ShellStub(channel).Exec(shell_pb2.ExecRequest(command="echo hi"), timeout=10).stdout == b"hi\n"
            upload = file_pb2.InitUploadRequest(path=f"{tmp_path}/files/f", size=10)
            session = FileStub(channel).InitUpload(upload, timeout=10).session_id
            part = file_pb2.UploadChunkRequest(session_id=session, offset=0, content=b"half")
            FileStub(channel).UploadChunk(part, timeout=10)
        code, log = running.end(number)
    assert code == 0
    assert "stopping" in log
    assert not path.exists()
    assert os.listdir(tmp_path / "files") == []


def test_a_signal_that_another_thread_gets_ends_it_too(tmp_path: Path) -> None:
    """The kernel may hand a signal to any thread, at any moment: also just before the main thread begins to wait."""
    path = tmp_path / "port.sock"
    with daemon("--listen", f"unix:{path}", "--config", config(tmp_path)) as running:
        running.wait_for(r"serves unix:")
        pid = running.process.pid
        others = [int(name) for name in os.listdir(f"/proc/{pid}/task") if int(name) != pid]
        assert ctypes.CDLL(None, use_errno=True).tgkill(pid, others[0], int(signal.SIGTERM)) == 0
        assert running.process.wait(timeout=30) == 0


def test_running_commands_end_with_it(tmp_path: Path) -> None:
    path = tmp_path / "port.sock"
    content = f"security:\n  allowed_paths: ['{tmp_path}/files/']\n  allowed_commands: null\n"
    with daemon("--listen", f"unix:{path}", "--config", config(tmp_path, content)) as running:
        assert "callers may run any command" in running.wait_for(r"serves unix:")
        with vsrpc.connect(f"unix:{path}") as channel:
            command = f"echo $$ > {tmp_path}/files/new; mv {tmp_path}/files/new {tmp_path}/files/pid; exec sleep 1000"
            call = ShellStub(channel).Exec.future(shell_pb2.ExecRequest(command=command, timeout=600), timeout=600)
            while not (tmp_path / "files/pid").exists():
                SystemStub(channel).Ping(system_pb2.PingRequest(), timeout=10)
            code, _ = running.end()
            assert call.exception() is not None
    assert code == 0
    assert not os.path.exists(f"/proc/{(tmp_path / 'files/pid').read_text().strip()}")


def test_callers_cannot_touch_the_daemon_itself(tmp_path: Path) -> None:
    """Even where everything is allowed: its configuration and its program."""
    path = tmp_path / "port.sock"
    settings = config(tmp_path, "security:\n  allowed_paths: [/]\n")
    with daemon("--listen", f"unix:{path}", "--config", settings) as running:
        running.wait_for(r"serves unix:")
        with vsrpc.connect(f"unix:{path}") as channel:
            program = [f"{REPOSITORY}/{name}" for name in ("guest/daemon.py", "vsrpc/new.py", "yaml.py")]
            modules = [f"{place}/yaml.py" for place in sys.path if place.endswith("-packages")]
            assert modules
            for target in (settings, *program, *modules, f"{sys.base_prefix}/x", "/opt/vsrpc/current"):
                with pytest.raises(vsrpc.RpcError) as caught:
                    FileStub(channel).Upload(file_pb2.UploadRequest(path=target, content=b"x"), timeout=10)
                assert caught.value.code() is vsrpc.Code.PERMISSION_DENIED
                assert "the daemon's " in caught.value.details()
        assert running.end()[0] == 0


def test_what_is_logged(tmp_path: Path) -> None:
    path = tmp_path / "port.sock"
    with daemon("--listen", f"unix:{path}", "--config", config(tmp_path)) as running:
        running.wait_for(r"serves unix:")
        with vsrpc.connect(f"unix:{path}") as channel:
            SystemStub(channel).Ping(system_pb2.PingRequest(), timeout=10)
            SystemStub(channel).Info(system_pb2.InfoRequest(), timeout=10)
            log = running.wait_for("System/Info")
            line = log.splitlines()[-1]
            assert re.search(r" INFO guest\.daemon: /vsrpc\.v1\.System/Info \[[^]]+\] [0-9.]+ ms OK$", line)
            assert "Ping" not in log, "what comes by the thousand is not logged"
            with pytest.raises(vsrpc.RpcError):
                FileStub(channel).Download(file_pb2.DownloadRequest(path="/x\nforged"), timeout=10)
            line = running.wait_for("Download").splitlines()[-1]
            assert re.search(r"PERMISSION_DENIED: Path not in allowed list: /x\\nforged \(", line)
        assert running.end()[0] == 0


def test_one_event_is_one_line_in_the_log(tmp_path: Path) -> None:
    path = tmp_path / "guest.log"
    handler = logging_setup._file_handler(str(path), LoggingConfig())
    try:
        handler.handle(logging.makeLogRecord({"msg": "%s", "args": ("one\n2000-01-01 INFO\x1b[2J forged",)}))
    finally:
        handler.close()
    (line,) = path.read_text().splitlines()
    assert line.endswith("one\\n2000-01-01 INFO\\x1b[2J forged")


def test_stopping_removes_named_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system cannot do without names, the end of the process would leave them behind."""
    file_systems.pretend("named", monkeypatch)
    files = tmp_path / "files"
    files.mkdir()
    made = guest.daemon.Daemon(
        GuestConfig(security=SecurityConfig(allowed_paths=(AllowedPath(f"{files}/"),))), "/no/such/file"
    )
    thread = threading.Thread(target=made.serve, args=(listener(f"unix:{tmp_path}/sock"),))
    thread.start()
    try:
        with vsrpc.connect(f"unix:{tmp_path}/sock") as channel:
            FileStub(channel).InitUpload(file_pb2.InitUploadRequest(path=f"{files}/f", size=10), timeout=10)
            assert [name[:14] for name in os.listdir(files)] == [".vsrpc-upload-"]
    finally:
        made.stop()
        thread.join()
    assert os.listdir(files) == []


def test_a_log_file_is_rotated_and_private(tmp_path: Path) -> None:
    log = tmp_path / "guest.log"
    content = f"logging: {{level: debug, file: '{log}', max_size: 64K, backup_count: 2}}\n"
    path = tmp_path / "port.sock"
    with daemon("--listen", f"unix:{path}", "--config", config(tmp_path, content), "--debug") as running:
        running.wait_for(r"serves unix:")  # --debug logs on standard error as well
        with vsrpc.connect(f"unix:{path}") as channel:
            for _ in range(60):
                with contextlib.suppress(vsrpc.RpcError):
                    FileStub(channel).Download(file_pb2.DownloadRequest(path="/" + "x" * 4000), timeout=10)
        assert running.end()[0] == 0
    files = sorted(tmp_path.glob("guest.log*"))
    assert [file.name for file in files] == ["guest.log", "guest.log.1", "guest.log.2"]
    for file in files:
        assert file.stat().st_size <= 65536
        assert file.stat().st_mode & 0o777 == 0o640


def test_a_device_is_waited_for(tmp_path: Path) -> None:
    """It appears later, as a port that is plugged in; a terminal's end stands for it."""
    device = tmp_path / "port"
    with daemon("--device", str(device), "--config", config(tmp_path)) as running:
        running.wait_for(r"waiting for it")
        main, other = pty.openpty()
        try:
            device.symlink_to(os.ttyname(other))
            running.wait_for(r"port: opened")
            assert running.end()[0] == 0
        finally:
            os.close(main)
            os.close(other)


def test_a_socket_that_is_in_use_and_one_that_was_left(tmp_path: Path) -> None:
    path = tmp_path / "port.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen(1)
        failed = run("--listen", f"unix:{path}", "--config", config(tmp_path))
        assert failed.returncode == 1
        assert f"cannot serve unix:{path}" in failed.stderr
        assert "another process listens" in failed.stderr
        assert path.exists()
    with daemon("--listen", f"unix:{path}", "--config", config(tmp_path)) as running:
        running.wait_for(r"serves unix:")
        with vsrpc.connect(f"unix:{path}") as channel:
            SystemStub(channel).Ping(system_pb2.PingRequest(), timeout=10)
        assert running.end()[0] == 0


@pytest.mark.parametrize(
    ("options", "settings", "code", "message"),
    [
        (["--nonsense"], "", 2, "unrecognized arguments: --nonsense"),
        (["--listen", "/tmp/x"], "", 2, "'/tmp/x' is not unix:PATH or vsock:PORT"),
        (["--listen", "unix:/x", "--device", "/y"], "", 2, "not allowed with argument"),
        (["--listen", "vsock:web"], "security: {enable_auth: false}\n", 2, "write vsock:PORT with a number"),
        (["--listen", "unix:/no/such/place/x.sock"], "", 1, "cannot serve unix:/no/such/place/x.sock: "),
        (["--device", "/etc/hosts"], "", 1, "cannot serve /etc/hosts: not a character device"),
        (["--config", "/no/such.yaml"], None, 78, "/no/such.yaml: cannot read this configuration file: No such file"),
        ([], "server:\n  max_request_size: ten\n", 78, "guest.yaml:2: server.max_request_size: 'ten' is not"),
        (
            [],
            "security: {enable_auth: true, key_file: /no/keys}\n",
            78,
            "guest.yaml: security.key_file: /no/keys: cannot",
        ),
        (["--listen", "vsock:7000"], "security: {key_file: /no/keys}\n", 78, "any program of the host can connect"),
        ([], "logging:\n  file: /no/such/place/log\n", 78, ": logging.file: cannot write /no/such/place/log: No such"),
    ],
)
def test_what_keeps_it_from_starting(
    tmp_path: Path, options: list[str], settings: str | None, code: int, message: str
) -> None:
    given = [] if settings is None else ["--config", config(tmp_path, settings)]
    ended = run(*given, *options)
    assert ended.returncode == code, ended.stderr
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_version_and_help() -> None:
    assert run("--version").stdout == f"vsrpc-guest {__version__}\n"
    told = run("--help").stdout
    for word in ("--device", "--config", "--listen", "--debug", "exit codes:", "78"):
        assert word in told


def test_an_idle_daemon_keeps_nothing_that_is_not_used() -> None:
    class Cycle:
        def __init__(self) -> None:
            self.content = bytearray(1 << 20)
            self.myself = self

    gone = weakref.ref(Cycle())
    give_back()
    assert gone() is None
