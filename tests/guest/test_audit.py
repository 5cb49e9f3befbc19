"""The audit log: which calls leave a line, what it says, what it hides, and that it is not lost, forged or flooded."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from servicer_helpers import context

import vsrpc
from guest.audit import sink as sinks
from guest.audit.arguments import LONGEST, arguments
from guest.audit.log import _LONGEST_LINE, Audit
from guest.audit.redact import hide_in_line, hide_in_words
from guest.config import AllowedPath, AuditConfig, ConfigError, GuestConfig, LimitsConfig, SecurityConfig, ServerConfig
from guest.daemon import Daemon
from guest.files.sessions import UploadSessions
from vsrpc.context import ServicerContext
from vsrpc.deadline import Deadline
from vsrpc.dispatcher import Refusal
from vsrpc.errors import RpcError
from vsrpc.method import MethodDescriptor
from vsrpc.status import Code
from vsrpc.transports import listener
from vsrpc.v1 import file_pb2, service_pb2, shell_pb2, system_pb2
from vsrpc.v1.file_vsrpc import FileStub
from vsrpc.v1.service_vsrpc import ServiceManagerStub
from vsrpc.v1.shell_vsrpc import SHELL_SERVICE, ShellStub
from vsrpc.v1.system_vsrpc import SystemStub

REPOSITORY = Path(__file__).parents[2]
MIB = 1024 * 1024
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\Z")

Event = Any


class Served:
    """A daemon in this process that writes its audit log to a file."""

    def __init__(self, place: Path, **limits: Any) -> None:
        self.files = place / "files"
        self.files.mkdir()
        self.log = place / "audit" / "log"
        self.socket = f"{place}/sock"
        settings = GuestConfig(
            server=ServerConfig(max_request_size=MIB),
            security=SecurityConfig(allowed_paths=(AllowedPath(f"{place}/"),)),
            limits=LimitsConfig(**limits),
            audit=AuditConfig(file=str(self.log)),
        )
        self.daemon = Daemon(settings, "/no/such/file")
        self._thread = threading.Thread(target=self.daemon.serve, args=(listener(f"unix:{self.socket}"),))
        self._thread.start()
        self.channel = vsrpc.connect(f"unix:{self.socket}", vsrpc.ChannelOptions(max_retries=0))

    def call(self, function: Callable[[Served], Any]) -> str:
        """Make a call; how it ended."""
        try:
            function(self)
        except vsrpc.RpcError as failure:
            return failure.code().name
        return "OK"

    def raw(self, data: bytes) -> bytes:
        """Send bytes as a plain client, and read until the answer is there."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(30)
            client.connect(self.socket)
            client.sendall(data)
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += client.recv(65536)
            return answer

    def events(self) -> list[Event]:
        """What was written, without the start."""
        events = [json.loads(line) for line in self.log.read_text("ascii").splitlines()]
        assert events[0]["event"] == "start"
        return events[1:]

    def stop(self) -> None:
        self.channel.close()
        self.daemon.stop()
        self._thread.join()


