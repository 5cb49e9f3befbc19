"""A strict JSON client, written against the documented routes and fields alone, on every route."""

from __future__ import annotations

import base64
import hashlib
import time
from typing import Any, Iterator

import pytest
from json_client import ApiError, JsonClient
from peer_target import RemoteFile, Target

pytestmark = pytest.mark.peers

NUMBER = (int, float)  # JSON has one kind of number; where a float is meant, 1 may come for 1.0


@pytest.fixture
def client(target: Target) -> Iterator[JsonClient]:
    with JsonClient(target.socket) as made:
        yield made


def check_fields(data: dict[str, Any], **types: Any) -> None:
    """The documented fields are there with their types; a boolean is no number."""
    for name, expected in types.items():
        assert name in data, f"{name} is missing"
        value = data[name]
        assert isinstance(value, expected), f"{name} is {value!r}"
        assert not isinstance(value, bool) or expected is bool, f"{name} is {value!r}"


# -- System


def test_ping(client: JsonClient) -> None:
    data = client.call("GET", "/api/v1/ping")
    check_fields(data, timestamp=int, uptime=NUMBER, message=str)
    assert data["message"] == "pong"
    assert data["uptime"] >= 0
    assert abs(data["timestamp"] - time.time()) < 86400


def test_info(client: JsonClient) -> None:
    data = client.call("GET", "/api/v1/system/info")
    check_fields(data, hostname=str, os=str, os_version=str, kernel=str, arch=str, cpu_count=int, python_version=str)
    check_fields(data, memory_total=int, memory_available=int, boot_time=int)
    check_fields(data, machine_id=str, virtualization=str, agent_version=str, interfaces=list, filesystems=list)
    check_fields(data, users=list)
    assert data["os"] == "Linux"
    assert 0 < data["memory_available"] <= data["memory_total"]
    loopback = next(interface for interface in data["interfaces"] if interface["name"] == "lo")
    check_fields(loopback, mac=str, addresses=list)
    for filesystem in data["filesystems"]:
        check_fields(filesystem, device=str, mountpoint=str, fstype=str, total=int, used=int)


def test_status(client: JsonClient) -> None:
    data = client.call("GET", "/api/v1/system/status")
    check_fields(data, cpu_usage=NUMBER, memory_usage=NUMBER, disk_usage=dict, load_average=list, process_count=int)
    assert 0 <= data["cpu_usage"] <= 100
    assert 0 < data["memory_usage"] <= 100
    assert len(data["load_average"]) == 3
    assert all(isinstance(percent, NUMBER) for percent in data["disk_usage"].values())


# -- Shell


def test_exec(client: JsonClient) -> None:
    request = {"command": "echo out && ls /nowhere", "timeout": 20, "working_dir": "/tmp", "env": {"LC_ALL": "C"}}
    data = client.call("POST", "/api/v1/shell/exec", request)
    check_fields(data, exit_code=int, stdout=str, stderr=str, duration_ms=int)
    check_fields(data, stdout_truncated=bool, stderr_truncated=bool)
    assert data["stdout"] == "out\n"
    assert "/nowhere" in data["stderr"]
    assert data["exit_code"] == 2


def test_exec_argv(client: JsonClient) -> None:
    data = client.call("POST", "/api/v1/shell/exec", {"argv": ["echo", "a  b", "$HOME;"]})
    assert (data["stdout"], data["exit_code"]) == ("a  b $HOME;\n", 0)


def test_exec_output_that_is_no_text(client: JsonClient, remote_file: RemoteFile) -> None:
    data = client.call("POST", "/api/v1/shell/exec", {"argv": ["head", "-c", "64", remote_file.path]})
    assert data["stdout_invalid_utf8"] is True
    assert base64.b64decode(data["stdout_base64"]) == remote_file.content[:64]


# -- File


def test_upload_download_stat(client: JsonClient, folder: str) -> None:
    path, content = f"{folder}small", b"\x00\xff small"
    md5 = hashlib.md5(content).hexdigest()
    request = {"path": path, "content": base64.b64encode(content).decode(), "mode": "0640", "overwrite": False}
    assert client.call("POST", "/api/v1/file/upload", request) == {"path": path, "size": len(content), "md5": md5}

    data = client.call("POST", "/api/v1/file/download", {"path": path})
    check_fields(data, size=int, total_size=int, offset=int)
    assert base64.b64decode(data["content"]) == content
    assert (data["path"], data["size"], data["total_size"], data["offset"]) == (path, len(content), len(content), 0)
    assert data["md5"] == md5

    data = client.call("POST", "/api/v1/file/download", {"path": path, "offset": 2, "length": 3})
    assert base64.b64decode(data["content"]) == content[2:5]
    assert (data["size"], data["total_size"], data["offset"]) == (3, len(content), 2)

    data = client.call("GET", "/api/v1/file/info", query={"path": path})
    check_fields(data, size=int, owner=str, group=str, mtime=int, atime=int, ctime=int)
    assert (data["path"], data["exists"], data["type"]) == (path, True, "file")
    assert (data["size"], data["mode"], data["md5"]) == (len(content), "0640", md5)


def test_stat_of_nothing(client: JsonClient, folder: str) -> None:
    data = client.call("GET", "/api/v1/file/info", query={"path": f"{folder}nothing"})
    assert data["exists"] is False


def test_stat_with_the_defaults(client: JsonClient) -> None:
    assert client.call("GET", "/api/v1/file/info", query={"path": "/etc/hosts"})["type"] == "file"


