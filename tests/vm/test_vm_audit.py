"""The audit log of the real daemon, in the journal and in a file, and what it removes after a crash."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Iterator

import pytest
from vm_tools import BOOT, cli, sh

import vsrpc
from vsrpc.v1.file_pb2 import InitUploadRequest, UploadChunkRequest
from vsrpc.v1.file_vsrpc import FileStub

if TYPE_CHECKING:
    from pathlib import Path

    from scripts.vm import VM

CONFIG = "/etc/vsrpc/guest.yaml"
LOG = "/var/log/vsrpc/audit.log"
PLACE = "/home/overlay"


@pytest.fixture
def with_file(vm: VM) -> Iterator[VM]:
    """A VM whose daemon writes a file."""
    before = vm.ga.read_file(CONFIG)
    vm.ga.write_file(CONFIG, f"audit: {{file: {LOG}}}\n".encode())
    sh(vm, "systemctl restart vsrpc-guest")
    vm.wait_daemon()
    yield vm
    vm.ga.write_file(CONFIG, before)
    sh(vm, f"systemctl restart vsrpc-guest; rm -r {LOG}")
    vm.wait_daemon()


def told(events: list[Any]) -> list[Any]:
    return [(each["event"], each.get("rpc", "").rpartition("/")[2], each.get("decision")) for each in events]


def do_things(vm: VM, tmp_path: Path) -> None:
    """What an operator wants to know of; the last part is refused."""
    (tmp_path / "f").write_bytes(b"content")
    assert cli(vm, "exec", "env MYSQL_PWD=s3cret id -u").returncode == 204
    assert cli(vm, "exec", "id -u").stdout == "0\n"
    assert cli(vm, "upload", str(tmp_path / "f"), "/home/audited").returncode == 0
    assert cli(vm, "download", "/home/audited", str(tmp_path / "g")).returncode == 0
    assert cli(vm, "exec", "rm /home/audited").returncode == 204


DONE = [
    ("call", "Start", "refused"),
    ("begin", "Start", None),
    ("call", "Start", "allowed"),
    ("call", "Forget", "allowed"),
    ("call", "Upload", "allowed"),
    ("call", "DownloadChunk", "allowed"),
    ("call", "Start", "refused"),
]


def test_the_journal_has_the_audit_log(vm: VM, tmp_path: Path) -> None:
    since = sh(vm, "date +%s.%N").strip()
    do_things(vm, tmp_path)
    lines = sh(vm, f"journalctl -u vsrpc-guest -o cat --since @{since}").splitlines()
    events = [json.loads(line.partition("INFO audit: ")[2]) for line in lines if line.startswith("INFO audit: ")]
    assert told(events)[-len(DONE) :] == DONE
    refused = events[-len(DONE)]["args"]
    assert (refused["command"], refused["timeout"]) == ("env MYSQL_PWD=*** id -u", 30.0)


def test_the_file_has_it_too_and_a_crash_leaves_no_temporary_file(with_file: VM, tmp_path: Path) -> None:
    vm = with_file
    do_things(vm, tmp_path)
    assert sh(vm, f"stat -c %a:%U {LOG}") == "600:root\n"
    events = [json.loads(line) for line in sh(vm, f"cat {LOG}").splitlines()]
    assert told(events)[-len(DONE) :] == DONE
    run, put = events[-len(DONE) + 2], events[-len(DONE) + 4]
    assert run["args"]["command"] == "id -u"
    assert (put["args"]["path"], put["result"]["size"]) == ("/home/audited", 7)
    # A file system that makes no file without a name (Linux before 6.3).
    sh(vm, f"cd /home && mkdir -p lower upper work {PLACE} && modprobe overlay")
    sh(vm, f"mount -t overlay none -o lowerdir=/home/lower,upperdir=/home/upper,workdir=/home/work {PLACE}")
    try:
        options = vsrpc.ChannelOptions(connect_timeout=BOOT, read_timeout=BOOT)
        with vsrpc.connect(str(vm.socket), options) as channel:
            stub = FileStub(channel)
            session = stub.InitUpload(InitUploadRequest(path=f"{PLACE}/f", size=100)).session_id
            stub.UploadChunk(UploadChunkRequest(session_id=session, offset=0, content=b"half"))
            name = sh(vm, f"ls -A {PLACE}").strip()
            assert name.startswith(".vsrpc-upload-")
            sh(vm, "systemctl kill -s KILL vsrpc-guest")
        vm.wait_daemon()
        sh(vm, f"for n in $(seq 300); do test -e {PLACE}/{name} || exit 0; sleep 0.1; done; exit 1")
        sh(vm, f"for n in $(seq 300); do grep -q '\"removed\"' {LOG} && exit 0; sleep 0.1; done; exit 1")
        last = json.loads(sh(vm, f"grep '\"removed\"' {LOG}"))
        assert last["path"] == f"{PLACE}/{name}"
        assert sh(vm, f"ls -A {PLACE}; ls -A /var/lib/vsrpc-guest/uploads") == ""
    finally:
        sh(vm, f"umount {PLACE}; rm -rf /home/lower /home/upper /home/work {PLACE} /home/audited")
