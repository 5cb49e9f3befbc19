"""A guest whose callers must sign, over its port and over vsock; with clocks that are wrong or stood still."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Iterator

import pytest
from vm_tools import BOOT, CONFIG, cli, sh

import vsrpc
from vsrpc.v1.shell_pb2 import ExecRequest
from vsrpc.v1.shell_vsrpc import ShellStub
from vsrpc.v1.system_vsrpc import SystemStub

if TYPE_CHECKING:
    from scripts.vm import VM

SECRET = "00112233445566778899aabbccddeeff"
KEY = f"host1 {SECRET}"
OPTIONS = vsrpc.ChannelOptions(key=vsrpc.Key.parse(KEY), connect_timeout=BOOT, read_timeout=BOOT)


@pytest.fixture
def keys(vm: VM) -> Iterator[None]:
    """The guest has one key."""
    sh(vm, f"umask 077; echo {KEY} > /etc/vsrpc/keys")
    yield
    sh(vm, "rm /etc/vsrpc/keys")


def serve(vm: VM, config: str) -> None:
    vm.ga.write_file(CONFIG, config.encode())
    sh(vm, "systemctl restart vsrpc-guest")
    with vsrpc.connect(str(vm.socket), OPTIONS) as channel:
        assert SystemStub(channel).Ping().message == "pong"


def test_without_keys_no_vsock_is_served(vm: VM) -> None:
    done = vm.ga.exec(["/usr/local/bin/vsrpc-guest", "--listen", "vsock:7000"], timeout=BOOT)
    assert (done.rc, b"any program of the host can connect to a vsock" in done.stderr) == (78, True), done


def test_the_daemon_serves_vsock(vm: VM, keys: None) -> None:
    """Both ends in the guest, whose kernel has the loopback that few hosts load; the same program as over the port."""
    client = (
        "import sys, vsrpc\nfrom vsrpc.v1.system_vsrpc import SystemStub\n"
        "options = vsrpc.ChannelOptions(key=vsrpc.Key.parse(sys.argv[1]) if sys.argv[1:] else None)\n"
        "with vsrpc.connect('vsock:1:7000', options) as channel:\n"
        "    print(SystemStub(channel).Ping(timeout=60).message)\n"
    )
    run = "PYTHONPATH=/opt/vsrpc/current python3 /root/vsock_client.py"
    vm.ga.write_file("/root/vsock_client.py", client.encode())
    sh(vm, "modprobe vsock_loopback && systemd-run --unit vsock-test vsrpc-guest --listen vsock:7000")
    try:
        sh(vm, "until journalctl -u vsock-test | grep -q 'serves vsock:7000'; do sleep 0.1; done")
        assert sh(vm, f"{run} '{KEY}'") == "pong\n"
        assert "takes only signed requests" in sh(vm, f"! {run} 2>&1")
    finally:
        sh(vm, "systemctl stop vsock-test")


def test_a_port_whose_callers_must_sign(
    configured: VM, keys: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = configured
    serve(vm, "security: {enable_auth: true}")
    refusals = {
        "": "no key to sign with",
        "host1 " + "00" * 16: "secrets of the two ends differ",
        f"x {SECRET}": "no key x",
    }
    for key, says in refusals.items():
        monkeypatch.setenv("VSRPC_KEY", key)
        done = cli(vm, "exec", "uptime")
        assert (done.returncode, says in done.stderr) == (204, True), done
    monkeypatch.setenv("VSRPC_KEY", KEY)
    (tmp_path / "file").write_bytes(os.urandom(5 << 20))
    for mode in ([], ["--json"]):
        done = cli(vm, *mode, "upload", str(tmp_path / "file"), "/tmp/signed")
        assert done.returncode == 0, done
        done = cli(vm, *mode, "download", "/tmp/signed", str(tmp_path / "back"))
        assert (done.returncode, (tmp_path / "back").read_bytes()) == (0, (tmp_path / "file").read_bytes()), done
    assert SECRET not in sh(vm, "journalctl -u vsrpc-guest")


def test_clocks_that_are_wrong_or_stood_still(configured: VM, keys: None, monkeypatch: pytest.MonkeyPatch) -> None:
    vm = configured
    monkeypatch.setenv("VSRPC_KEY", KEY)
    sh(vm, "date -s '+1 hour'")
    try:
        serve(vm, "security: {enable_auth: true, replay_window: 4}")
        done = cli(vm, "exec", "echo hi")
        assert done.stdout == "hi\n", done
    finally:
        sh(vm, "date -s '-1 hour'")
    with vsrpc.connect(str(vm.socket), OPTIONS) as channel:
        assert SystemStub(channel).Ping().message == "pong", "set right while the daemon runs"
        busy = ShellStub(channel).Exec.future(ExecRequest(command="sleep 2"))  # so that the session is kept
        vm.pause()
        assert cli(vm, "-t", "6", "ping").returncode == 6  # which takes longer than the window
        vm.resume()
        assert busy.result().exit_code == 0
        assert ShellStub(channel).Exec(ExecRequest(command="echo hi")).stdout == b"hi\n"
    assert "s ahead of the guest's, 4 s are allowed" in sh(vm, "journalctl -u vsrpc-guest")
