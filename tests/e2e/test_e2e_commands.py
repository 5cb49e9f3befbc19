"""Every command of the command line against a real guest: what it prints, and its exit code."""

from __future__ import annotations

import hashlib
import os
import random
import time
from pathlib import Path

import pytest
from e2e_cli import Cli, Remote

MIB = 1024 * 1024


def content_of(size: int) -> bytes:
    return random.Random(size).getrandbits(8 * size).to_bytes(size, "little") if size else b""


def test_ping(any_cli: Cli) -> None:
    done = any_cli("ping")
    assert (done.code, done.err) == (0, "")
    assert set(done.json) == {"timestamp", "uptime", "message"}
    assert done.json["message"] == "pong"
    assert isinstance(done.json["timestamp"], int)
    assert done.json["uptime"] > 0


INFO = {
    "hostname": str,
    "os": str,
    "os_version": str,
    "kernel": str,
    "arch": str,
    "cpu_count": int,
    "memory_total": int,
    "memory_available": int,
    "python_version": str,
    "boot_time": int,
    "machine_id": str,
    "virtualization": str,
    "agent_version": str,
    "interfaces": list,
    "filesystems": list,
    "users": list,
}


def test_info(any_cli: Cli) -> None:
    done = any_cli("info")
    assert (done.code, done.err) == (0, "")
    assert {name: type(value) for name, value in done.json.items()} == INFO
    assert done.json["os"] == "Linux"
    assert any(each["name"] == "lo" and "127.0.0.1/8" in each["addresses"] for each in done.json["interfaces"])


def test_status(any_cli: Cli) -> None:
    done = any_cli("status")
    assert (done.code, done.err) == (0, "")
    assert set(done.json) == {"cpu_usage", "memory_usage", "disk_usage", "load_average", "process_count"}
    assert 0 <= done.json["cpu_usage"] <= 100
    assert 0 < done.json["memory_usage"] < 100
    assert len(done.json["load_average"]) == 3
    assert done.json["process_count"] > 1


def test_raw_prints_the_whole_envelope(any_cli: Cli) -> None:
    for argv in (["-r", "ping"], ["ping", "-r"]):
        envelope = any_cli(*argv).json
        assert set(envelope) == {"code", "message", "timestamp", "data"}
        assert (envelope["code"], envelope["message"]) == (0, "success")
        assert abs(envelope["timestamp"] - time.time()) < 100
        assert envelope["data"]["message"] == "pong"


@pytest.mark.parametrize(
    ("argv", "code", "out", "err"),
    [
        (["echo hello"], 0, b"hello\n", ""),
        (["echo 'a b'   c && false"], 1, b"a b c\n", ""),
        (["true"], 0, b"", ""),
        (["ls /nonexistent-place"], 2, b"", "/nonexistent-place"),
        (["sleep 0.1 && echo done", "--timeout", "10"], 0, b"done\n", ""),
        (["pwd", "-w", "/tmp"], 0, b"/tmp\n", ""),
        (["echo äöü €"], 0, "äöü €\n".encode(), ""),
        (["echo one | cat; echo two"], 0, b"one\ntwo\n", ""),
    ],
)
def test_exec_passes_output_and_exit_code(any_cli: Cli, argv: list[str], code: int, out: bytes, err: str) -> None:
    done = any_cli("exec", *argv)
    assert (done.code, done.out) == (code, out), done.err
    assert err in done.err
    assert bool(done.err) == bool(err)


def test_raw_exec(any_cli: Cli) -> None:
    done = any_cli("-r", "exec", "echo x; ls /nonexistent-place")
    assert (done.code, done.err) == (2, "")
    data = done.json["data"]
    assert (data["exit_code"], data["stdout"]) == (2, "x\n")
    assert "/nonexistent-place" in data["stderr"]
    assert data["duration_ms"] >= 0


@pytest.mark.parametrize("size", [0, 1, 4097, 2 * MIB, 2 * MIB + 1, 6 * MIB])
def test_files_go_there_and_back(any_cli: Cli, tmp_path: Path, remote: Remote, size: int) -> None:
    content = content_of(size)
    digest = hashlib.md5(content).hexdigest()
    (tmp_path / "there").write_bytes(content)
    large = f"Large file detected ({size} bytes), using chunked {{}}...\n" if size > 2 * MIB else ""

    done = any_cli("upload", str(tmp_path / "there"), remote("f"))
    assert (done.code, done.err) == (0, "")
    assert done.out.decode() == (
        large.format("upload") + f"Upload successful: {remote('f')} ({size} bytes)\nMD5: {digest}\n"
    )
    done = any_cli("download", remote("f"), str(tmp_path / "back"))
    assert (done.code, done.err) == (0, "")
    assert done.out.decode() == (
        large.format("download") + f"Download successful: {tmp_path / 'back'} ({size} bytes)\nMD5: {digest}\n"
    )
    assert (tmp_path / "back").read_bytes() == content
    assert sorted(os.listdir(tmp_path)) == ["back", "there"]

    info = any_cli("file-info", remote("f")).json
    assert (info["exists"], info["type"], info["size"], info["mode"], info["md5"]) == (
        True,
        "file",
        size,
        "0644",
        digest,
    )


