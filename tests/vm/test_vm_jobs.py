"""Jobs on the real guest: they outlive the daemon and its port, and belong to a unit of their own."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Iterator

import pytest
from vm_tools import CONFIG, cli, sh, start

if TYPE_CHECKING:
    from scripts.vm import VM


def test_a_stream_goes_on_over_a_killed_daemon(vm: VM) -> None:
    fifo = "/tmp/vsrpc-jobs-fifo"
    sh(vm, f"rm -f {fifo}; mkfifo {fifo}")
    with start(vm, "exec", "--timeout", "200", f"echo before; cat {fifo}; echo after") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "before\n"
        pid = sh(vm, "systemctl show --value -p MainPID vsrpc-guest")
        sh(vm, "systemctl kill -s KILL vsrpc-guest")
        vm.wait_daemon()
        assert sh(vm, "systemctl show --value -p MainPID vsrpc-guest") != pid
        sh(vm, f"echo meanwhile > {fifo}")
        out, err = process.communicate(timeout=200)
    assert (out, err, process.returncode) == ("meanwhile\nafter\n", "", 0)
    sh(vm, f"rm {fifo}")


def test_a_detached_job_outlives_a_restart_of_the_daemon(vm: VM) -> None:
    job = cli(vm, "exec", "--detach", "sleep 600").stdout.strip()
    listed = json.loads(cli(vm, "-r", "jobs").stdout)["data"]["jobs"]
    pid = next(each["pid"] for each in listed if each["job_id"] == job)
    assert "vsrpc-jobs.service" in sh(vm, f"cat /proc/{pid}/cgroup")
    sh(vm, "systemctl restart vsrpc-guest")
    vm.wait_daemon()
    assert "running" in next(line for line in cli(vm, "jobs").stdout.splitlines() if line.startswith(job))
    assert cli(vm, "kill", job, "--signal", "KILL").returncode == 0
    assert cli(vm, "attach", job).returncode == 137


def test_jobs_whose_keeper_has_ended_are_told_of(vm: VM) -> None:
    job = cli(vm, "exec", "--detach", "sleep 600").stdout.strip()
    sh(vm, "systemctl kill -s KILL vsrpc-jobs; while systemctl is-active -q vsrpc-jobs; do :; done")
    done = cli(vm, "attach", job)
    assert (done.returncode, f"No such job: '{job}'" in done.stderr) == (205, True), done.stderr
    assert cli(vm, "exec", "echo again").stdout == "again\n"  # by a new one


def test_a_login_shell(configured: VM) -> None:
    configure(configured, b"security: {login_shell: true}\n")
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "host", "-s", str(configured.socket), "shell"]
    with subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, start_new_session=True) as shell:
        os.close(follower)
        os.write(leader, b"tty; stty size; cd /; echo $0 $PWD-$((6*7)); exit 5\n")
        seen = b""
        limit = time.monotonic() + 200
        while shell.poll() is None or select.select([leader], [], [], 0)[0]:
            assert time.monotonic() < limit, seen
            if select.select([leader], [], [], 1)[0]:
                try:
                    seen += os.read(leader, 4096)
                except OSError:  # EIO: nobody has it open any more
                    break
        assert shell.wait(60) == 5, seen
    os.close(leader)
    assert b"/dev/pts/" in seen
    assert b"bash /-42" in seen


LEAVE = "import os, time\nif not os.fork():\n    os.setsid()\n    time.sleep(1000)\n"
"""A child that leaves its session, as daemons do."""


def started(vm: VM, job: str) -> dict[str, object]:
    """What is known of a job, once it has a process."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        info: dict[str, object] = next(
            each for each in json.loads(cli(vm, "-r", "jobs").stdout)["data"]["jobs"] if each["job_id"] == job
        )
        if info["pid"]:
            return info
    raise AssertionError(f"job {job} has no process")


def group(job: str) -> str:
    return f"/sys/fs/cgroup/system.slice/vsrpc-jobs.service/job-{job}"


def until_gone(vm: VM, path: str) -> None:
    """Groups whose last processes outlive their job are removed with the next one's start."""
    sh(vm, f"timeout 60 sh -c 'while grep -q . {path}/cgroup.procs; do sleep 0.1; done'")
    assert cli(vm, "exec", "true").returncode == 0
    sh(vm, f"! test -e {path}")


