"""The command line before a guest that means harm: nothing that it says is obeyed by the terminal, no file is left half
written, and whatever it answers, the program ends with one line."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from host_peers import answer, serving

from host.cli.output import printable
from vsrpc.v1.file_pb2 import DownloadChunkResponse, UploadResponse
from vsrpc.v1.job_pb2 import JobForgetResponse, JobInfo, JobReadResponse, JobStartResponse
from vsrpc.v1.service_pb2 import ControlResponse
from vsrpc.v1.system_pb2 import PingResponse

EVIL = "a\x1b]0;owned\x07\x9b31m\x7f\u202eb\u2066"
"""Sets the window's title, colours, deletes, and reorders text."""

OBEYED = [b"\x1b", b"\x07", b"\x7f", b"\xc2\x9b", b"\xe2\x80\xae", b"\xe2\x81\xa6"]


def run(behave: Any, directory: Path, *argv: str) -> subprocess.CompletedProcess[bytes]:
    environment = {k: v for k, v in os.environ.items() if k != "VIRTIO_SOCKET"}
    environment["XDG_CONFIG_HOME"] = str(directory)
    with serving(directory / "s", behave) as path:
        done = subprocess.run(
            [sys.executable, "-m", "host", "-s", path, "-t", "20", *argv],
            env={**environment, "PYTHONPATH": os.getcwd()},
            cwd=directory,
            capture_output=True,
            timeout=60,
        )
    (directory / "s").unlink()
    return done


def envelope(**data: object) -> bytes:
    return json.dumps({"code": 0, "message": "", "timestamp": 0, "data": data}).encode()


def proto(message: Any) -> tuple[bytes, bytes]:
    return b"application/proto", message.SerializeToString()


MD5 = hashlib.md5(b"x").hexdigest()
JSON = b"application/json"
ERROR = json.dumps({"code": "not_found", "message": EVIL}).encode()


@pytest.mark.parametrize(
    ("behave", "argv", "code"),
    [
        (answer(*proto(PingResponse(message=EVIL))), ["ping"], 0),
        (answer(*proto(ControlResponse(status=EVIL))), ["service", "x", "status"], 0),
        (answer(*proto(UploadResponse(path=EVIL, size=1, md5=MD5))), ["upload", "one", "/tmp/x"], 0),
        (answer(JSON, ERROR, status=b"404 Not Found"), ["ping"], 5),
        (answer(JSON, ERROR, status=b"404 Not Found"), ["-d", "ping"], 5),
        (answer(JSON, ERROR, status=b"404 Not Found"), ["doctor"], 5),
        (answer(JSON, envelope(message=EVIL)), ["--json", "ping"], 0),
        (answer(JSON, envelope(message="\ud800 \udc80")), ["--json", "ping"], 0),
        (answer(JSON, json.dumps({"code": 3002, "message": EVIL + "\ud800"}).encode()), ["--json", "ping"], 5),
    ],
)
def test_nothing_reaches_the_terminal_that_it_obeys(tmp_path: Path, behave: Any, argv: list[str], code: int) -> None:
    (tmp_path / "one").write_text("x")
    done = run(behave, tmp_path, *argv)
    assert done.returncode == code, done.stderr
    for output in done.stdout, done.stderr:
        assert not [sequence for sequence in OBEYED if sequence in output], output
    assert b"defect" not in done.stderr


def test_json_is_escaped_and_still_says_the_same(tmp_path: Path) -> None:
    done = run(answer(*proto(PingResponse(message=EVIL))), tmp_path, "ping")
    assert json.loads(done.stdout)["message"] == EVIL


JOB = JobInfo(job_id="1", state="JOB_STATE_ENDED", output_ended=True, stdout_size=len(EVIL.encode()), stderr_size=1)


def job(**replies: Any) -> dict[bytes, bytes]:
    """What a guest answers to the rpcs of Job."""
    replies = {"Start": JobStartResponse(job=JOB), "Forget": JobForgetResponse(), **replies}
    return {name.encode(): message.SerializeToString() for name, message in replies.items()}


def test_output_of_a_command_is_as_the_command_wrote_it(tmp_path: Path) -> None:
    replies = job(Read=JobReadResponse(job=JOB, stdout=EVIL.encode(), stderr=b"\x1b"))
    done = run(answer(b"application/proto", replies), tmp_path, "exec", "x")
    assert (done.stdout, done.stderr, done.returncode) == (EVIL.encode(), b"\x1b", 0)


