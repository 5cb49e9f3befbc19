"""One channel that lives through whatever happens to the guest, and what becomes of calls made meanwhile."""

from __future__ import annotations

import signal
import threading
import time
from typing import TYPE_CHECKING, Any, Callable

import pytest
from vm_tools import BOOT, sh, start

import vsrpc
from vsrpc import RpcError
from vsrpc.v1.shell_pb2 import ExecRequest
from vsrpc.v1.shell_vsrpc import ShellStub
from vsrpc.v1.system_vsrpc import SystemStub

if TYPE_CHECKING:
    from scripts.vm import VM

RUNNING = "pgrep -x sleep || true"


def replug(vm: VM) -> None:
    vm.unplug_port()
    vm.replug_port()


def pause(vm: VM) -> None:
    vm.pause()
    vm.resume()


FAULTS: dict[str, Callable[[VM], Any]] = {
    "restart": lambda vm: sh(vm, "systemctl restart vsrpc-guest"),
    "kill": lambda vm: sh(vm, "systemctl kill -s KILL vsrpc-guest"),
    "replug": replug,
    "pause": pause,
    "reset": lambda vm: vm.qmp("system_reset"),
}
KEEP_THE_DAEMON = ("replug", "pause")


def channel_to(vm: VM) -> vsrpc.Channel:
    return vsrpc.connect(str(vm.socket), vsrpc.ChannelOptions(connect_timeout=BOOT, read_timeout=BOOT))


@pytest.fixture(autouse=True)
def booted(vm: VM) -> Any:
    yield
    vm.wait_boot()  # the guest agent's tests follow
    vm.wait_daemon()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_channel_outlives(vm: VM, fault: str) -> None:
    """Calls that may be repeated, and such as are made only afterwards, notice nothing."""
    with channel_to(vm) as channel:
        assert SystemStub(channel).Ping().message == "pong"
        FAULTS[fault](vm)
        assert SystemStub(channel).Ping().message == "pong"
        assert ShellStub(channel).Exec(ExecRequest(command="echo still here")).stdout == b"still here\n"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_call_under_way_runs_once_or_says_that_nobody_knows(vm: VM, fault: str) -> None:
    sh(vm, "rm -f /tmp/once")
    outcome: list[Any] = []

    def call(channel: vsrpc.Channel) -> None:
        command = "echo x >> /tmp/once && sleep 2 && echo done"
        try:
            outcome.append(ShellStub(channel).Exec(ExecRequest(command=command)).stdout)
        except RpcError as error:
            outcome.append(error.reason)

    with channel_to(vm) as channel:
        SystemStub(channel).Ping()
        thread = threading.Thread(target=call, args=(channel,))
        thread.start()
        deadline = time.monotonic() + BOOT
        while not sh(vm, RUNNING):
            assert time.monotonic() < deadline, "the command never began"
        FAULTS[fault](vm)
        thread.join(BOOT)
        if fault in KEEP_THE_DAEMON:
            assert outcome == [b"done\n"]
        elif fault == "restart":  # the daemon tells, or was too soon gone; or systemd's signal ended `sleep` before it
            assert outcome[0] in ("OUTCOME_UNKNOWN", "SERVICE_UNAVAILABLE", "CANCELLED", b"")
        else:
            assert outcome == ["OUTCOME_UNKNOWN"]
        if fault != "reset":  # what is written just before it may not reach the disk
            assert ShellStub(channel).Exec(ExecRequest(command="cat /tmp/once")).stdout == b"x\n"


def test_an_interrupted_command_ends_in_the_guest(vm: VM) -> None:
    with start(vm, "exec", "sleep 300", "--timeout", "300") as process:
        deadline = time.monotonic() + BOOT
        while not sh(vm, RUNNING):
            assert time.monotonic() < deadline, "the command never began"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=BOOT)
    assert process.returncode == 130
    deadline = time.monotonic() + BOOT
    while sh(vm, RUNNING):
        assert time.monotonic() < deadline, "the command runs on"