@pytest.fixture(scope="module")
def leaver(vm: VM) -> Iterator[VM]:
    """A VM whose daemon runs any command, and that has two to run."""
    before = vm.ga.read_file(CONFIG)
    configure(vm, b"security: {allowed_commands: null}\n")
    vm.ga.write_file("/root/leave.py", LEAVE.encode() + b"time.sleep(1000)\n")
    vm.ga.write_file("/root/leave-and-end.py", LEAVE.encode())
    yield vm
    configure(vm, before)


def configure(vm: VM, settings: bytes) -> None:
    vm.ga.write_file(CONFIG, settings)
    sh(vm, "systemctl restart vsrpc-guest")
    vm.wait_daemon()


def test_a_job_has_a_control_group_while_it_runs(leaver: VM) -> None:
    job = cli(leaver, "exec", "--detach", "sleep 600 | cat").stdout.strip()
    pid = started(leaver, job)["pid"]
    assert sh(leaver, f"cat /proc/{pid}/cgroup").endswith(f"vsrpc-jobs.service/job-{job}\n")
    assert cli(leaver, "kill", job).returncode == 0
    until_gone(leaver, group(job))


def test_a_timeout_kills_what_has_left_the_session(leaver: VM) -> None:
    """However soon it has left."""
    done = cli(leaver, "exec", "--timeout", "8", "setsid -f sleep 999; python3 /root/leave.py")
    assert (done.returncode, "timed out after 8 s" in done.stderr) == (124, True), done.stderr
    assert sh(leaver, "pgrep -f '[l]eave.py|[s]leep 999' || echo none") == "none\n"


def test_a_kill_reaches_what_has_left_the_session(leaver: VM) -> None:
    job = cli(leaver, "exec", "--detach", "exec python3 /root/leave.py").stdout.strip()
    sh(leaver, f"timeout 60 sh -c 'until test $(wc -l < {group(job)}/cgroup.procs) = 2; do sleep 0.1; done'")
    assert cli(leaver, "kill", job, "--signal", "KILL").returncode == 0
    until_gone(leaver, group(job))
    assert sh(leaver, "pgrep -f [l]eave.py || echo none") == "none\n"


def test_what_a_job_leaves_behind_goes_on_after_its_end(leaver: VM) -> None:
    assert cli(leaver, "exec", "setsid -f python3 /root/leave-and-end.py; echo over").stdout == "over\n"
    sh(leaver, "timeout 60 sh -c 'until pgrep -f [l]eave-and-end.py; do sleep 0.1; done'; pkill -f [l]eave-and-end.py")
    done = cli(leaver, "exec", "python3 /root/leave-and-end.py; echo over")
    assert (done.returncode, done.stdout) == (0, "over\n"), done.stderr
    assert sh(leaver, "pgrep -fc [l]eave-and-end.py") == "1\n"
    sh(leaver, "pkill -f [l]eave-and-end.py")


def test_limits(leaver: VM) -> None:
    hungry = "python3 -c 'x = bytearray(1 << 28); x[::4096] = x[::4096]; print(len(x))'"
    assert cli(leaver, "exec", "--memory", "512M", hungry).stdout == f"{1 << 28}\n"
    done = cli(leaver, "exec", "--memory", "64M", hungry)
    assert (done.returncode, "used all the memory that it may have" in done.stderr) == (137, True), done.stderr
    configure(leaver, b"security: {allowed_commands: [python3, echo]}\n")  # a line is then run without a shell
    done = cli(leaver, "exec", "--memory", "64M", f"{hungry} || echo not reached; echo not reached")
    assert (done.returncode, done.stdout) == (137, ""), done.stderr
    configure(leaver, b"security: {allowed_commands: null}\n")
    done = cli(leaver, "exec", "--processes", "3", "(sleep 1 & sleep 1 & sleep 1 & sleep 1 & wait) 2>&1")
    assert "fork" in done.stdout, done.stderr


def test_the_guests_limits_hold_whatever_is_asked_for(configured: VM) -> None:
    """Also with a keeper that is there from before."""
    configure(configured, b"security: {allowed_commands: null}\nlimits: {job_memory: 64MB, job_processes: 20}\n")
    show = "cd /sys/fs/cgroup/$(cut -d: -f3 /proc/self/cgroup); cat memory.max pids.max"
    for options, expected in (((), "67108864\n20\n"), (("--memory", "1G", "--processes", "5"), "67108864\n5\n")):
        assert cli(configured, "exec", *options, show).stdout == expected