@pytest.fixture
def make_served(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    made: list[Served] = []

    def make(**limits: Any) -> Served:
        made.append(Served(tmp_path, **limits))
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.fixture
def served(make_served: Callable[..., Served]) -> Served:
    return make_served()


def contains(whole: Any, part: Any) -> bool:
    """Whether all that `part` says is so in `whole`."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and contains(whole[key], part[key]) for key in part)
    return bool(whole == part)


def execute(**fields: Any) -> Callable[[Served], Any]:
    return lambda served: ShellStub(served.channel).Exec(shell_pb2.ExecRequest(**fields), timeout=60)


def upload(path: str, content: bytes = b"abc", **fields: Any) -> Callable[[Served], Any]:
    def call(served: Served) -> Any:
        there = path.replace("{files}", str(served.files))
        return FileStub(served.channel).Upload(
            file_pb2.UploadRequest(path=there, content=content, **fields), timeout=60
        )

    return call


def download(path: str) -> Callable[[Served], Any]:
    request = file_pb2.DownloadRequest(path=path)
    return lambda served: FileStub(served.channel).Download(request, timeout=60)


EXEC, UPLOAD, CONTROL = "/vsrpc.v1.Shell/Exec", "/vsrpc.v1.File/Upload", "/vsrpc.v1.ServiceManager/Control"
MD5 = "900150983cd24fb0d6963f7d28e17f72"


@pytest.mark.parametrize(
    ("call", "ends", "expected"),
    [
        (
            execute(command="echo hi && false", env={"LC_ALL": "C"}, timeout=5),
            "OK",
            [
                {"event": "begin", "rpc": EXEC, "args": {"command": "echo hi && false", "env": {"LC_ALL": "***"}}},
                {"event": "call", "decision": "allowed", "result": {"status": "OK", "exit_code": 1, "stdout_size": 3}},
            ],
        ),
        (
            execute(argv=["echo", "--password", "x"]),
            "OK",
            [{"event": "begin", "args": {"argv": ["echo", "--password", "***"]}}, {"result": {"exit_code": 0}}],
        ),
        (
            execute(command="rm -rf /x"),
            "PERMISSION_DENIED",
            [
                {
                    "event": "call",
                    "args": {"command": "rm -rf /x"},
                    "decision": "refused",
                    "result": {"status": "PERMISSION_DENIED", "reason": "PERMISSION_DENIED"},
                }
            ],
        ),
        (execute(command="echo 'x"), "INVALID_ARGUMENT", [{"decision": "refused", "args": {"command": "echo 'x"}}]),
        (
            execute(command="sleep 60", timeout=0.01),
            "DEADLINE_EXCEEDED",
            [{"event": "begin"}, {"decision": "allowed", "result": {"reason": "CMD_TIMEOUT"}}],
        ),
        (
            upload("{files}/f", mode="0600"),
            "OK",
            [
                {
                    "event": "call",
                    "rpc": UPLOAD,
                    "args": {"path": "{files}/f", "content": {"size": 3}, "mode": "0600"},
                    "decision": "allowed",
                    "result": {"status": "OK", "size": 3, "md5": MD5},
                }
            ],
        ),
        (upload("/etc/shadow"), "PERMISSION_DENIED", [{"args": {"path": "/etc/shadow"}, "decision": "refused"}]),
        (upload("{files}/no/f"), "NOT_FOUND", [{"decision": "allowed", "result": {"reason": "FILE_NOT_FOUND"}}]),
        (
            lambda served: ServiceManagerStub(served.channel).Control(
                service_pb2.ControlRequest(name="../x", action="start"), timeout=60
            ),
            "INVALID_ARGUMENT",
            [{"event": "call", "rpc": CONTROL, "args": {"name": "../x", "action": "start"}, "decision": "refused"}],
        ),
        # What only reads leaves no line, unless it is refused.
        (lambda served: SystemStub(served.channel).Ping(timeout=60), "OK", []),
        (lambda served: SystemStub(served.channel).Info(timeout=60), "OK", []),
        (
            lambda served: FileStub(served.channel).Stat(file_pb2.StatRequest(path="/etc/shadow"), timeout=60),
            "PERMISSION_DENIED",
            [{"rpc": "/vsrpc.v1.File/Stat", "args": {"path": "/etc/shadow"}, "decision": "refused"}],
        ),
        (
            download("/etc/hosts"),
            "PERMISSION_DENIED",
            [{"rpc": "/vsrpc.v1.File/Download", "decision": "refused"}],
        ),
    ],
)
def test_what_a_call_leaves(served: Served, call: Callable[..., Any], ends: str, expected: list[Event]) -> None:
    assert served.call(call) == ends
    events = served.events()
    assert len(events) == len(expected), events
    for event, part in zip(events, json.loads(json.dumps(expected).replace("{files}", str(served.files)))):
        assert contains(event, part), event
    if events:
        last = events[-1]
        assert TIME.match(last["time"])
        assert re.fullmatch(r"[0-9a-f]{32}", last["instance"])
        assert last["peer"].startswith("unix:")
        assert last["request_id"] in {event["request_id"] for event in events[:1]}
        assert last["duration_ms"] >= 0


def test_the_story_of_an_upload(served: Served) -> None:
    stub = FileStub(served.channel)
    content = os.urandom(100)
    begun = stub.InitUpload(file_pb2.InitUploadRequest(path=f"{served.files}/f", size=100), timeout=60)
    for start in range(0, 100, 10):
        part = file_pb2.UploadChunkRequest(
            session_id=begun.session_id, offset=start, content=content[start : start + 10]
        )
        stub.UploadChunk(part, timeout=60)
    finished = stub.FinishUpload(file_pb2.FinishUploadRequest(session_id=begun.session_id), timeout=60)
    first, second = served.events()
    short = begun.session_id[:8]
    assert contains(first, {"args": {"path": f"{served.files}/f", "size": 100}, "result": {"session_id": short}})
    result = {"path": f"{served.files}/f", "size": 100, "md5": finished.md5, "chunks_received": 10}
    assert contains(second, {"args": {"session_id": f"{short}"}, "result": result})
    assert begun.session_id not in served.log.read_text(), "it is the key to the upload"


def test_uploads_that_end_by_no_call(served: Served) -> None:
    begun = FileStub(served.channel).InitUpload(
        file_pb2.InitUploadRequest(path=f"{served.files}/f", size=9), timeout=60
    )
    served.stop()
    dropped, stop = served.events()[-2:]
    expected = {"path": f"{served.files}/f", "why": "the daemon stops", "size": 9, "received": 0}
    assert contains(dropped, {"event": "dropped", "session_id": begun.session_id[:8], **expected})
    assert stop["event"] == "stop"


def test_an_idle_upload_is_told_of() -> None:
    told: list[Any] = []
    sessions = UploadSessions(LimitsConfig(upload_idle=10), lambda: 0.0, on_dropped=lambda *what: told.append(what))

    class Target:
        spec = file_pb2.InitUploadRequest(path="/x")
        rule = ""
        resumable = False
        discarded = False

        def discard(self) -> None:
            self.discarded = True

    target: Any = Target()
    opened = sessions.open(target, 5, 1)
    sessions._clock = lambda: 11.0
    sessions.drop_idle()
    assert [(session_id, session.path, why) for session_id, session, why in told] == [(opened, "/x", "idle")]
    assert target.discarded
    sessions.stop()


def test_a_file_that_is_read_leaves_one_line_however_it_is_begun(served: Served) -> None:
    stub = FileStub(served.channel)
    for name in ("a", "b"):
        (served.files / name).write_bytes(bytes(300))
    for name, offset in [("a", 0), ("a", 100), ("a", 200), ("b", 100), ("b", 200), ("a", 0)]:
        request = file_pb2.DownloadChunkRequest(path=f"{served.files}/{name}", offset=offset, size=100)
        stub.DownloadChunk(request, timeout=60)
    read = [(event["args"]["path"][-1], event["args"].get("offset", 0)) for event in served.events()]
    assert read == [("a", 0), ("b", 100), ("a", 0)]
    assert served.events()[0]["result"] == {"status": "OK", "size": 100, "total_size": 300}


HTTP = "HTTP/1.1\r\nHost: g\r\n"


@pytest.mark.parametrize(
    ("data", "status", "expected"),
    [
        (f"POST /vsrpc.v1.Shell/Run {HTTP}\r\n", 404, {"rpc": "/vsrpc.v1.Shell/Run", "http_method": "POST"}),
        (f"GET /x%0Aforged {HTTP}\r\n", 404, {"rpc": "/x%0Aforged", "result": {"reason": "ENDPOINT_NOT_FOUND"}}),
        (f"GET /api/v1/shell/exec {HTTP}\r\n", 405, {"result": {"reason": "METHOD_NOT_ALLOWED"}}),
        (
            f"POST /api/v1/shell/exec {HTTP}Content-Type: application/json\r\nContent-Length: 3\r\n\r\n{{x}}",
            400,
            {"result": {"reason": "JSON_PARSE_ERROR"}},
        ),
        (f"POST {EXEC} {HTTP}Content-Length: 999999999\r\n\r\n", 413, {"rpc": EXEC, "result": {"reason": "TOO_LARGE"}}),
        (f"TRACE / {HTTP}\r\n", 501, {"http_method": "TRACE"}),
        ("GET / HTTP/1.1\n\n", 400, {"result": {"reason": "PROTOCOL_ERROR"}}),
        (f"POST {EXEC} {HTTP}Connect-Timeout-Ms: soon\r\n\r\n", 400, {"result": {"reason": "INVALID_PARAMS"}}),
        (
            f"POST {EXEC} {HTTP}Idempotency-Key: a b\r\nContent-Length: 0\r\n\r\n",
            400,
            {"rpc": EXEC, "result": {"reason": "INVALID_PARAMS"}},
        ),
    ],
)
def test_what_reaches_no_servicer(served: Served, data: str, status: int, expected: Event) -> None:
    assert served.raw(data.encode()).startswith(f"HTTP/1.1 {status} ".encode())
    (event,) = served.events()
    assert contains(event, {"event": "call", "decision": "refused", **expected}), event
    assert event["result"]["message"]


def test_rest_calls_are_named_by_their_rpc(served: Served) -> None:
    body = b'{"command": "echo hi"}'
    head = f"POST /api/v1/shell/exec {HTTP}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    assert b"200 OK" in served.raw(f"{head}X-Request-ID: my-id\r\n\r\n".encode() + body)
    assert [(event["event"], event["rpc"], event["request_id"]) for event in served.events()] == [
        ("begin", EXEC, "my-id"),
        ("call", EXEC, "my-id"),
    ]


# -- one event is one line


@pytest.mark.parametrize(
    "name",
    [
        "a\n{}",
        "a\r\n{}",
        "a\x1b[2J",
        "a\x7f\x08",
        'a","decision":"allowed',
        "a\u2028\u202e\x85b",
        "\u4e2d\u6587",
        "a\\n",
    ],
)
def test_no_line_is_forged(served: Served, name: str) -> None:
    assert served.call(upload(f"/etc/{name}")) == "PERMISSION_DENIED"
    data = served.log.read_bytes()
    assert data.count(b"\n") == 2
    assert set(data) <= set(range(0x20, 0x7F)) | {0x0A}
    (event,) = served.events()
    assert (event["decision"], event["args"]["path"]) == ("refused", f"/etc/{name}")


def test_a_name_that_is_no_unicode_is_shown() -> None:
    lines: list[str] = []
    audit = audit_to(lines)
    audit.event("dropped", path=os.fsdecode(b"/tmp/\xff\n"))
    assert json.loads(lines[0])["path"] == "/tmp/\\udcff\n"


# -- what is hidden, and what is cut


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("ls -la /tmp", "ls -la /tmp"),
        ("mkdir -p /tmp/x; ps -p 1; ls -c x; ping -c 3 h", "mkdir -p /tmp/x; ps -p 1; ls -c x; ping -c 3 h"),
        ("echo 'a  b'  \"c\"", "echo 'a  b'  \"c\""),
        ("x --password=s3cret y", "x --password=*** y"),
        ("x --password s3cret y", "x --password *** y"),
        ("x --password='my s3cret' y", "x --password=*** y"),
        ('x "--api-key=my s3cret"', "x --api-key=***"),
        ("x --db-passwd s3cret", "x --db-passwd ***"),
        ("x --auth-token s3cret|cat", "x --auth-token ***|cat"),
        ("java -storepass s3cret", "java -storepass ***"),
        ("x --password-stdin y --no-password z", "x --password-stdin y --no-password z"),
        ("PGPASSWORD=s3cret psql -c x", "PGPASSWORD=*** psql -c x"),
        ("AWS_SECRET_ACCESS_KEY=s3cret PWD=/x a", "AWS_SECRET_ACCESS_KEY=*** PWD=/x a"),
        ("MYSQL_PWD=s3cret a", "MYSQL_PWD=*** a"),
        ("curl -H 'Authorization: Bearer s3cret' u", "curl -H 'Authorization: ***' u"),
        ("curl -H X-Auth-Token:s3cret u", "curl -H 'X-Auth-Token: ***' u"),
        ("wget https://me:s3cret@host/x", "wget https://me:***@host/x"),
        ("curl -u me:s3cret h", "curl -u *** h"),
        ("curl -ume:s3cret h", "curl -u*** h"),
        ("mysql -u root -ps3cret db", "mysql -u root -p*** db"),
        ("/usr/bin/mysql -p db", "/usr/bin/mysql -p db"),
        ("sshpass -p s3cret ssh h; mkdir -p d", "sshpass -p *** ssh h; mkdir -p d"),
        ("sh -c 'PGPASSWORD=s3cret psql; rm -rf /'", "sh -c 'PGPASSWORD=*** psql; rm -rf /'"),
        ("sh -c \"mysql -p's3cret' x\"", "sh -c 'mysql -p*** x'"),
        ("su - u -c 'x --password=\"my s3cret\" y'", "su - u -c 'x --password=*** y'"),
        ("x 'unclosed --token s3cret", "x 'unclosed --token ***'"),
        ("--token", "--token"),
        ("", ""),
    ],
)
def test_secrets_of_a_command_line(line: str, shown: str) -> None:
    assert hide_in_line(line) == shown
    assert "s3cret" not in shown


def test_secrets_of_arguments() -> None:
    words = ["psql", "--password", "a b", "PGPASSWORD=a b", "-x", "Cookie: a b", "sh", "-c", "TOKEN=s x; id"]
    shown = ["psql", "--password", "***", "PGPASSWORD=***", "-x", "Cookie: ***", "sh", "-c", "TOKEN=*** x; id"]
    assert hide_in_words(words) == shown


def test_values_of_variables_are_never_shown() -> None:
    shown = arguments(shell_pb2.ExecRequest(env={"A": "s3cret", "B" * 9000: "s3cret"}))
    assert "s3cret" not in str(shown)
    assert list(shown["env"].values()) == ["***", "***"]


def test_long_values_are_cut_and_tell_their_length() -> None:
    shown = arguments(shell_pb2.ExecRequest(command="echo " + "x" * 100_000, argv=["y"] * 500, timeout=float("nan")))
    assert shown["command"] == "echo " + "x" * (LONGEST - 5) + "... (100005 characters)"
    assert (len(shown["argv"]), shown["argv"][-1]) == (65, "... (500 in all)")
    assert shown["timeout"] == "nan"


def test_no_request_makes_a_line_that_a_log_cuts() -> None:
    """The journal cuts what is longer than 48 KiB."""
    lines: list[str] = []
    audit = audit_to(lines)
    for text in ("x" * 50_000, "\x01" * 50_000, "\U0001f600" * 50_000, "'\"\\" * 20_000, "'" * 50_000, "a=" * 30_000):
        env = {f"{number:05}{text}": text for number in range(100)}
        request = shell_pb2.ExecRequest(command=text, argv=[text] * 100, working_dir=text, env=env)
        call = ServicerContext(EXEC, "1" * 128, Deadline(None), peer="unix:x")
        audit(lambda request, context: shell_pb2.ExecResponse(), request, call)
        assert len(lines[-1]) < _LONGEST_LINE
        assert json.loads(lines[-1])["args"]["command"].endswith("characters)")


# -- refusals that come in floods


def audit_to(lines: list[str], clock: Callable[[], float] = lambda: 0.0) -> Audit:
    class Sink:
        def write(self, line: str) -> bool:
            lines.append(line)
            return True

        def close(self) -> None:
            pass

    methods: dict[str, MethodDescriptor[Any, Any]] = {method.path: method for method in SHELL_SERVICE.methods}
    return Audit(Sink(), "i", methods.get, clock)


def test_a_flood_of_refusals_is_counted_and_hides_nothing_else() -> None:
    lines: list[str] = []
    now = [0.0]
    audit = audit_to(lines, lambda: now[0])
    early = Refusal("POST", context(), RpcError(Code.UNAUTHENTICATED, "who are you?", reason="UNAUTHENTICATED"))
    for _ in range(1000):
        audit.refused(early)
    assert len(lines) == 100
    denied = RpcError(Code.PERMISSION_DENIED, "no", reason="PERMISSION_DENIED", data={"rule": "the rule"})

    def refuse(request: Any, context: Any) -> Any:
        raise denied

    with pytest.raises(RpcError):
        audit(refuse, shell_pb2.ExecRequest(command="rm"), ServicerContext(EXEC, "1", Deadline(None)))
    event = json.loads(lines[-1])
    assert (event["decision"], event["rule"], event["args"]) == ("refused", "the rule", {"command": "rm"})
    now[0] += 1
    for _ in range(1000):
        audit.refused(early)
    assert len(lines) == 106, "five a second"
    audit.close()
    assert contains(json.loads(lines[-2]), {"event": "omitted", "refused": 1895})


@pytest.mark.parametrize("code", [Code.DEADLINE_EXCEEDED, Code.CANCELLED, Code.UNAVAILABLE])
def test_who_came_too_late_was_not_refused(code: Code) -> None:
    lines: list[str] = []
    audit_to(lines).refused(Refusal("POST", context(), RpcError(code, "late")))
    assert lines == []


def test_what_others_say_of_a_call() -> None:
    """Authentication notes the key, the policy its rule."""
    lines: list[str] = []
    audit = audit_to(lines)

    def serve(request: Any, context: ServicerContext) -> Any:
        context.notes["rule"] = "allowed_commands: id"
        context.begins()
        return shell_pb2.ExecResponse()

    call = ServicerContext(EXEC, "1", Deadline(None))
    call.key = "admin"
    audit(serve, shell_pb2.ExecRequest(command="id"), call)
    assert [json.loads(line)["event"] for line in lines] == ["begin", "call"]
    for line in lines:
        assert contains(json.loads(line), {"key": "admin", "rule": "allowed_commands: id"})


def test_a_servicer_that_fails_leaves_a_line() -> None:
    lines: list[str] = []

    def crash(request: Any, context: Any) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        audit_to(lines)(crash, shell_pb2.ExecRequest(command="x"), ServicerContext(EXEC, "1", Deadline(None)))
    expected = {"args": {"command": "x"}, "decision": "allowed", "result": {"status": "INTERNAL"}}
    assert contains(json.loads(lines[0]), expected)


# -- the file


def test_the_file_is_private_and_callers_cannot_touch_it(served: Served) -> None:
    assert stat.S_IMODE(served.log.stat().st_mode) == 0o600
    assert stat.S_IMODE(served.log.parent.stat().st_mode) == 0o700
    for name in ("log", "log.1"):
        assert served.call(upload(f"{served.log.parent}/{name}")) == "PERMISSION_DENIED"
        assert served.call(download(f"{served.log.parent}/{name}")) == "PERMISSION_DENIED"
    assert served.call(execute(command=f"cat {served.log}")) == "PERMISSION_DENIED"
    assert len(served.events()) == 5


@pytest.fixture
def file_sink(tmp_path: Path) -> Iterator[Callable[..., sinks.FileSink]]:
    made: list[sinks.FileSink] = []

    def make(max_size: int = 1000, backup_count: int = 2) -> sinks.FileSink:
        made.append(sinks.FileSink(str(tmp_path / "audit.log"), max_size, backup_count))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize(("backups", "kept"), [(2, "CBA"), (1, "CB"), (0, "C")])
def test_it_is_rotated(file_sink: Callable[..., sinks.FileSink], tmp_path: Path, backups: int, kept: str) -> None:
    sink = file_sink(backup_count=backups)
    for letter in "ABC":
        for _ in range(9):
            assert sink.write(letter * 100)
    names = ["audit.log", *(f"audit.log.{number}" for number in range(1, backups + 1))]
    assert sorted(os.listdir(tmp_path)) == names
    for name, letter in zip(names, kept):
        assert (tmp_path / name).read_text() == (letter * 100 + "\n") * 9
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_it_is_made_anew_when_it_was_moved_away(file_sink: Callable[..., sinks.FileSink], tmp_path: Path) -> None:
    sink = file_sink()
    sink.write("one")
    (tmp_path / "audit.log").rename(tmp_path / "moved")
    sink.write("two")
    (tmp_path / "audit.log").unlink()
    sink.write("three")
    assert (tmp_path / "moved").read_text() == "one\n"
    assert (tmp_path / "audit.log").read_text() == "three\n"


def test_it_is_appended_to(file_sink: Callable[..., sinks.FileSink], tmp_path: Path) -> None:
    file_sink().write("one")
    file_sink().write("two")
    assert (tmp_path / "audit.log").read_text() == "one\ntwo\n"


def test_a_full_disk_stops_nothing_and_is_told(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real_write = os.write
    full = True

    def write(fd: int, data: bytes) -> int:
        if full and os.readlink(f"/proc/self/fd/{fd}") == str(served.log):
            return real_write(fd, data[:10])
        return real_write(fd, data)

    monkeypatch.setattr(os, "write", write)
    assert served.call(upload("/etc/x")) == "PERMISSION_DENIED"
    (record,) = [record for record in caplog.records if record.name == "audit" and record.levelname == "ERROR"]
    assert f"cannot write {served.log}" in record.getMessage()
    assert '"path":"/etc/x"' in record.getMessage()
    full = False
    assert served.call(upload("/etc/y")) == "PERMISSION_DENIED"
    lines = served.log.read_text().splitlines()
    assert lines[1] == '{"time":"2', "what was torn is a line of its own"
    assert contains(json.loads(lines[2]), {"event": "gap", "lost": 1})
    assert contains(json.loads(lines[3]), {"args": {"path": "/etc/y"}})


def test_one_that_cannot_be_rotated_is_written_all_the_same(
    file_sink: Callable[..., sinks.FileSink], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Append-only by chattr(1), for example."""

    def rename(source: str, target: str) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "rename", rename)
    sink = file_sink()
    for _ in range(20):
        assert sink.write("x" * 100)
    assert (tmp_path / "audit.log").stat().st_size == 2020


