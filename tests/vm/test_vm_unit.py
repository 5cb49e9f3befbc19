"""The daemon's systemd unit: that it protects the daemon, and that commands and files work as they do without it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from vm_tools import cli, sh

import vsrpc
from vsrpc.errors import RpcError
from vsrpc.status import Code
from vsrpc.v1.file_pb2 import UploadRequest
from vsrpc.v1.file_vsrpc import FileStub
from vsrpc.v1.shell_pb2 import ExecRequest
from vsrpc.v1.shell_vsrpc import ShellStub

if TYPE_CHECKING:
    from scripts.vm import VM

MAIN_PID = "$(systemctl show --value -p MainPID vsrpc-guest)"
KEPT_FROM_COMMANDS = {
    "CAP_SYS_MODULE": 16,
    "CAP_SYS_RAWIO": 17,
    "CAP_SYS_BOOT": 22,
    "CAP_MKNOD": 27,
}
"""By their numbers in linux/capability.h."""


def test_systemd_understands_the_unit(vm: VM) -> None:
    assert "vsrpc" not in sh(
        vm, "journalctl -b -t systemd -o cat --no-pager | grep -iE 'unknown|ignor|invalid' || true"
    )
    shown = sh(vm, "systemctl show -p OOMPolicy -p StartLimitIntervalUSec vsrpc-guest")
    assert sorted(shown.split()) == ["OOMPolicy=continue", "StartLimitIntervalUSec=0"]


def test_the_kernel_keeps_its_integrity_and_nothing_has_a_view_of_its_own(vm: VM) -> None:
    status = sh(vm, f"cat /proc/{MAIN_PID}/status")
    bounding = int(status.split("CapBnd:")[1].split()[0], 16)
    assert [name for name, bit in KEPT_FROM_COMMANDS.items() if bounding >> bit & 1] == []
    for namespace in ("mnt", "net", "pid", "uts"):
        assert sh(vm, f"test /proc/{MAIN_PID}/ns/{namespace} -ef /proc/1/ns/{namespace} && echo same") == "same\n"


def test_a_command_is_killed_before_the_daemon_when_memory_runs_out(vm: VM) -> None:
    assert sh(vm, f"cat /proc/{MAIN_PID}/oom_score_adj") == "-900\n"
    with vsrpc.connect(str(vm.socket)) as channel:
        calling = ShellStub(channel).Exec.future(ExecRequest(argv=["sleep", "98765"], timeout=60))
        try:
            script = "until pid=$(pgrep -fx 'sleep 98765'); do sleep 0.1; done; cat /proc/$pid/oom_score_adj"
            assert sh(vm, script) == "0\n"
        finally:
            calling.cancel()
        ended = threading.Event()
        calling.add_done_callback(lambda _: ended.set())
        assert ended.wait(60)
        with pytest.raises(RpcError) as failure:
            calling.result()
        assert failure.value.code() is Code.CANCELLED


def test_a_command_may_have_huge_pages_and_the_daemon_has_none(vm: VM) -> None:
    def of(pid: str) -> str:
        return sh(vm, f"grep THP_enabled /proc/{pid}/status").split()[1]

    assert (of("1"), of(MAIN_PID)) == ("1", "0")
    job = cli(vm, "exec", "--detach", "sleep 98764").stdout.strip()
    with vsrpc.connect(str(vm.socket)) as channel:
        calling = ShellStub(channel).Exec.future(ExecRequest(argv=["sleep", "98763"], timeout=60))
        try:
            for started in ("sleep 98764", "sleep 98763"):
                assert of(f"$(until pgrep -fx '{started}'; do sleep 0.1; done)") == "1"
        finally:
            calling.cancel()
    assert cli(vm, "kill", job).returncode == 0


@pytest.mark.parametrize(
    "command",
    [
        "ping -c 1 127.0.0.1",
        "ping -c 1 ::1",
        "ip addr",
        "ss -tulpn",
        "ss -xp",
        "netstat -anp",
        "ps aux",
        "top -b -n 1",
        "df -h",
        "free -m",
        "systemctl status dbus",
        "journalctl -k -n 1",
        "find /tmp -maxdepth 1",
    ],
)
def test_commands_that_ask_the_kernel_work(vm: VM, command: str) -> None:
    done = cli(vm, "exec", command)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize("directory", ["/tmp", "/var/log", "/home", "/opt"])
def test_uploads_with_any_mode_to_the_default_places(vm: VM, directory: str) -> None:
    path = f"{directory}/unit-upload"
    with vsrpc.connect(str(vm.socket)) as channel:
        FileStub(channel).Upload(UploadRequest(path=path, content=b"x", mode="0755"))
        assert sh(vm, f"stat -c %a {path} && rm {path}") == "755\n"
        with pytest.raises(RpcError, match="/opt/vsrpc/current/x"):
            FileStub(channel).Upload(UploadRequest(path="/opt/vsrpc/current/x", content=b"x"))