def test_chunked_upload(client: JsonClient, folder: str) -> None:
    path, content = f"{folder}chunked", bytes(range(256)) * 20
    begun = client.call("POST", "/api/v1/file/chunked/upload/init", {"path": path, "size": len(content)})
    check_fields(begun, session_id=str, chunk_size=int)
    assert begun["path"] == path
    session_id = begun["session_id"]

    def send(part: bytes, **where: int) -> dict[str, Any]:
        request = {"session_id": session_id, "content": base64.b64encode(part).decode(), **where}
        return client.call("POST", "/api/v1/file/chunked/upload/chunk", request)

    data = send(content[1000:], offset=1000)
    check_fields(data, session_id=str, chunk_index=int, received_size=int, total_size=int, progress=NUMBER)
    assert (data["received_size"], data["total_size"]) == (4120, 5120)
    # As old clients send it; what overlaps is written once more.
    data = send(content[:1000], chunk_index=0)
    assert (data["session_id"], data["chunk_index"], data["received_size"]) == (session_id, 0, 5120)
    assert data["progress"] == 100

    md5 = hashlib.md5(content).hexdigest()
    request = {"session_id": session_id, "md5": md5}
    finished = client.call("POST", "/api/v1/file/chunked/upload/finish", request)
    assert finished == {"path": path, "size": len(content), "md5": md5, "sha256": "", "chunks_received": 2}
    assert client.download(path) == content


def test_abort_upload(client: JsonClient, folder: str) -> None:
    path = f"{folder}aborted"
    begun = client.call("POST", "/api/v1/file/chunked/upload/init", {"path": path, "size": 5})
    for _ in range(2):  # the second time it is unknown, which is no error
        data = client.call("POST", "/api/v1/file/chunked/upload/abort", {"session_id": begun["session_id"]})
        check_fields(data, message=str)
        assert data["session_id"] == begun["session_id"]
    assert client.call("GET", "/api/v1/file/info", query={"path": path})["exists"] is False


def test_chunked_download(client: JsonClient, remote_file: RemoteFile) -> None:
    assert client.download(remote_file.path) == remote_file.content


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_download_chunk(client: JsonClient, remote_file: RemoteFile, method: str) -> None:
    fields = {"path": remote_file.path, "offset": 100, "size": 10}
    arguments: Any = {"query": fields} if method == "GET" else {"body": fields}
    data = client.call(method, "/api/v1/file/chunked/download", **arguments)
    content = remote_file.content[100:110]
    assert base64.b64decode(data["content"]) == content
    assert data["chunk_md5"] == hashlib.md5(content).hexdigest()
    assert (data["path"], data["offset"], data["size"]) == (remote_file.path, 100, 10)
    assert (data["total_size"], data["has_more"], data["next_offset"]) == (len(remote_file.content), True, 110)


def test_last_chunk(client: JsonClient, remote_file: RemoteFile) -> None:
    end = len(remote_file.content)
    data = client.call("POST", "/api/v1/file/chunked/download", {"path": remote_file.path, "offset": end - 1})
    assert (data["size"], data["has_more"]) == (1, False)
    assert "next_offset" not in data


# -- ServiceManager


def test_control(client: JsonClient, target: Target) -> None:
    request = {"name": "systemd-journald", "action": "status"}
    if not target.has_systemd:
        with pytest.raises(ApiError, match="systemd") as caught:
            client.call("POST", "/api/v1/service/control", request)
        assert caught.value.status == 501
        return
    data = client.call("POST", "/api/v1/service/control", request)
    check_fields(data, enabled=bool, pid=int, output=str)
    assert (data["name"], data["action"], data["status"]) == ("systemd-journald", "status", "running")
    assert data["pid"] > 1


# -- Errors: HTTP status, code, and what the message names


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "named"),
    [
        ("POST", "/api/v1/file/download", b'{"path": "/tmp/no-such-file"}', 404, 3002, "/tmp/no-such-file"),
        ("POST", "/api/v1/file/download", b'{"path": "/etc/shadow"}', 403, 4001, "/etc/shadow"),
        ("POST", "/api/v1/file/download", b'{"path": "/tmp/x", "offset": -1}', 400, 2001, "offset"),
        ("POST", "/api/v1/file/download", b'{"pth": "/tmp/x"}', 400, 2001, "pth"),
        ("POST", "/api/v1/file/download", b"{}", 400, 2003, "path"),
        ("POST", "/api/v1/file/download", b'{"path": ', 400, 2002, "JSON"),
        ("POST", "/api/v1/file/download", b"[]", 400, 2002, "array"),
        ("GET", "/api/v1/file/info?paht=/tmp", None, 400, 2001, "paht"),
        ("POST", "/api/v1/shell/exec", b"{}", 400, 2003, "command"),
        ("POST", "/api/v1/shell/exec", b'{"command": "rm /tmp/x"}', 403, 4001, "Command not allowed: rm"),
        ("POST", "/api/v1/shell/exec", b'{"command": "sleep 5", "timeout": 0.2}', 200, 1002, "0.2"),
        ("GET", "/api/v1/nowhere", None, 404, 3001, "/api/v1/nowhere"),
        ("GET", "/", None, 404, 3001, "/"),
    ],
)
def test_errors(
    client: JsonClient, method: str, path: str, body: bytes | None, status: int, code: int, named: str
) -> None:
    with pytest.raises(ApiError) as caught:
        client.send(method, path, body)
    assert (caught.value.status, caught.value.code) == (status, code)
    assert named in caught.value.message
    assert client.call("GET", "/api/v1/ping")["message"] == "pong"  # the connection goes on
