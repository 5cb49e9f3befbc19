"""The Python client against a real guest, as its documentation shows it."""

from __future__ import annotations

import base64
import hashlib
import threading
from pathlib import Path

import pytest
from e2e_cli import Guest, Remote

from host.client import RPCError, VirtioRPCClient
from vsrpc import RpcError
from vsrpc.v1 import file_pb2
from vsrpc.v1.file_vsrpc import FileStub
from vsrpc.v1.system_vsrpc import SystemStub

MIB = 1024 * 1024


def test_every_method_gives_an_envelope(client: VirtioRPCClient, tmp_path: Path, remote: Remote) -> None:
    local = tmp_path / "local.txt"
    local.write_bytes(b"hello")
    envelopes = [
        client.ping(),
        client.get_system_info(),
        client.get_system_status(),
        client.exec_command("echo hi", timeout=10),
        client.upload_file(str(local), remote("small")),
        client.chunked_upload_file(str(local), remote("chunked")),
        client.download_file(remote("small"), str(tmp_path / "small")),
        client.chunked_download_file(remote("small"), str(tmp_path / "chunked")),
        client.get_file_info("/etc/hosts"),
    ]
    for envelope in envelopes:
        assert set(envelope) == {"code", "message", "timestamp", "data"}
        assert (envelope["code"], envelope["message"]) == (0, "success")
    data = [envelope["data"] for envelope in envelopes]
    assert data[0]["message"] == "pong"
    assert data[1]["hostname"]
    assert data[2]["cpu_usage"] >= 0
    assert data[3]["stdout"] == "hi\n"
    assert data[4]["path"] == remote("small")
    assert data[5]["md5"] == hashlib.md5(b"hello").hexdigest()
    assert data[5]["chunks_received"] == 1
    assert data[8]["exists"] is True
    assert (tmp_path / "small").read_bytes() == (tmp_path / "chunked").read_bytes() == b"hello"


@pytest.mark.systemd
def test_control_service(client: VirtioRPCClient) -> None:
    assert client.control_service("systemd-journald", "status")["data"]["status"] == "running"


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("get_file_info", ["{there}"]),
        ("get_file_info", ["{none}"]),
        ("exec_command", ["cat {there}"]),
        ("exec_command", ["ls /nonexistent-place"]),
        ("upload_file", ["{local}", "{new}"]),
        ("download_file", ["{there}", "{copy}"]),
        # and what fails
        ("get_file_info", ["/etc/shadow"]),
        ("get_file_info", ["relative"]),
        ("exec_command", ["rm x"]),
        ("exec_command", [""]),
        ("download_file", ["{none}", "{copy}"]),
    ],
)
def test_both_wire_formats_give_the_same(
    guest: Guest, remote: Remote, tmp_path: Path, method: str, arguments: list[str]
) -> None:
    (tmp_path / "f").write_bytes(b"\xff\x00")
    guest.run(["sh", "-c", f"printf '\\377' > {remote('there')}"])
    names = {name: remote(name) for name in ("there", "none", "new")}
    names.update(local=str(tmp_path / "f"), copy=str(tmp_path / "g"))
    outcomes = []
    for json in (False, True):
        with VirtioRPCClient(guest.target, json=json) as client:
            try:
                data = getattr(client, method)(*(each.format(**names) for each in arguments))["data"]
            except RPCError as error:
                outcomes.append((error.code, error.message, error.data))
            else:
                for varying in ("duration_ms", "atime"):
                    data.pop(varying, None)
                outcomes.append((0, "", data))
    assert outcomes[0] == outcomes[1]


def test_exec_command(client: VirtioRPCClient) -> None:
    assert client.exec_command(["echo", "a  b", "$HOME"])["data"]["stdout"] == "a  b $HOME\n"
    assert client.exec_command("pwd", working_dir="/tmp")["data"]["stdout"] == "/tmp\n"
    assert "COLOUR=blue\n" in client.exec_command("env", env={"COLOUR": "blue"})["data"]["stdout"]
    assert client.exec_command("false")["data"]["exit_code"] == 1


def test_output_that_is_no_text(client: VirtioRPCClient, tmp_path: Path, remote: Remote) -> None:
    (tmp_path / "f").write_bytes(b"a\xff\n")
    client.upload_file(str(tmp_path / "f"), remote("f"))
    data = client.exec_command(f"cat {remote('f')}")["data"]
    assert (data["stdout"], data["stdout_invalid_utf8"]) == ("a\ufffd\n", True)
    assert base64.b64decode(data["stdout_base64"]) == b"a\xff\n"


def test_the_largest_output_arrives(client: VirtioRPCClient, tmp_path: Path, remote: Remote) -> None:
    """In JSON a control character takes six bytes."""
    local = tmp_path / "zeros"
    local.write_bytes(bytes(4 * MIB))
    client.upload_file(str(local), remote("zeros"))
    data = client.exec_command(f"cat {remote('zeros')}", timeout=60)["data"]
    assert (len(data["stdout"]), data["stdout_truncated"]) == (4 * MIB, False)


def test_progress(client: VirtioRPCClient, tmp_path: Path, remote: Remote) -> None:
    (tmp_path / "f").write_bytes(b"x" * (5 * MIB))
    seen: list[tuple[int, int]] = []
    client.chunked_upload_file(
        str(tmp_path / "f"), remote("f"), progress_callback=lambda done, total: seen.append((done, total))
    )
    assert seen == [(done * MIB, 5 * MIB) for done in (0, 2, 4, 5)]
    up = list(seen)
    seen.clear()
    client.chunked_download_file(
        remote("f"), str(tmp_path / "g"), progress_callback=lambda done, total: seen.append((done, total))
    )
    assert (seen[0], seen[-1]) == (up[0], up[-1])
    assert seen == sorted(set(seen)), "each more than the one before"


def test_errors_carry_code_message_and_data(client: VirtioRPCClient) -> None:
    with pytest.raises(RPCError) as caught:
        client.download_file("/etc/shadow", "/dev/null")
    assert (caught.value.code, caught.value.reason) == (4001, "PERMISSION_DENIED")
    assert "/etc/shadow" in caught.value.message
    with pytest.raises(RPCError) as caught:
        client.exec_command("sleep 5", timeout=0.2)
    assert caught.value.code == 1002


def test_connect_tells_at_once(tmp_path: Path) -> None:
    client = VirtioRPCClient(str(tmp_path / "missing"))
    with pytest.raises(RPCError, match="no such socket") as caught:
        client.connect()
    assert caught.value.code == 6004
    client.disconnect()


def test_reuse_after_disconnect(target: str) -> None:
    client = VirtioRPCClient(target)
    assert client.ping()["data"]["message"] == "pong"
    client.disconnect()
    assert client.ping()["data"]["message"] == "pong"
    client.disconnect()
    client.disconnect()


def test_threads_share_a_client(client: VirtioRPCClient) -> None:
    outputs: list[str] = []

    def work(number: int) -> None:
        outputs.append(client.exec_command(f"echo {number}")["data"]["stdout"])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outputs) == [f"{number}\n" for number in range(8)]


def test_typed_stubs_on_the_clients_channel(target: str) -> None:
    with VirtioRPCClient(target) as client:
        assert SystemStub(client.channel).Ping(timeout=5).message == "pong"
        with pytest.raises(RpcError) as caught:
            FileStub(client.channel).Stat(file_pb2.StatRequest(path="relative"))
        assert caught.value.code().name == "INVALID_ARGUMENT"