def test_exec_passes_binary_output(any_cli: Cli, tmp_path: Path, remote: Remote) -> None:
    content = bytes(range(256)) * 10
    (tmp_path / "binary").write_bytes(content)
    assert any_cli("upload", str(tmp_path / "binary"), remote("binary")).code == 0
    done = any_cli("exec", f"cat {remote('binary')}")
    assert (done.code, done.out, done.err) == (0, content, "")
    data = any_cli("-r", "exec", f"cat {remote('binary')}").json["data"]
    assert data["stdout_invalid_utf8"] is True
    assert "�" in data["stdout"]


def test_exec_gives_all_output_and_its_json_tells_where_it_was_cut(cli: Cli, tmp_path: Path, remote: Remote) -> None:
    (tmp_path / "long").write_bytes(b"0123456789abcdef" * (1024 * 1024 // 2))
    assert cli("upload", str(tmp_path / "long"), remote("long")).code == 0
    done = cli("exec", f"cat {remote('long')}")
    assert (done.code, done.err) == (0, "")
    assert done.out == (tmp_path / "long").read_bytes()
    data = cli("-r", "exec", f"cat {remote('long')}").json["data"]
    assert (data["stdout_truncated"], data["stdout_size"]) == (True, 8 * MIB)
    assert 0 < len(data["stdout"]) < 8 * MIB


def test_upload_options(any_cli: Cli, tmp_path: Path, remote: Remote) -> None:
    (tmp_path / "f").write_bytes(content_of(3 * MIB))
    done = any_cli("upload", str(tmp_path / "f"), remote("f"), "-m", "0600", "--chunk-size", "512K")
    assert done.code == 0, done.err
    assert any_cli("file-info", remote("f")).json["mode"] == "0600"
    (tmp_path / "f").write_bytes(b"replaced")
    assert any_cli("upload", str(tmp_path / "f"), remote("f"), "--mode", "0640").code == 0
    info = any_cli("file-info", remote("f")).json
    assert (info["mode"], info["size"]) == ("0640", 8)


def test_raw_transfers_print_only_json(any_cli: Cli, tmp_path: Path, remote: Remote) -> None:
    (tmp_path / "f").write_bytes(content_of(3 * MIB))
    data = any_cli("-r", "upload", str(tmp_path / "f"), remote("f")).json["data"]
    assert (data["path"], data["size"]) == (remote("f"), 3 * MIB)
    data = any_cli("-r", "download", remote("f"), str(tmp_path / "g")).json["data"]
    assert (data["path"], data["local_path"], data["size"]) == (remote("f"), str(tmp_path / "g"), 3 * MIB)


def test_directories_as_targets_keep_the_name(any_cli: Cli, tmp_path: Path, remote: Remote) -> None:
    name = os.path.basename(remote("f"))
    (tmp_path / name).write_bytes(b"abc")
    for directory in ("/tmp", "/tmp/"):
        done = any_cli("upload", str(tmp_path / name), directory)
        assert (done.code, done.out.splitlines()[0]) == (0, f"Upload successful: /tmp/{name} (3 bytes)".encode()), (
            done.err
        )
    (tmp_path / "into").mkdir()
    assert any_cli("download", remote("f"), str(tmp_path / "into")).code == 0
    assert (tmp_path / "into" / name).read_bytes() == b"abc"


def test_file_info(any_cli: Cli, remote: Remote) -> None:
    hosts = any_cli("file-info", "/etc/hosts")
    assert hosts.code == 0
    assert (hosts.json["path"], hosts.json["type"], hosts.json["exists"]) == ("/etc/hosts", "file", True)
    assert hosts.json["owner"] == "root"
    assert any_cli("file-info", "/tmp").json["type"] == "directory"
    missing = any_cli("file-info", remote("missing"))
    assert (missing.code, missing.json["exists"]) == (0, False)


@pytest.mark.systemd
def test_service(any_cli: Cli) -> None:
    done = any_cli("service", "systemd-journald", "status")
    assert (done.code, done.out, done.err) == (0, b"running\n", "")
    data = any_cli("-r", "service", "systemd-journald", "status").json["data"]
    assert set(data) == {
        "name",
        "action",
        "status",
        "enabled",
        "pid",
        "output",
        "memory",
        "substate",
        "journal",
    }
    assert data["pid"] > 1


def test_progress_bar_is_drawn_on_a_terminal(cli: Cli, tmp_path: Path, remote: Remote) -> None:
    size = 3 * MIB
    (tmp_path / "f").write_bytes(content_of(size))
    lines = cli.on_terminal("upload", str(tmp_path / "f"), remote("f")).decode().split("\n")
    assert lines[0] == f"Large file detected ({size} bytes), using chunked upload...\r"
    assert lines[1].split("\r") == [
        "",
        f"[{' ' * 30}] 0% (0/{size} bytes)",
        f"[{'=' * 20}{' ' * 10}] 66% ({2 * MIB}/{size} bytes)",
        f"[{'=' * 30}] 100% ({size}/{size} bytes)",
        "",
    ]
    assert lines[2].startswith(f"Upload successful: {remote('f')}")
