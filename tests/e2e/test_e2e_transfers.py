"""Transfers whose file does not hold still, or has an unusual shape: whole and right, or a clear error and no trace."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Callable

import pytest
from e2e_cli import Cli, Guest, Remote

from host.client import RPCError, VirtioRPCClient

MIB = 1024 * 1024


def write(path: Path, size: int) -> bytes:
    content = os.urandom(size)
    path.write_bytes(content)
    return content


@pytest.mark.parametrize("checksum", ["md5", "crc32"])
def test_either_checksum(cli: Cli, remote: Remote, tmp_path: Path, checksum: str) -> None:
    content = write(tmp_path / "f", 5 * MIB + 1)
    last = "MD5: " + hashlib.md5(content).hexdigest() if checksum == "md5" else "Checksum: CRC-32 of each message"
    up = cli("upload", str(tmp_path / "f"), remote("f"), "--checksum", checksum)
    down = cli("download", remote("f"), str(tmp_path / "g"), "--checksum", checksum)
    assert (up.code, down.code) == (0, 0), up.err + down.err
    assert up.out.decode().splitlines()[-1] == down.out.decode().splitlines()[-1] == last
    assert (tmp_path / "g").read_bytes() == content


@pytest.mark.parametrize("chunk", [1, 7, 65536, 5 * MIB])
def test_chunks_of_any_size(client: VirtioRPCClient, remote: Remote, tmp_path: Path, chunk: int) -> None:
    content = write(tmp_path / "f", 40 * chunk + 3 if chunk < 65536 else 6 * MIB)
    done = client.chunked_upload_file(str(tmp_path / "f"), remote("f"), chunk_size=chunk)["data"]
    assert done["chunks_received"] == -(-len(content) // chunk)
    client.chunked_download_file(remote("f"), str(tmp_path / "g"), chunk_size=chunk)
    assert (tmp_path / "g").read_bytes() == content


def test_a_sparse_file_arrives_whole(client: VirtioRPCClient, remote: Remote, tmp_path: Path) -> None:
    with open(tmp_path / "f", "wb") as sparse:
        sparse.seek(9 * MIB)
        sparse.write(b"end")
    client.upload_file(str(tmp_path / "f"), remote("f"))
    client.download_file(remote("f"), str(tmp_path / "g"))
    assert (tmp_path / "g").read_bytes() == bytes(9 * MIB) + b"end"


def test_a_source_that_is_a_pipe(cli: Cli, guest: Guest, remote: Remote, tmp_path: Path) -> None:
    before = guest.files(remote(""))
    os.mkfifo(tmp_path / "fifo")
    done = cli("upload", str(tmp_path / "fifo"), remote("f"))
    assert done.code == 2
    assert "is not a regular file; copy its content to a file and upload that" in done.err
    assert guest.files(remote("")) == before


Change = Callable[[Guest, str], object]

GUEST_CHANGES: dict[str, tuple[Change, str]] = {
    "cut": (lambda guest, path: guest.run(["truncate", "-s", "1", path]), "was cut during the download"),
    "replaced": (
        lambda guest, path: guest.run(["sh", "-c", f"head -c 8M /dev/zero > {path}.new && mv {path}.new {path}"]),
        "was replaced by another file during the download",
    ),
    "changed": (
        lambda guest, path: guest.run(["dd", "if=/dev/zero", f"of={path}", "bs=1M", "count=8", "conv=notrunc"]),
        "was changed during the download",
    ),
    "removed": (lambda guest, path: guest.run(["rm", path]), "No such file"),
}


@pytest.mark.parametrize("change", GUEST_CHANGES)
def test_a_guests_file_that_does_not_hold_still(
    client: VirtioRPCClient, guest: Guest, remote: Remote, tmp_path: Path, change: str
) -> None:
    path = remote("f")
    guest.run(["sh", "-c", f"head -c 8M /dev/urandom > {path}"])
    (tmp_path / "g").write_bytes(b"before")
    act, message = GUEST_CHANGES[change]
    done = []

    def in_the_middle(count: int, total: int) -> None:
        if count and not done:
            done.append(act(guest, path))

    with pytest.raises(RPCError, match=message):
        client.download_file(path, str(tmp_path / "g"), chunk_size=65536, progress_callback=in_the_middle)
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == {"g": b"before"}


def test_a_guests_file_that_grows_is_read_up_to_its_first_size(
    client: VirtioRPCClient, guest: Guest, remote: Remote, tmp_path: Path
) -> None:
    path = remote("log")
    guest.run(["sh", "-c", f"head -c 4M /dev/zero > {path}"])
    grow = ["sh", "-c", f"echo more >> {path}"]
    client.download_file(path, str(tmp_path / "g"), chunk_size=65536, progress_callback=lambda *_: guest.run(grow))
    assert (tmp_path / "g").read_bytes() == bytes(4 * MIB)


LOCAL_CHANGES: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: os.truncate(path, 1),
    "grown": lambda path: os.truncate(path, 9 * MIB),
    "changed": lambda path: path.write_bytes(bytes(8 * MIB)),
}


@pytest.mark.parametrize("change", LOCAL_CHANGES)
def test_a_local_file_that_does_not_hold_still(
    client: VirtioRPCClient, guest: Guest, remote: Remote, tmp_path: Path, change: str
) -> None:
    path = remote("f")
    guest.run(["sh", "-c", f"echo before > {path}"])
    before = guest.files(remote(""))
    write(tmp_path / "f", 8 * MIB)
    os.utime(tmp_path / "f", (1, 1))
    done = []

    def in_the_middle(count: int, total: int) -> None:
        if count and not done:
            done.append(LOCAL_CHANGES[change](tmp_path / "f"))

    with pytest.raises(RPCError, match="changed during the upload"):
        client.upload_file(str(tmp_path / "f"), path, chunk_size=65536, progress_callback=in_the_middle)
    assert guest.files(remote("")) == before
    assert guest.run(["cat", path]) == "before\n"
