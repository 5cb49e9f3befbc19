"""curl, by hand: every REST route, and what curl does to HTTP by itself."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from peer_target import RemoteFile, Target
from peer_tools import tool

import vsrpc
from vsrpc.v1.system_vsrpc import SystemStub

pytestmark = pytest.mark.peers

JSON_HEADER = ("--header", "Content-Type: application/json")


@dataclass(frozen=True)
class Reply:
    """What came back: status, body, and what curl says with --verbose."""

    status: int
    body: bytes
    log: str

    @property
    def data(self) -> Any:
        envelope = json.loads(self.body)
        assert (self.status, envelope["code"], envelope["message"]) == (200, 0, "success"), envelope
        return envelope["data"]


@dataclass(frozen=True)
class Curl:
    """Runs curl against one guest; request bodies go through files, as large ones must."""

    socket: str
    folder: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [tool("curl"), "--silent", "--show-error", "--verbose", "--unix-socket", self.socket, *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=90,
        )

    def get(self, target: str, *arguments: str) -> Reply:
        output = self.folder / "output"
        ended = self.run("--output", str(output), "--write-out", "%{http_code}", *arguments, f"http://guest{target}")
        return Reply(int(ended.stdout), output.read_bytes(), ended.stderr)

    def post(self, target: str, body: Any, *arguments: str) -> Reply:
        file = self.folder / "body"
        file.write_bytes(body if isinstance(body, bytes) else json.dumps(body).encode())
        return self.get(target, *JSON_HEADER, "--data-binary", f"@{file}", *arguments)


@pytest.fixture
def curl(target: Target, tmp_path: Path) -> Curl:
    return Curl(target.socket, tmp_path)


@pytest.mark.parametrize(
    ("route", "field"), [("ping", "uptime"), ("system/info", "hostname"), ("system/status", "load_average")]
)
def test_reading_routes(curl: Curl, route: str, field: str) -> None:
    assert field in curl.get(f"/api/v1/{route}").data


def test_file_info(curl: Curl) -> None:
    reply = curl.get("/api/v1/file/info", "--get", "--data-urlencode", "path=/etc/hosts")
    assert reply.data["type"] == "file"


def test_exec(curl: Curl) -> None:
    data = curl.post("/api/v1/shell/exec", {"command": "echo hello | wc -c"}).data
    assert (data["stdout"].strip(), data["exit_code"]) == ("6", 0)


def test_upload_and_download(curl: Curl, folder: str) -> None:
    path, content = f"{folder}curl", b"by hand \x00\xff"
    request = {"path": path, "content": base64.b64encode(content).decode()}
    assert curl.post("/api/v1/file/upload", request).data["size"] == len(content)
    assert base64.b64decode(curl.post("/api/v1/file/download", {"path": path}).data["content"]) == content


def test_chunked_upload(curl: Curl, folder: str) -> None:
    path, content = f"{folder}curl-chunked", bytes(range(256)) * 3000
    begun = curl.post("/api/v1/file/chunked/upload/init", {"path": path, "size": len(content)}).data
    session = {"session_id": begun["session_id"]}
    for offset in range(0, len(content), 300_000):
        chunk = base64.b64encode(content[offset : offset + 300_000]).decode()
        data = curl.post("/api/v1/file/chunked/upload/chunk", {**session, "offset": offset, "content": chunk}).data
    assert data["progress"] == 100
    md5 = hashlib.md5(content).hexdigest()
    assert curl.post("/api/v1/file/chunked/upload/finish", {**session, "md5": md5}).data["md5"] == md5
    assert curl.post("/api/v1/file/download", {"path": path}).data["md5"] == md5


def test_abort_upload(curl: Curl, folder: str) -> None:
    begun = curl.post("/api/v1/file/chunked/upload/init", {"path": f"{folder}curl-aborted", "size": 1}).data
    reply = curl.post("/api/v1/file/chunked/upload/abort", {"session_id": begun["session_id"]})
    assert reply.data["session_id"] == begun["session_id"]


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_chunked_download(curl: Curl, remote_file: RemoteFile, method: str) -> None:
    content, offset = b"", 0
    while offset is not None:
        if method == "POST":
            reply = curl.post("/api/v1/file/chunked/download", {"path": remote_file.path, "offset": offset})
        else:
            reply = curl.get(f"/api/v1/file/chunked/download?path={remote_file.path}&offset={offset}")
        content += base64.b64decode(reply.data["content"])
        offset = reply.data.get("next_offset")
    assert content == remote_file.content


def test_service_control(curl: Curl, target: Target) -> None:
    reply = curl.post("/api/v1/service/control", {"name": "systemd-journald", "action": "status"})
    if target.has_systemd:
        assert reply.data["status"] == "running"
    else:
        assert reply.status == 501


def test_large_body_waits_for_100_continue(curl: Curl, folder: str) -> None:
    content = bytes(1_500_000)
    request = {"path": f"{folder}curl-large", "content": base64.b64encode(content).decode()}
    # Without the 100 curl would send after a second all the same, and longer than this test may take.
    reply = curl.post("/api/v1/file/upload", request, "--expect100-timeout", "300")
    assert "> Expect: 100-continue" in reply.log
    assert "< HTTP/1.1 100 Continue" in reply.log
    assert reply.data["size"] == len(content)


def test_body_over_the_limit_is_refused_before_it_is_sent(curl: Curl, target: Target, folder: str) -> None:
    request = {"path": f"{folder}curl-huge", "content": "A" * (12 * 1024 * 1024)}
    reply = curl.post("/api/v1/file/upload", request, "--expect100-timeout", "300")
    assert "100 Continue" not in reply.log
    assert reply.status == 413
    assert json.loads(reply.body)["code"] != 0
    # The body never came. At a port, where the news that curl has left may come after the next client's bytes, a client
    # that does not synchronise, as curl does not, would be taken for its rest.
    with vsrpc.connect(f"unix:{target.socket}") as channel:
        SystemStub(channel).Ping()


def test_chunked_transfer_coding(curl: Curl) -> None:
    reply = curl.post("/api/v1/shell/exec", {"command": "echo chunks"}, "--header", "Transfer-Encoding: chunked")
    assert reply.data["stdout"] == "chunks\n"


def test_compressed(curl: Curl) -> None:
    reply = curl.get("/api/v1/system/info", "--compressed")
    assert "> Accept-Encoding:" in reply.log
    assert reply.data["os"] == "Linux"


def test_compressed_both_ways(curl: Curl) -> None:
    body = gzip.compress(b"{}")
    reply = curl.post("/vsrpc.v1.System/Info", body, "--compressed", "--header", "Content-Encoding: gzip")
    assert "< content-encoding: gzip" in reply.log.lower()
    assert json.loads(reply.body)["os"] == "Linux"


def test_two_requests_on_one_connection(curl: Curl) -> None:
    urls = ["http://guest/api/v1/ping", "http://guest/api/v1/system/info"]
    ended = curl.run("--write-out", "\n%{http_code} %{num_connects}\n", *urls)
    ping, first, info, second = ended.stdout.splitlines()
    assert json.loads(ping)["data"]["message"] == "pong"
    assert json.loads(info)["data"]["os"] == "Linux"
    assert (first, second) == ("200 1", "200 0")