@pytest.mark.parametrize(
    ("replies", "code", "fragment"),
    [
        (job(Start=JobStartResponse()), 207, b"says nothing of a job"),
        (job(Start=JobStartResponse(job=JobInfo(state="JOB_STATE_ENDED"))), 207, b"says nothing of a job"),
        (job(Read=JobReadResponse()), 207, b"says nothing of a job"),
        (job(Read=JobReadResponse(job=JOB, stdout_offset=-1)), 207, b"gave stdout from -1 on, not from 0"),
        (job(Read=JobReadResponse(job=JOB, stderr_offset=-1)), 207, b"gave stderr from -1 on, not from 0"),
        (job(Read=JobReadResponse(job=JOB, stdout_offset=1 << 60, stderr=b"x")), 209, b"of stdout were dropped"),
        (job(Read=JobReadResponse(job=JOB)), 207, b"has no more of job 1"),
    ],
)
def test_a_job_that_cannot_be(tmp_path: Path, replies: dict[bytes, bytes], code: int, fragment: bytes) -> None:
    done = run(answer(b"application/proto", replies), tmp_path, "exec", "x")
    assert done.returncode == code, done.stderr
    assert fragment in done.stderr


def chunk(content: bytes, **fields: Any) -> tuple[bytes, bytes]:
    md5 = hashlib.md5(content).hexdigest()
    said = {"total_size": len(content), "size": len(content), "chunk_md5": md5, **fields}
    return proto(DownloadChunkResponse(content=content, **said))


@pytest.mark.parametrize(
    ("behave", "code", "fragment"),
    [
        (answer(*chunk(b"x" * 9, total_size=1 << 60)), 7, b"asked for those from 9"),
        (answer(*chunk(b"", total_size=1 << 60)), 5, b"was cut during the download"),
        (answer(*chunk(b"x" * 9, total_size=3)), 7, b"0+9"),
        (answer(*chunk(b"x" * 9, offset=5)), 7, b"5+9"),
        (answer(*chunk(b"x" * 9, chunk_md5=EVIL)), 5, b"was damaged on the way"),
        (answer(b"application/proto", b"\xff" * 9), 7, b"cannot be decoded"),
        (answer(b"application/proto", b"", b"vsrpc-x: " + b"x" * 70000 + b"\r\n"), 7, b""),
        (answer(b"application/proto", b"", b"content-encoding: gzip\r\n"), 5, b""),
        (answer(b"text/html", b"<script>"), 7, b"content type"),
    ],
)
def test_no_file_is_left_half_written(tmp_path: Path, behave: Any, code: int, fragment: bytes) -> None:
    done = run(behave, tmp_path, "download", "/tmp/../../etc/x", "there")
    assert (done.returncode, fragment in done.stderr) == (code, True), done.stderr
    assert done.stderr.count(b"\n") == 1
    assert b"\x1b" not in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("body", "fragment"),
    [
        pytest.param(b"[" * 100_000, b"no JSON", id="deep"),
        pytest.param(b'{"code": "x"}', b"no envelope", id="code"),
        pytest.param(b'{"code": 0, "data": [1]}', b"no JSON object", id="data"),
        pytest.param(envelope(), b"the field 'total_size' is missing", id="empty"),
        pytest.param(envelope(content=5), b"not base64", id="content"),
    ],
)
def test_json_that_is_no_reply(tmp_path: Path, body: bytes, fragment: bytes) -> None:
    done = run(answer(JSON, body), tmp_path, "--json", "download", "/tmp/x", "there")
    assert (done.returncode, fragment in done.stderr) == (7, True), done.stderr
    assert done.stderr.count(b"\n") == 1
    assert os.listdir(tmp_path) == []


def test_a_reply_larger_than_memory_is_refused_by_its_head(tmp_path: Path) -> None:
    done = run(answer(b"application/proto", b"", length=10**12), tmp_path, "ping")
    assert (done.returncode, b"over the limit of 67108864 bytes" in done.stderr) == (5, True), done.stderr


def test_printable() -> None:
    assert printable("a\x1b[31m\x9b\u202e\n\té") == r"a\x1b[31m\x9b\u202e\n\té"
    assert printable("a\x1b\n\té", keep="\n\t") == "a\\x1b\n\té"
    assert printable("\udcff") == "\udcff"
