"""What exec, shell and the commands for jobs do on a real guest: live, both ways, and from one caller to the next."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pty
import random
import select
import signal
import struct
import subprocess
import termios
import time
from typing import Any

import pytest
from e2e_cli import Cli, Guest, Remote

MIB = 1024 * 1024


def content_of(size: int) -> bytes:
    return random.Random(size).getrandbits(8 * size).to_bytes(size, "little")


def piped(cli: Cli, *argv: str) -> subprocess.Popen[bytes]:
    return cli.start(*argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def line_of(stream: Any) -> bytes:
    line: bytes = stream.readline()
    return line


def jobs_in(guest: Guest, cli: Cli) -> dict[str, dict[str, Any]]:
    return {job["job_id"]: job for job in cli("-r", "jobs").json["data"]["jobs"]}


def test_output_comes_while_the_command_runs(cli: Cli, guest: Guest, remote: Remote) -> None:
    guest.run(["mkfifo", "-m", "600", remote("fifo")])
    with piped(cli, "exec", f"echo first; cat {remote('fifo')}; echo last >&2 && false") as process:
        assert line_of(process.stdout) == b"first\n"
        guest.run(["sh", "-c", f"echo second > {remote('fifo')}"])
        out, err = process.communicate(timeout=60)
    assert (out, err, process.returncode) == (b"second\n", b"last\n", 1)


@pytest.mark.parametrize("size", [0, 1, 3 * MIB + 1])
def test_input_is_passed_through(cli: Cli, size: int) -> None:
    content = content_of(size) if size else b""
    with piped(cli, "exec", "md5sum") as process:
        out, err = process.communicate(content, timeout=100)
    assert (out.split()[0].decode(), err, process.returncode) == (hashlib.md5(content).hexdigest(), b"", 0)


def test_a_command_that_is_slow_to_read_gets_all_input(cli: Cli) -> None:
    """More than the guest takes ahead of it waits, in several calls, for longer than any of them may."""
    content = content_of(12 * MIB)
    with piped(cli, "exec", "sleep 3 && md5sum") as process:
        out, err = process.communicate(content, timeout=100)
    assert (out.split()[0].decode(), err, process.returncode) == (hashlib.md5(content).hexdigest(), b"", 0)


def test_input_is_passed_on_while_more_may_come(cli: Cli) -> None:
    with piped(cli, "exec", "cat") as process:
        assert process.stdin is not None
        for line in (b"one\n", bytes(200_000) + b"\n", b"two\n"):
            process.stdin.write(line)
            process.stdin.flush()
            assert line_of(process.stdout) == line
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_both_ways_at_a_time(cli: Cli) -> None:
    content = content_of(2 * MIB)
    with piped(cli, "exec", "cat") as process:
        out, err = process.communicate(content, timeout=100)
    assert (out == content, err, process.returncode) == (True, b"", 0)


def test_no_input(cli: Cli) -> None:
    with piped(cli, "exec", "-n", "cat") as process:
        assert process.wait(60) == 0  # though our end is open
        process.communicate()


def test_a_slow_reader_loses_nothing(cli: Cli, remote: Remote, tmp_path: Any) -> None:
    content = content_of(12 * MIB)  # more than the guest keeps of it
    (tmp_path / "f").write_bytes(content)
    assert cli("upload", str(tmp_path / "f"), remote("f")).code == 0
    with piped(cli, "exec", f"cat {remote('f')}") as process:
        assert process.stdout is not None
        digest = hashlib.md5()
        while piece := process.stdout.read(64 * 1024):
            digest.update(piece)
        assert process.wait(60) == 0
        process.communicate()
    assert digest.hexdigest() == hashlib.md5(content).hexdigest()


def test_ctrl_c_reaches_the_command(cli: Cli) -> None:
    with piped(cli, "exec", "echo ready; sleep 60; echo not reached") as process:
        assert line_of(process.stdout) == b"ready\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (out, process.returncode) == (b"", 130)
    assert b"SIGINT" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_ends_with_its_caller(cli: Cli, guest: Guest, number: signal.Signals) -> None:
    with piped(cli, "exec", "echo ready; sleep 61") as process:
        assert line_of(process.stdout) == b"ready\n"
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert not [job for job in jobs_in(guest, cli).values() if "sleep 61" in job["command"]]


@pytest.mark.parametrize(
    ("argv", "out", "err", "code"),
    [
        (["exec", "sleep 60", "--timeout", "0.5"], b"", "timed out after 0.5 s, and was killed", 124),
        (["exec", "false"], b"", "", 1),
        (["exec", "id -un", "--user", "nobody"], b"nobody\n", "", 0),
        (["exec", "id -un", "--user", "no-such-user"], b"", "no such user in the guest: no-such-user", 202),
        (["exec", 'echo "$A-$B"', "-e", "A=1", "--env", "B=x y"], b"1-x y\n", "", 0),
        (["exec", "env", "-e", "LD_PRELOAD=x"], b"", "Environment variable not allowed: LD_PRELOAD", 204),
        (["exec", "true", "-e", "NOT_SET_HERE"], b"", "--env NOT_SET_HERE: there is no such variable here", 202),
        (["exec", "pwd", "-w", "/tmp"], b"/tmp\n", "", 0),
        (["exec", "no-such-command"], b"", "Command not allowed: no-such-command", 204),
        (["exec", "true", "--timeout", "-3"], b"", "'-3' is not a number of seconds above 0, nor 0 for no limit", 202),
        (["shell"], b"", "security.login_shell", 204),
        (["attach", "nothing"], b"", "No such job: 'nothing'", 205),
        (["logs", "nothing"], b"", "No such job: 'nothing'", 5),
        (["kill", "nothing"], b"", "No such job: 'nothing'", 5),
    ],
)
def test_how_it_ends(cli: Cli, argv: list[str], out: bytes, err: str, code: int) -> None:
    done = cli(*argv)
    assert (done.out, done.code) == (out, code), done.err
    assert (err in done.err) if err else not done.err


def test_a_detached_job_from_start_to_end(cli: Cli, guest: Guest, remote: Remote) -> None:
    guest.run(["mkfifo", "-m", "600", remote("fifo")])
    started = cli("exec", "--detach", f"echo begun; cat {remote('fifo')}; echo ended")
    assert started.code == 0, started.err
    job = started.out.decode().strip()
    row = next(line for line in cli("jobs").out.decode().splitlines() if line.startswith(job))
    assert "running" in row
    assert "echo begun" in row
    with piped(cli, "logs", "-f", job) as following:
        assert line_of(following.stdout) == b"begun\n"
        assert cli("logs", job).out == b"begun\n"
        guest.run(["sh", "-c", f"echo middle > {remote('fifo')}"])
        out, _ = following.communicate(timeout=60)
    assert (out, following.returncode) == (b"middle\nended\n", 0)
    assert jobs_in(guest, cli)[job]["exit_code"] == 0
    attached = cli("attach", job)
    assert (attached.out, attached.code) == (b"begun\nmiddle\nended\n", 0)


def test_a_detached_job_takes_input_only_at_a_terminal(cli: Cli) -> None:
    job = cli("exec", "--detach", "sleep 3; cat; echo over").out.decode().strip()
    with piped(cli, "attach", job) as attached:
        out, err = attached.communicate(b"lost\n", timeout=60)
    assert (out, attached.returncode) == (b"over\n", 0)
    assert b"what comes on standard input is not used" in err

    job = cli("exec", "--detach", "-t", "cat").out.decode().strip()
    with piped(cli, "attach", job) as attached:
        out, err = attached.communicate(b"heard\n", timeout=60)
    assert (b"heard\r\nheard\r\n" in out, attached.returncode) == (True, 0), err


def test_a_command_whose_output_cannot_be_written_is_ended(cli: Cli, guest: Guest) -> None:
    with open("/dev/full", "wb") as full:
        done = cli.start("exec", "--timeout", "0", "echo x; tail -f /dev/null", stdout=full, stderr=subprocess.PIPE)
        _, err = done.communicate(timeout=60)
    assert (done.returncode, b"cannot write the output" in err) == (201, True), err
    assert not [job for job in jobs_in(guest, cli).values() if "tail -f" in job["command"]]


def test_attaching_gives_input_and_killing_ends(cli: Cli) -> None:
    with piped(cli, "exec", "--timeout", "60", "echo ready; cat; cat") as first:
        assert line_of(first.stdout) == b"ready\n"
        first.kill()  # SIGKILL: the job goes on
        first.communicate()
    listed = cli("-r", "jobs").json["data"]["jobs"]
    mine = [each for each in listed if each["command"] == "echo ready; cat; cat" and not each["ended_ms"]]
    job = mine[0]["job_id"]
    with piped(cli, "attach", job) as second:
        assert line_of(second.stdout) == b"ready\n"
        assert second.stdin is not None
        second.stdin.write(b"still there\n")
        second.stdin.flush()
        assert line_of(second.stdout) == b"still there\n"
        assert cli("kill", job, "--signal", "KILL").code == 0
        _, err = second.communicate(timeout=60)
    assert second.returncode == 137
    assert b"SIGKILL" in err


class Terminal:
    """The command line on a terminal of its own."""

    def __init__(self, cli: Cli, *argv: str, size: tuple[int, int] = (30, 90)) -> None:
        self._leader, follower = pty.openpty()
        self.resize(*size)
        self.process = cli.start(*argv, stdin=follower, stdout=follower, stderr=follower, start_new_session=True)
        os.close(follower)
        self.seen = b""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._leader, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self._leader, keys)

    def until(self, text: bytes) -> None:
        """Read until this was shown."""
        limit = time.monotonic() + 60
        while text not in self.seen:
            assert select.select([self._leader], [], [], max(0, limit - time.monotonic()))[0], self.seen
            self.seen += os.read(self._leader, 4096)

    def end(self) -> int:
        try:
            while True:
                self.seen += os.read(self._leader, 4096)
        except OSError:  # EIO: all have closed it
            pass
        os.close(self._leader)
        return self.process.wait(60)


@pytest.fixture
def ready(guest: Guest, remote: Remote) -> str:
    """A file in the guest with the line "ready"."""
    guest.run(["sh", "-c", f"echo ready > {remote('ready')}"])
    return remote("ready")


def test_a_terminal(cli: Cli, ready: str) -> None:
    shown = Terminal(cli, "exec", "-t", "ps -o tty= -o args=")
    assert shown.end() == 0, shown.seen
    assert b"pts/" in shown.seen  # ps lists what shares its terminal
    terminal = Terminal(cli, "exec", "-t", f"tail -n 1 -f {ready}")
    terminal.until(b"ready\r\n")
    terminal.type(b"\x03")
    assert terminal.end() == 130, terminal.seen


def test_leaving_a_terminal(cli: Cli, guest: Guest, ready: str) -> None:
    command = f"tail -n 1 -f {ready}"
    terminal = Terminal(cli, "exec", "-t", command)
    terminal.until(b"ready\r\n")
    terminal.type(b"\r~?")
    terminal.until(b"the job goes on in the guest")
    terminal.type(b"\r~.")
    assert terminal.end() == 0, terminal.seen
    job = next(id for id, job in jobs_in(guest, cli).items() if job["command"] == command)
    assert job.encode() in terminal.seen
    assert cli("kill", job).code == 0
    assert cli("attach", job).code == 143
