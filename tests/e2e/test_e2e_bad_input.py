"""What users get wrong, and what the guest refuses: exit code, one clear line, nothing half written on either side.

Command lines that go wrong before a guest is asked are in tests/host.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Callable

import pytest
from e2e_cli import Cli, Guest, Remote

from host.client import RPCError, UsageError, VirtioRPCClient

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("argv", "code", "fragments"),
    [
        # {local}: a small file here; {large}: one that goes in chunks; {remote}: a file in the guest; {new}: none yet
        (["exec", "rm {remote}"], 204, ["Command not allowed: rm", "security.allowed_commands"]),
        (["exec", "ls; rm -rf {remote}"], 204, ["Command not allowed: rm"]),
        (["exec", "echo $(id)"], 204, ["$("]),
        (["exec", ""], 202, ["command"]),
        (["exec", "   "], 202, ["command"]),
        (["exec", "sleep 5", "--timeout", "0.3"], 124, ["timed out after 0.3 s"]),
        (["-t", "2", "exec", "sleep 60"], 124, ["timed out after 2 s"]),
        (["exec", "ls", "-w", "/nonexistent"], 205, ["/nonexistent"]),
        (["upload", "{local}", "/etc/vsrpc-e2e"], 4, ["Path not in allowed list: /etc/vsrpc-e2e", "allowed_paths"]),
        (["upload", "{large}", "/etc/vsrpc-e2e"], 4, ["Path not in allowed list: /etc/vsrpc-e2e"]),
        (["upload", "{local}", "/tmp/../etc/vsrpc-e2e"], 4, ["/etc/vsrpc-e2e"]),
        (["upload", "{local}", "relative"], 2, ["relative", "absolute"]),
        (["upload", "{local}", "{new}/x"], 5, ["{new}"]),
        (["upload", "{large}", "{new}/x"], 5, ["{new}"]),
        (["upload", "{local}", "{remote}", "--no-overwrite"], 5, ["{remote}", "exists"]),
        (["upload", "{large}", "{remote}", "--no-overwrite"], 5, ["{remote}", "exists"]),
        (["upload", "{local}", "{new}", "-m", "rw"], 2, ["rw"]),
        (["upload", "{local}", "{new}", "-m", "0999"], 2, ["0999"]),
        (["download", "{new}", "{target}"], 5, ["{new}"]),
        (["download", "/tmp", "{target}"], 5, ["/tmp", "directory"]),
        (["download", "/etc/passwd", "{target}"], 4, ["Path not in allowed list: /etc/passwd", "allowed_paths"]),
        (["download", "/etc/shadow", "{target}"], 4, ["/etc/shadow"]),
        (["download", "{remote}", "{local}", "--no-overwrite"], 2, ["{local}", "already exists"]),
        (["download", "{remote}", "{directory}/none/x"], 2, ["{directory}/none does not exist"]),
        (["download", "", "{target}"], 2, ["path"]),
        (["file-info", "relative"], 2, ["relative"]),
        (["file-info", "/etc/shadow"], 4, ["/etc/shadow"]),
        (["service", "no-such-service", "status"], 5, []),
        (["service", "../../etc/passwd", "status"], 2, ["../../etc/passwd"]),
        (["service", "--", "-Hevil", "status"], 2, ["-Hevil"]),
    ],
)
def test_bad_input(
    cli: Cli,
    guest: Guest,
    remote: Remote,
    tmp_path: Path,
    argv: list[str],
    code: int,
    fragments: list[str],
) -> None:
    (tmp_path / "local").write_bytes(b"local")
    with open(tmp_path / "large", "wb") as large:
        large.truncate(3 * MIB)
    names = {
        "local": str(tmp_path / "local"),
        "large": str(tmp_path / "large"),
        "directory": str(tmp_path),
        "target": str(tmp_path / "target"),
        "remote": remote("existing"),
        "new": remote("new"),
    }
    guest.run(["sh", "-c", f"printf local > {names['remote']}"])
    before = guest.files(remote(""))

    done = cli(*(each.format(**names) for each in argv))
    assert done.code == code, done.err
    assert done.out == b""
    assert done.err.startswith("vsrpc-host: error: ")
    assert done.err.count("\n") == 1, done.err
    for fragment in fragments:
        assert fragment.format(**names) in done.err

    assert sorted(os.listdir(tmp_path)) == ["large", "local"]
    assert (tmp_path / "local").read_bytes() == b"local"
    assert guest.files(remote("")) == before
    assert guest.run(["cat", names["remote"]]) == "local"


def test_request_over_the_limit(client: VirtioRPCClient) -> None:
    with pytest.raises(RPCError) as caught:
        client.exec_command("echo " + "x" * (11 * MIB))
    assert caught.value.reason == "TOO_LARGE"
    assert "max_request_size" in caught.value.message
    assert client.ping()["code"] == 0


def test_names_that_no_wire_format_carries(client: VirtioRPCClient) -> None:
    for call in (
        lambda: client.exec_command("ls", env={"\udcff": "x"}),
        lambda: client.exec_command(["ls", "\udcff"]),
    ):
        with pytest.raises(UsageError, match="not valid UTF-8"):
            call()


def test_a_files_name_may_be_any_bytes(client: VirtioRPCClient, remote: Remote, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    name = remote("\udcff")
    assert client.get_file_info(name)["data"]["exists"] is False
    client.upload_file(str(tmp_path / "f"), name)
    assert client.get_file_info(name)["data"]["size"] == 1
    client.download_file(name, str(tmp_path / "g"))
    assert (tmp_path / "g").read_bytes() == b"x"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("direction", ["upload", "download"])
def test_interrupted_transfer_leaves_nothing(
    cli: Cli, guest: Guest, remote: Remote, tmp_path: Path, direction: str, number: int, code: int
) -> None:
    with open(tmp_path / "f", "wb") as large:
        large.truncate(64 * MIB)
    if direction == "download":
        guest.run(["truncate", "-s", str(64 * MIB), remote("f")])
        argv = ["download", remote("f"), str(tmp_path / "g")]
    else:
        argv = ["upload", str(tmp_path / "f"), remote("f")]
    before = guest.files(remote(""))
    # In chunks of 4 KiB it takes minutes: the signal comes in its midst.
    with cli.start(*argv, "--chunk-size", "4K", stdout=-1, stderr=-1) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"Large file detected")
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert err == (b"vsrpc-host: error: interrupted\n" if number == signal.SIGINT else b"")
    assert os.listdir(tmp_path) == ["f"]
    assert guest.files(remote("")) == before


def test_interrupted_exec_ends_at_once(cli: Cli, guest: Guest) -> None:
    with cli.start("exec", "sleep 29.5", stdout=-1, stderr=-1) as process:
        _wait_for(lambda: _sleeps(guest))
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - started < 10
    _wait_for(lambda: not _sleeps(guest))


def _sleeps(guest: Guest) -> bool:
    return "sleep 29.5" in guest.run(["ps", "-eo", "args"]).splitlines()


def _wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.05)


def test_reader_that_leaves_is_no_error(cli: Cli) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with cli.start("info", stdout=write_end, stderr=-1) as process:
        os.close(write_end)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (141, b"")


def test_full_output_is_told(cli: Cli) -> None:
    with open("/dev/full", "wb") as full, cli.start("info", stdout=full, stderr=-1) as process:
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err == b"vsrpc-host: error: cannot write the output: No space left on device\n"
