"""Jobs on the real guest: they outlive the daemon and its port, and belong to a unit of their own."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from typing import TYPE_CHECKING

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
    configured.ga.write_file(CONFIG, b"security: {login_shell: true}\n")
    sh(configured, "systemctl restart vsrpc-guest")
    configured.wait_daemon()
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
