"""The daemon on a real port: what it survives, what it costs when idle; with real systemd, disks and sizes."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from vm_tools import BOOT, CONFIG, cli, sh

import vsrpc
from host.client import RPCError, VirtioRPCClient
from vsrpc.v1.file_pb2 import StatRequest
from vsrpc.v1.file_vsrpc import FileStub
from vsrpc.v1.service_pb2 import ControlRequest
from vsrpc.v1.service_vsrpc import ServiceManagerStub
from vsrpc.v1.shell_pb2 import ExecRequest
from vsrpc.v1.shell_vsrpc import ShellStub
from vsrpc.v1.system_vsrpc import SystemStub

if TYPE_CHECKING:
    from scripts.vm import VM

PORT = "/dev/virtio-ports/test.vserial.0"


def patient(vm: VM) -> vsrpc.Channel:
    """A channel that waits for a guest that is on its way."""
    return vsrpc.connect(str(vm.socket), vsrpc.ChannelOptions(connect_timeout=BOOT, read_timeout=BOOT))


def test_every_service_answers_typed_calls(vm: VM) -> None:
    with patient(vm) as channel:
        info = SystemStub(channel).Info()
        assert (info.os, info.os_version) == ("Linux", "Debian GNU/Linux 12 (bookworm)")
        assert info.kernel == sh(vm, "uname -r").strip()
        assert info.machine_id == sh(vm, "cat /etc/machine-id").strip()
        assert info.virtualization in ("qemu", "kvm")
        assert any(each.mountpoint == "/" and each.total > each.used > 0 for each in info.filesystems)
        assert 0 < SystemStub(channel).Status().memory_usage < 100
        assert ShellStub(channel).Exec(ExecRequest(argv=["uname", "-n"])).stdout.decode().strip() == info.hostname
        assert FileStub(channel).Stat(StatRequest(path="/etc/hosts")).exists
        assert ServiceManagerStub(channel).Control(ControlRequest(name="dbus", action="status")).status == "running"


def test_idle_without_and_with_a_client_uses_no_cpu(vm: VM) -> None:
    """A naive loop on the port uses all of it. The bound is a tenth of the time that passes."""
    script = (
        "pid=$(systemctl show --value -p MainPID vsrpc-guest); "
        "ticks() { cut -d ' ' -f 14,15 /proc/$pid/stat | tr ' ' +; }; "
        "before=$(($(ticks))); sleep 4; echo $(($(ticks) - before)) $(getconf CLK_TCK)"
    )
    ticks, per_second = map(int, sh(vm, script).split())
    assert ticks < 4 * per_second / 10
    with patient(vm) as channel:
        SystemStub(channel).Ping()
        ticks, per_second = map(int, sh(vm, script).split())
        assert ticks < 4 * per_second / 10


def test_large_files_both_ways(vm: VM, tmp_path: Path) -> None:
    size = 100 * 1024 * 1024
    digest = hashlib.md5()
    with open(tmp_path / "big", "wb") as stream:
        for _ in range(100):
            block = os.urandom(1024 * 1024)
            digest.update(block)
            stream.write(block)
    for mode in ([], ["--json"]):
        done = cli(vm, *mode, "upload", str(tmp_path / "big"), "/home/big")
        assert done.returncode == 0, done.stderr
        assert f"({size} bytes)\nMD5: {digest.hexdigest()}" in done.stdout
        assert sh(vm, "md5sum < /home/big").split()[0] == digest.hexdigest()
        done = cli(vm, *mode, "download", "/home/big", str(tmp_path / "back"))
        assert done.returncode == 0, done.stderr
        with open(tmp_path / "back", "rb") as stream:
            assert hashlib.file_digest(stream, "md5").hexdigest() == digest.hexdigest()  # type: ignore[attr-defined]
        os.unlink(tmp_path / "back")
        sh(vm, "rm /home/big; ! ls -a /home | grep vsrpc")


def test_disk_full_leaves_the_target_as_it_was(configured: VM, tmp_path: Path) -> None:
    vm = configured
    sh(vm, "mkdir -p /tmp/small && mount -t tmpfs -o size=4m none /tmp/small && echo old > /tmp/small/target")
    try:
        (tmp_path / "f").write_bytes(bytes(6 * 1024 * 1024))
        (tmp_path / "g").write_bytes(bytes(2 * 1024 * 1024))
        done = cli(vm, "upload", str(tmp_path / "f"), "/tmp/small/target")
        assert done.returncode == 5
        assert "/tmp/small/target" in done.stderr
        assert "space" in done.stderr
        # In one call, where what is free is not known before.
        sh(vm, "head -c 3000000 /dev/zero > /tmp/small/filler")
        done = cli(vm, "upload", str(tmp_path / "g"), "/tmp/small/target")
        assert done.returncode == 5
        assert "space" in done.stderr
        # And in the midst of the chunks, when somebody else fills the disk.
        (tmp_path / "h").write_bytes(bytes(2_000_000))
        sh(vm, "truncate -s 0 /tmp/small/filler")

        def fill(done: int, total: int) -> None:
            if done == 390_000:
                sh(vm, "cat /dev/zero > /tmp/small/filler 2>/dev/null; true")

        with VirtioRPCClient(str(vm.socket)) as client, pytest.raises(RPCError, match="space"):
            client.chunked_upload_file(
                str(tmp_path / "h"), "/tmp/small/target", chunk_size=10_000, progress_callback=fill
            )
        assert sh(vm, "ls -A /tmp/small && cat /tmp/small/target").split() == ["filler", "target", "old"]
    finally:
        sh(vm, "umount /tmp/small")


def test_services_are_really_controlled(vm: VM) -> None:
    unit = "[Service]\nExecStart=/bin/sh -c 'exec sleep infinity'\n[Install]\nWantedBy=multi-user.target\n"
    vm.ga.write_file("/etc/systemd/system/vsrpc-test.service", unit.encode())
    vm.ga.write_file("/etc/systemd/system/vsrpc-bad.service", b"[Service]\nType=oneshot\nExecStart=/bin/false\n")
    sh(vm, "systemctl daemon-reload")
    with VirtioRPCClient(str(vm.socket)) as client:
        seen = []
        for action in ("status", "start", "enable", "restart", "status", "stop", "disable"):
            data = client.control_service("vsrpc-test", action)["data"]
            seen.append((action, data["status"], data["enabled"], data["pid"] > 0))
        assert seen == [
            ("status", "stopped", False, False),
            ("start", "running", False, True),
            ("enable", "running", True, True),
            ("restart", "running", True, True),
            ("status", "running", True, True),
            ("stop", "stopped", True, False),
            ("disable", "stopped", False, False),
        ]
        with pytest.raises(RPCError) as caught:
            client.control_service("vsrpc-bad", "start")
        assert (caught.value.reason, "vsrpc-bad" in caught.value.message) == ("UNIT_FAILED", True)
        assert client.control_service("vsrpc-bad", "status")["data"]["status"] == "failed"
    sh(vm, "rm /etc/systemd/system/vsrpc-test.service /etc/systemd/system/vsrpc-bad.service; systemctl daemon-reload")
    done = cli(vm, "service", "no-such-unit", "start")
    assert (done.returncode, "no-such-unit" in done.stderr) == (5, True)


def test_client_before_the_daemon(vm: VM) -> None:
    """The client connects while nobody serves the port; the daemon that starts later answers it."""
    sh(vm, "systemctl stop vsrpc-guest")
    pings: list[str] = []

    def ping() -> None:
        with patient(vm) as channel:
            pings.append(SystemStub(channel).Ping().message)

    thread = threading.Thread(target=ping)
    thread.start()
    done = None
    try:
        # A second client waits behind the first, and names it when its time is up.
        done = cli(vm, "-t", "1", "ping")
    finally:
        sh(vm, "systemctl start vsrpc-guest")
        thread.join(BOOT)
    assert pings == ["pong"]
    assert done.returncode == 6
    assert f"held by process {os.getpid()} (" in done.stderr
    assert done.stderr.count("\n") == 1


def test_channel_outlives_a_restart_of_the_daemon(vm: VM) -> None:
    pid = sh(vm, "systemctl show --value -p MainPID vsrpc-guest")
    with patient(vm) as channel:
        stub = SystemStub(channel)
        assert stub.Ping().message == "pong"
        sh(vm, "systemctl kill -s KILL vsrpc-guest")
        vm.wait_daemon()
        assert stub.Ping().message == "pong"
    assert sh(vm, "systemctl show --value -p MainPID vsrpc-guest") != pid


def test_client_that_leaves_in_mid_request(vm: VM) -> None:
    import socket

    for part in (b"POST /api/v1/shell/exec HT", b"POST /x HTTP/1.1\r\nHost: g\r\nContent-Length: 100000\r\n\r\nhalf"):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(vm.socket))
            client.sendall(part)
        with patient(vm) as channel:
            assert SystemStub(channel).Ping().message == "pong"


def test_broken_request_is_answered_and_the_next_client_served(vm: VM) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(vm.socket))
        client.settimeout(BOOT)
        client.sendall(b"GET / HTTP/1.1\nHost: g\r\n\r\nGET /api/v1/ping HTTP/1.1\r\nHost: g\r\n\r\n")
        answer = client.recv(4096)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"connection: close" in answer.lower()
        client.settimeout(1)
        with pytest.raises(TimeoutError):  # what follows a broken request is never served
            client.recv(4096)
    with patient(vm) as channel:
        assert SystemStub(channel).Ping().message == "pong"


def test_unplug_and_replug(vm: VM) -> None:
    pid = sh(vm, "systemctl show --value -p MainPID vsrpc-guest")
    vm.unplug_port()
    sh(vm, f"while test -e {PORT}; do sleep 0.1; done")
    vm.replug_port()
    with patient(vm) as channel:
        assert SystemStub(channel).Ping().message == "pong"
    assert sh(vm, "systemctl show --value -p MainPID vsrpc-guest") == pid


def test_reboot_of_the_guest(vm: VM) -> None:
    with patient(vm) as channel:
        boot = SystemStub(channel).Info().boot_time
        sh(vm, "echo before > /home/kept && sync")
    vm.reset()
    with patient(vm) as channel:
        assert SystemStub(channel).Info().boot_time > boot
        assert ShellStub(channel).Exec(ExecRequest(command="cat /home/kept")).stdout == b"before\n"


@pytest.mark.parametrize(
    ("config", "command", "code", "output"),
    [
        ("security: {allowed_commands: null}", "echo $((6 * 7)); exit 3", 3, "42\n"),
        ("security: {allowed_commands: [id]}", "id -un", 0, "root\n"),
        ("security: {allowed_commands: [id]}", "ls /tmp", 204, "Command not allowed: ls"),
        ("security: {allowed_paths: [/var/]}", "cat /tmp/x", 204, "Path not in allowed list: /tmp/x"),
    ],
)
def test_policy_of_the_configuration(configured: VM, config: str, command: str, code: int, output: str) -> None:
    configured.ga.write_file(CONFIG, config.encode())
    sh(configured, "systemctl restart vsrpc-guest")
    configured.wait_daemon()
    done = cli(configured, "exec", command)
    assert (done.returncode, output in done.stdout + done.stderr) == (code, True), done


def test_a_port_is_healed_once(configured: VM) -> None:
    """Its name does not change by that, so what was remembered of it must be forgotten."""
    vm = configured
    vm.ga.write_file(CONFIG, b"device: {allow_rebind: true}")
    name = sh(vm, "basename $(readlink -f /dev/virtio-ports/test.vserial.0)").strip()
    sh(vm, f"mkdir -p /run/vsrpc-guest && echo 120 > /run/vsrpc-guest/{name}.lost-output")
    since = sh(vm, "date +%s").strip()
    sh(vm, "systemctl restart vsrpc-guest")
    for _ in range(3):
        with patient(vm) as channel:
            SystemStub(channel).Ping()
    assert sh(vm, f"journalctl -u vsrpc-guest --since @{since} | grep -c 'binding its driver anew'").strip() == "1"
    # An attempt to connect that the binding has cut short may count; the many of before must not.
    assert int(sh(vm, f"cat /run/vsrpc-guest/{name}.lost-output")) < 10


def test_wrong_configuration_serves_nothing(configured: VM) -> None:
    configured.ga.write_file(CONFIG, b"server:\n  max_request_size: ten\n")
    done = configured.ga.exec(["/usr/local/bin/vsrpc-guest", "--config", CONFIG])
    assert done.rc == 78
    assert f"{CONFIG}:2: server.max_request_size" in done.stderr.decode()


def test_log_file_and_no_trace_of_requests_that_a_client_forges(configured: VM) -> None:
    configured.ga.write_file(CONFIG, b"logging: {file: /var/log/virtio-rpc.log}\n")
    sh(configured, "systemctl restart vsrpc-guest")
    configured.wait_daemon()
    assert cli(configured, "file-info", "/tmp/a\nERROR forged").returncode == 0
    deadline = time.monotonic() + 30
    while "/vsrpc.v1.File/Stat" not in (log := sh(configured, "cat /var/log/virtio-rpc.log")):
        assert time.monotonic() < deadline, log
    assert not any(line.startswith("ERROR forged") for line in log.splitlines())


def test_plain_clients_that_follow_one_another_at_once(vm: VM) -> None:
    """Each is answered, although the guest may see neither that one has left nor that the next one has come."""
    import socket

    for number in range(150):
        close = b"Connection: close\r\n" if number % 3 == 0 else b""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(vm.socket))
            client.settimeout(10)
            client.sendall(b"GET /api/v1/ping HTTP/1.1\r\nHost: g\r\n" + close + b"\r\n")
            answer = b""
            try:
                while b"pong" not in answer:
                    answer += client.recv(4096)
            except TimeoutError:
                pytest.fail(f"client {number} was not answered")
