"""The official Connect client for Node.js (@connectrpc/connect-node) over HTTP/1.1, unmodified."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Callable

import pytest
from peer_target import RemoteFile, Target
from peer_tools import cache_dir, tool

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300)]

HERE = Path(__file__).resolve().parent / "connect_node"
DESCRIPTORS = HERE.parents[2] / "vsrpc/v1/descriptor_set.binpb"

Call = Callable[..., "dict[str, Any]"]

# How a client may be set up, each of which must see the same.
FORMS = [
    pytest.param({"binary": True}, id="proto"),
    pytest.param({"binary": False}, id="json"),
    pytest.param({"binary": True, "gzip": True}, id="proto-gzip"),
    pytest.param({"binary": False, "gzip": True}, id="json-gzip"),
    pytest.param({"binary": True, "get": True}, id="proto-get"),
    pytest.param({"binary": False, "get": True}, id="json-get"),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """call.mjs beside the packages of package-lock.json, which are installed once."""
    lock = HERE / "package-lock.json"
    packages = cache_dir("connect-node") / hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    if not packages.is_dir():
        with tempfile.TemporaryDirectory(dir=packages.parent) as tmp:
            made = Path(tmp, "made")
            made.mkdir()
            for name in ("package.json", "package-lock.json"):
                shutil.copy(HERE / name, made)
            subprocess.run([tool("npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=made, check=True)
            try:
                os.rename(made, packages)
            except OSError:  # another run was faster
                assert packages.is_dir()
    folder = tmp_path_factory.mktemp("connect_node")
    (folder / "node_modules").symlink_to(packages / "node_modules")
    return Path(shutil.copy(HERE / "call.mjs", folder))


@pytest.fixture
def call(program: Path, target: Target) -> Call:
    """Makes one call: its outcome as call.mjs tells it."""

    def make(rpc: str, request: dict[str, Any], **options: Any) -> dict[str, Any]:
        service, method = rpc.split("/")
        description = {
            "socket": target.socket,
            "descriptors": str(DESCRIPTORS),
            "binary": True,
            "gzip": False,
            "get": False,
            "service": service,
            "method": method,
            "request": request,
            **options,
        }
        ended = subprocess.run(
            [tool("node"), str(program)],
            input=json.dumps(description),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=120,
        )
        outcome: dict[str, Any] = json.loads(ended.stdout)
        return outcome

    return make


@pytest.mark.parametrize("form", FORMS)
def test_info(call: Call, form: dict[str, bool]) -> None:
    outcome = call("vsrpc.v1.System/Info", {}, **form)
    assert "error" not in outcome
    assert outcome["response"]["os"] == "Linux"
    assert int(outcome["response"]["memory_total"]) > 0


@pytest.mark.parametrize("form", FORMS)
def test_download_chunk(call: Call, remote_file: RemoteFile, form: dict[str, bool]) -> None:
    request = {"path": remote_file.path, "offset": "3", "size": "70000"}
    outcome = call("vsrpc.v1.File/DownloadChunk", request, **form)
    assert "error" not in outcome
    content = remote_file.content[3:70003]
    chunk = outcome["response"]
    assert base64.b64decode(chunk["content"]) == content
    assert chunk["chunk_md5"] == hashlib.md5(content).hexdigest()
    assert (chunk["has_more"], chunk["next_offset"]) == (True, "70003")


def test_whole_file(call: Call, remote_file: RemoteFile) -> None:
    content, offset = b"", "0"
    while offset:
        chunk = call("vsrpc.v1.File/DownloadChunk", {"path": remote_file.path, "offset": offset})["response"]
        content += base64.b64decode(chunk["content"])
        offset = chunk.get("next_offset", "")
    assert content == remote_file.content


def test_compressed_request_gets_compressed_reply(call: Call) -> None:
    request = {"path": "/etc/hosts"}  # an empty message would not be compressed
    assert call("vsrpc.v1.File/Stat", request, gzip=True)["headers"].get("content-encoding") == "gzip"
    assert "content-encoding" not in call("vsrpc.v1.File/Stat", request)["headers"]


def test_request_id_comes_back(call: Call) -> None:
    assert call("vsrpc.v1.System/Ping", {}, headers={"x-request-id": "from-node"})["headers"]["x-request-id"] == (
        "from-node"
    )


@pytest.mark.parametrize("form", FORMS)
def test_error_with_typed_detail(call: Call, folder: str, form: dict[str, bool]) -> None:
    path = f"{folder}nothing"
    error = call("vsrpc.v1.File/DownloadChunk", {"path": path}, **form)["error"]
    assert error["code"] == "NotFound"
    assert path in error["message"]
    (detail,) = error["details"]
    assert detail["code"] == "ERROR_CODE_FILE_NOT_FOUND"
    assert detail["data"]["path"] == path


def test_timeout_reaches_the_guest(call: Call) -> None:
    started = time.monotonic()
    outcome = call("vsrpc.v1.Shell/Exec", {"command": "sleep 60", "timeout": 50}, timeoutMs=1500)
    assert outcome["error"]["code"] == "DeadlineExceeded"
    assert time.monotonic() - started < 40
    # Nothing of the call is left that would hold up the next client.
    assert call("vsrpc.v1.System/Ping", {})["response"]["message"] == "pong"