@pytest.mark.parametrize("path", ["/proc/nothing/audit.log", "/dev/null", "{tmp}", "{tmp}/link"])
def test_one_that_cannot_be_written_stops_the_daemon(tmp_path: Path, path: str) -> None:
    (tmp_path / "link").symlink_to("/etc/hosts")
    with pytest.raises(ConfigError, match=r"audit\.file: cannot write "):
        sinks.FileSink(path.replace("{tmp}", str(tmp_path)), 1000, 1)


def test_the_program_says_so(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("audit:\n  file: /proc/nothing/audit.log\n")
    done = subprocess.run(
        [sys.executable, "-m", "guest", "--config", str(tmp_path / "c"), "--listen", f"unix:{tmp_path}/s"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, "audit.file: cannot write /proc/nothing/audit.log" in done.stderr) == (78, True)


@contextlib.contextmanager
def program(tmp_path: Path, settings: str) -> Iterator[subprocess.Popen[str]]:
    """The daemon as a program of its own, once it serves."""
    (tmp_path / "c").write_text(settings)
    command = [sys.executable, "-m", "guest", "--config", str(tmp_path / "c"), "--listen", f"unix:{tmp_path}/s"]
    with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True) as process:
        try:
            while not listens(tmp_path / "s"):
                assert process.poll() is None
                time.sleep(0.01)
            yield process
        finally:
            process.kill()


def listens(path: Path) -> bool:
    """Whether somebody does: a socket's file is there a moment before."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def test_without_a_file_the_daemons_log_has_it_whatever_its_level(tmp_path: Path) -> None:
    with program(tmp_path, "logging: {level: ERROR}\n") as process, vsrpc.connect(f"unix:{tmp_path}/s") as channel:
        with pytest.raises(vsrpc.RpcError):
            ShellStub(channel).Exec(shell_pb2.ExecRequest(command="rm x"), timeout=60)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        lines = [line.partition(" INFO audit: ")[2] for line in process.stderr]
    assert [json.loads(line)["event"] for line in lines] == ["start", "call", "stop"]


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    with program(tmp_path, "logging: {level: ERROR}\naudit: {enabled: false}\n") as process:
        with vsrpc.connect(f"unix:{tmp_path}/s") as channel:
            assert SystemStub(channel).Ping(system_pb2.PingRequest(), timeout=60).message == "pong"
            with pytest.raises(vsrpc.RpcError):
                ShellStub(channel).Exec(shell_pb2.ExecRequest(command="rm x"), timeout=60)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_command_that_kills_the_daemon_is_known(tmp_path: Path) -> None:
    settings = f"security: {{allowed_commands: null}}\naudit: {{file: {tmp_path}/audit.log}}\n"
    with program(tmp_path, settings) as process, vsrpc.connect(f"unix:{tmp_path}/s") as channel:
        call = ShellStub(channel).Exec.future(shell_pb2.ExecRequest(command="kill -9 $PPID"), timeout=60)
        process.wait(60)
        call.cancel()
    last = json.loads((tmp_path / "audit.log").read_text().splitlines()[-1])
    assert contains(last, {"event": "begin", "args": {"command": "kill -9 $PPID"}})


def test_calls_for_many_files_leave_their_names_and_how_many_were_refused(served: Served) -> None:
    stub = FileStub(served.channel)
    names = [b"a", b"\xff", b".ssh/id_rsa", b"missing"]
    (served.files / ".ssh").mkdir()
    (served.files / ".ssh" / "id_rsa").write_bytes(b"x")
    files = [file_pb2.NewFile(name=name, size=1) for name in names[:3]]
    stub.WriteFiles(file_pb2.WriteFilesRequest(path=str(served.files), files=files, content=b"xxx"))
    stub.ReadFiles(file_pb2.ReadFilesRequest(path=str(served.files), names=names))
    stub.Remove(file_pb2.RemoveRequest(path_bytes=os.fsencode(served.files) + b"/\xff"))
    wrote, read, removed = served.events()
    assert [each["name"] for each in wrote["args"]["files"]] == ["a", "\\xff", ".ssh/id_rsa"]
    assert (wrote["result"], wrote["args"]["content"]) == ({"status": "OK", "written": 2, "refused": 1}, {"size": 3})
    assert read["args"]["names"] == ["a", "\\xff", ".ssh/id_rsa", "missing"]
    assert read["result"] == {"status": "OK", "refused": 1, "failed": 1}
    assert removed["args"]["path_bytes"] == f"{served.files}/\\xff"
    assert all(each["rule"].startswith("security.allowed_paths") for each in (wrote, read))


def test_a_file_without_a_path_that_is_text_is_read_by_a_name_of_its_own(served: Served) -> None:
    stub = FileStub(served.channel)
    for name in (b"\xff", b"\xfe"):
        path = os.fsencode(served.files) + b"/" + name
        with open(path, "wb") as file:
            file.write(bytes(300))
        stub.DownloadChunk(file_pb2.DownloadChunkRequest(path_bytes=path, offset=100))
    assert len(served.events()) == 2
