"""Operations on a real guest: its file systems, clock, name, power, and its journal. All calls are signed."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Iterator

import pytest
from vm_tools import BOOT, CONFIG, cli, sh, start

import vsrpc
from vsrpc.errors import RpcError
from vsrpc.status import Code
from vsrpc.v1 import machine_pb2 as pb
from vsrpc.v1.machine_vsrpc import MachineStub
from vsrpc.v1.shell_pb2 import ExecRequest
from vsrpc.v1.shell_vsrpc import ShellStub
from vsrpc.v1.system_vsrpc import SystemStub

if TYPE_CHECKING:
    from scripts.vm import VM

KEY = "host1 00112233445566778899aabbccddeeff"
OPTIONS = vsrpc.ChannelOptions(key=vsrpc.Key.parse(KEY), connect_timeout=BOOT, read_timeout=BOOT)
LOG = "/var/log/vsrpc-audit.log"
SETTINGS = f"""
security: {{enable_auth: true, operations: {{power: true, freeze: true}}}}
audit: {{file: {LOG}}}
"""
MAIN_PID = "$(systemctl show --value -p MainPID vsrpc-guest)"
WRITE = "echo x > /root/written"


@pytest.fixture(scope="module", autouse=True)
def operated(vm: VM) -> Iterator[None]:
    before = vm.ga.read_file(CONFIG)
    vm.ga.write_file(CONFIG, SETTINGS.encode())
    sh(vm, f"umask 077; echo {KEY} > /etc/vsrpc/keys; systemctl restart vsrpc-guest")
    vm.wait_daemon()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VSRPC_KEY", KEY)
        yield
    vm.ga.write_file(CONFIG, before)
    sh(vm, f"rm -f /etc/vsrpc/keys {LOG}*; systemctl restart vsrpc-guest")
    vm.wait_daemon()


@pytest.fixture
def channel(vm: VM) -> Iterator[vsrpc.Channel]:
    with vsrpc.connect(str(vm.socket), OPTIONS) as made:
        yield made


def ran(vm: VM, *argv: str) -> str:
    done = cli(vm, *argv)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_write_waits_until_the_thaw_and_so_do_the_logs(vm: VM, channel: vsrpc.Channel) -> None:
    machine = MachineStub(channel)
    assert list(machine.Freeze(pb.FreezeRequest(lease=300)).mountpoints) == ["/"]
    # It waits where no signal reaches it.
    script = f"({WRITE}) </dev/null >/dev/null 2>&1 & until grep -q '^State:.D' /proc/$!/status; do sleep 0.1; done"
    sh(vm, script)
    size = sh(vm, f"stat -c %s {LOG}")
    with pytest.raises(RpcError, match="Frozen already: /; thaw first"):
        machine.Freeze(pb.FreezeRequest())
    for _ in range(3):
        with pytest.raises(RpcError, match="File systems are frozen") as caught:
            ShellStub(channel).Exec(ExecRequest(argv=["true"]))
        assert caught.value.code() is Code.FAILED_PRECONDITION
    assert SystemStub(channel).Ping().message == "pong"
    assert ran(vm, "journal", "-n", "1")
    assert sh(vm, f"stat -c %s {LOG}") == size
    assert list(machine.Thaw(pb.ThawRequest()).mountpoints) == ["/"]
    sh(vm, "until grep -qx x /root/written; do sleep 0.1; done; rm /root/written")
    events = [json.loads(line) for line in sh(vm, f"tail -n 5 {LOG}").splitlines()]
    told = [(each["rpc"].rpartition("/")[2], each["result"].get("reason", "OK")) for each in events]
    assert told == [("Freeze", "WRONG_STATE"), *[("Exec", "WRONG_STATE")] * 3, ("Thaw", "OK")]
    assert list(machine.Thaw(pb.ThawRequest()).mountpoints) == []


def test_who_goes_away_leaves_nothing_frozen(vm: VM) -> None:
    told = ran(vm, "freeze", "--lease", "2")
    assert re.fullmatch(r"frozen for [12] s at most: /\n", told), told  # on a slow machine one has gone by
    sh(vm, WRITE)
    sh(vm, "until journalctl -u vsrpc-guest -o cat | grep -q 'nobody has thawed / within'; do sleep 0.1; done")


@pytest.mark.parametrize(("kill", "left"), [(f"kill -9 {MAIN_PID}", 0), ("systemctl kill -s KILL vsrpc-guest", 1)])
def test_a_daemon_that_dies_leaves_nothing_frozen(vm: VM, kill: str, left: int) -> None:
    """By its guard, and where that dies too, by the daemon that follows it."""
    ran(vm, "freeze", "--lease", "600")
    sh(vm, f"{kill}; {WRITE}")
    vm.wait_daemon()
    sh(vm, "! test -e /run/vsrpc-guest.frozen && ! pgrep -f '[t]haw_guard'")
    said = "/: thawed, a daemon that has died left them frozen"
    assert int(sh(vm, f"journalctl --sync; journalctl -u vsrpc-guest -o cat | grep -c '{said}' || true")) == left
    assert ran(vm, "thaw") == "nothing was frozen\n"


def test_a_restart_thaws(vm: VM) -> None:
    ran(vm, "freeze", "--lease", "600")
    sh(vm, f"systemctl restart vsrpc-guest; {WRITE}")
    vm.wait_daemon()


def test_the_clock_does_not_matter_to_calls(vm: VM, channel: vsrpc.Channel) -> None:
    machine = MachineStub(channel)
    sleeping = ShellStub(channel).Exec.future(ExecRequest(argv=["sleep", "3"], timeout=60))
    for offset in (-3600, 3600, 0):
        asked = int((time.time() + offset) * 1e6)
        reply = machine.SetTime(pb.SetTimeRequest(time_us=asked, hardware=True))
        assert 0 <= reply.time_us - asked < 60e6
        assert abs(machine.GetTime(pb.GetTimeRequest()).time_us / 1e6 - time.time() - offset) < 60
    assert sleeping.result().exit_code == 0
    assert re.match(r"set; it was changed by [+-]\d+\.\d{3} s\n", ran(vm, "time", "--sync"))


def test_the_host_name(vm: VM) -> None:
    before = ran(vm, "hostname").strip()
    try:
        assert ran(vm, "hostname", "renamed-1") == f"renamed-1 (it was {before})\n"
        assert sh(vm, "hostname; cat /etc/hostname") == "renamed-1\nrenamed-1\n"
        assert ran(vm, "hostname") == "renamed-1\n"
    finally:
        cli(vm, "hostname", before)
    assert sh(vm, "hostname; cat /etc/hostname") == f"{before}\n{before}\n"


def test_trim_and_processes(vm: VM, channel: vsrpc.Channel) -> None:
    machine = MachineStub(channel)
    (root,) = machine.Trim(pb.TrimRequest()).filesystems
    assert (root.mountpoint, root.error) == ("/", "")
    listed = {each.pid: each for each in machine.Processes(pb.ProcessesRequest(limit=1000)).processes}
    assert (listed[1].user, listed[2].command) == ("root", "[kthreadd]")


def test_the_journal_is_followed_beyond_the_daemons_end(vm: VM) -> None:
    say = "systemd-run -q --wait --unit vsrpc-talk printf '%b\\n'"
    sh(vm, f"{say} 'a\\0377b'; {say} two; {say} three")
    shown = ran(vm, "journal", "-u", "vsrpc-talk", "-o", "json")
    entries = [each for each in map(json.loads, shown.splitlines()) if each["identifier"] == "printf"]
    assert [each["message"] for each in entries] == ["a\ufffdb", "two", "three"]
    assert (entries[0]["message_base64"], entries[0]["unit"]) == ("Yf9i", "vsrpc-talk.service")
    moment = f"@{entries[1]['time_us'] // 10**6}.{entries[1]['time_us'] % 10**6:06}"
    options = ("-u", "vsrpc-talk", "-o", "cat")
    assert ran(vm, "journal", *options, "--since", moment).splitlines()[0] == "two"
    assert ran(vm, "journal", *options, "--since", moment, "-n", "50").splitlines()[0] == "two"
    assert ran(vm, "journal", *options, "--until", moment, "-n", "1") == "two\n"
    assert ran(vm, "journal", *options, "--since", moment, "--until", moment, "-n", "9") == "two\n"
    assert ran(vm, "journal", *options, "-p", "err") == ""
    with start(vm, "journal", *options, "-f", "-n", "0") as following:
        try:
            assert following.stdout is not None
            # Nothing tells that it has begun: so what is said before is said until it is heard.
            sh(vm, f"(until test -e /run/heard; do {say} before; sleep 0.2; done) >/dev/null 2>&1 &")
            assert "before\n" in iter(following.stdout.readline, "")
            sh(vm, "touch /run/heard; systemctl restart vsrpc-guest")
            sh(vm, f"{say} after")
            assert "after\n" in iter(following.stdout.readline, "")
        finally:
            following.kill()
            sh(vm, "rm /run/heard")


def test_a_reboot_after_the_reply(vm: VM) -> None:
    assert ran(vm, "shutdown", "--delay", "3600", "--message", "for a test").startswith("shuts down at ")
    assert ran(vm, "shutdown", "--cancel") == "called off\n"
    assert cli(vm, "shutdown", "--cancel").returncode == 5
    before = vm.boot_id()
    assert ran(vm, "reboot").startswith("reboots at ")
    vm.wait_boot(before)
    vm.wait_daemon()
