"""`vsrpc-host doctor` and `vsrpc-host wait` on a real port."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Iterator

import pytest
from vm_tools import BOOT, cli, sh, start

if TYPE_CHECKING:
    from scripts.vm import VM

CHECKS = ["socket", "turn", "clients", "guest", "ping", "output", "policy"]


def checks(lines: list[str]) -> dict[str, str]:
    return {words[0]: words[1] for words in (line.split() for line in lines if line[0] != " ")}


@pytest.fixture
def daemon_stopped(vm: VM) -> Iterator[VM]:
    sh(vm, "systemctl stop vsrpc-guest")
    yield vm
    sh(vm, "systemctl start vsrpc-guest")
    vm.wait_daemon()


def test_healthy(vm: VM) -> None:
    vm.wait_daemon()
    for mode in ([], ["--json"]):
        done = cli(vm, *mode, "doctor")
        lines = done.stdout.splitlines()
        assert (done.returncode, done.stderr) == (0, "")
        # What the tests before this one left on the way may be found, and is healed.
        assert lines[-1].startswith(("verdict  fine: ", "verdict  healed: ")), lines
        assert list(checks(lines)) == [*CHECKS, "verdict"]
        assert "fault" not in checks(lines).values()
        assert "process " in lines[0], "QEMU listens"
        assert "qemu" in lines[0]
    data = json.loads(cli(vm, "-r", "doctor").stdout)["data"]
    assert (data["verdict"], data["facts"]["port"], data["facts"]["attempts"]) == ("fine", True, 1)


def test_daemon_stopped(daemon_stopped: VM) -> None:
    done = cli(daemon_stopped, "doctor", "-t", "4")
    lines = done.stdout.splitlines()
    assert (done.returncode, lines[-1].startswith("verdict  silent: ")) == (6, True), lines
    assert checks(lines[:-1]) == {"socket": "ok", "turn": "ok", "clients": "ok", "guest": "fault"}
    assert any("systemctl status vsrpc-guest" in line for line in lines)


def test_another_client_has_the_turn(vm: VM) -> None:
    vm.wait_daemon()
    with start(vm, "exec", "echo begun; sleep 20") as other:
        # The lock is there before the command is: only the doctor's own word is relied on.
        lines: list[str] = []
        while not any("held by process" in line for line in lines):
            done = cli(vm, "doctor", "-t", "1")
            lines = done.stdout.splitlines()
        assert (done.returncode, lines[-1].startswith("verdict  held: ")) == (6, True), lines
        assert f"process {other.pid} (python -m host" in lines[-1]
        other.kill()
    done = cli(vm, "doctor")
    assert (done.returncode, checks(done.stdout.splitlines())["turn"]) == (0, "ok"), done


def test_a_client_that_takes_no_turns(vm: VM) -> None:
    program = (
        "import signal, socket, sys; s = socket.socket(1); s.connect(sys.argv[1]); print(1, flush=True); signal.pause()"
    )
    with subprocess.Popen(["python3", "-c", program, str(vm.socket)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"1\n"
        done = cli(vm, "doctor", "-t", "2")
        lines = done.stdout.splitlines()
        other.kill()
    assert (done.returncode, lines[-1].startswith("verdict  held: ")) == (6, True), lines
    assert f"process {other.pid} (" in lines[-1]
    done = cli(vm, "doctor")
    assert (done.returncode, "the guest can be called" in done.stdout.splitlines()[-1]) == (0, True), done


def test_wait_across_a_restart_of_the_daemon(daemon_stopped: VM) -> None:
    vm = daemon_stopped
    done = cli(vm, "wait", "--timeout", "2")
    assert (done.returncode, "has not answered within 2 s; last: " in done.stderr) == (6, True), done
    with start(vm, "-d", "wait") as waiting:
        assert waiting.stderr is not None
        assert "calling unix:" in waiting.stderr.readline()
        sh(vm, "systemctl start vsrpc-guest")
        out, err = waiting.communicate(timeout=BOOT)
    assert (waiting.returncode, json.loads(out)["message"]) == (0, "pong"), err


def test_wait_across_a_reboot(vm: VM) -> None:
    before = json.loads(cli(vm, "info").stdout)["boot_time"]
    vm.reset()
    done = cli(vm, "wait", "--timeout", str(BOOT))
    assert (done.returncode, json.loads(done.stdout)["message"]) == (0, "pong"), done
    assert json.loads(cli(vm, "info").stdout)["boot_time"] > before
