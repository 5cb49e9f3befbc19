"""`buf curl`, the Connect client of Buf's command line: schema in, JSON out, protobuf on the wire."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from peer_target import RemoteFile, Target
from peer_tools import tool

from vsrpc.v1 import error_pb2

pytestmark = pytest.mark.peers

DESCRIPTORS = Path(__file__).resolve().parents[2] / "vsrpc/v1/descriptor_set.binpb"


def buf_curl(target: Target, rpc: str, request: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(tool("buf"), "curl", "--unix-socket", target.socket, "--schema", str(DESCRIPTORS)),
            *("--protocol", "connect", "--emit-defaults", "--data", json.dumps(request), f"http://guest/{rpc}"),
        ],
        capture_output=True,
        text=True,
        timeout=90,
    )


def test_info(target: Target) -> None:
    ended = buf_curl(target, "vsrpc.v1.System/Info", {})
    assert ended.returncode == 0, ended.stderr
    info = json.loads(ended.stdout)
    assert info["os"] == "Linux"
    assert int(info["memoryTotal"]) > 0


def test_download_chunk(target: Target, remote_file: RemoteFile) -> None:
    request = {"path": remote_file.path, "offset": 5, "size": 100_000}
    ended = buf_curl(target, "vsrpc.v1.File/DownloadChunk", request)
    assert ended.returncode == 0, ended.stderr
    chunk = json.loads(ended.stdout)
    assert base64.b64decode(chunk["content"]) == remote_file.content[5:100_005]
    assert (chunk["hasMore"], chunk["nextOffset"]) == (True, "100005")


def test_error(target: Target, folder: str) -> None:
    path = f"{folder}nothing"
    ended = buf_curl(target, "vsrpc.v1.File/DownloadChunk", {"path": path})
    assert ended.returncode != 0
    error = json.loads(ended.stderr)
    assert error["code"] == "not_found"
    assert path in error["message"]
    (detail,) = error["details"]
    assert detail["type"] == "vsrpc.v1.ErrorDetail"
    value = error_pb2.ErrorDetail.FromString(base64.b64decode(detail["value"] + "=="))
    assert value.code == error_pb2.ERROR_CODE_FILE_NOT_FOUND
    assert value.data["path"] == path
