"""Exec, with real processes: results, limits, ends, and that nothing is left behind."""

from __future__ import annotations

import os
import signal
import threading
import types
from pathlib import Path
from typing import Iterator

import psutil
import pytest
from exec_helpers import Guest, new_context

from guest.jobs import process_tree
from vsrpc.errors import RpcError
from vsrpc.v1 import shell_pb2


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(str(tmp_path))


@pytest.fixture
def shell(tmp_path: Path) -> Guest:
    """A guest that runs any command, by sh."""
    return Guest(str(tmp_path), allowed=None)


@pytest.fixture(autouse=True, params=["pidfd", pytest.param("thread", marks=pytest.mark.slow)])
def waiting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How the end of processes is waited for: as the system can, or as before Linux 5.3."""
    if request.param == "thread":
        without = types.ModuleType("os")
        vars(without).update({name: value for name, value in vars(os).items() if name != "pidfd_open"})
        monkeypatch.setattr(process_tree, "os", without)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No descriptor, thread, zombie or child is left after any test."""
    before = set(os.listdir("/proc/self/fd"))
    others = psutil.Process().children()  # a guest that other tests of this process share
    yield
    assert set(os.listdir("/proc/self/fd")) == before
    assert [thread.name for thread in threading.enumerate() if thread.name == "process-watcher"] == []
    assert psutil.Process().children() == others


def failure(guest: Guest, command: str = "", **fields: object) -> RpcError:
    with pytest.raises(RpcError) as caught:
        guest.exec(command, **fields)  # type: ignore[arg-type]
    return caught.value


def gone(pid: int) -> bool:
    try:
        psutil.Process(pid).wait(timeout=10)
    except psutil.NoSuchProcess:
        pass
    return True


@pytest.mark.parametrize(
    ("command", "code", "stdout", "stderr"),
    [
        ("echo hello", 0, "hello\n", ""),
        ("false", 1, "", ""),
        ("sleep 0.01 && echo done", 0, "done\n", ""),
        ("echo a; echo b", 0, "a\nb\n", ""),
        ("false | true", 0, "", ""),
        ("true | false", 1, "", ""),
        ("cat", 0, "", ""),
        ("echo x 1>&2", 0, "", "x\n"),
        ("ls missing 2>&1 | wc -l", 0, "1\n", ""),
        ("ls missing 2>&1 >/dev/null | wc -l", 0, "1\n", ""),
        ("ls missing &>/dev/null", 2, "", ""),
        ("echo one > f; echo two >> f; cat < f", 0, "one\ntwo\n", ""),
        ("cat <missing || echo no", 0, "no\n", "vsrpc: No such file: {dir}/missing\n"),
        ("cat <f.txt 2>/dev/null", 0, "text\n", ""),
        ("echo *.txt [!f].txt", 0, "f.txt g.txt g.txt\n", ""),
        ("echo sub/* s*/ */x", 0, "sub/x sub/ sub/x\n", ""),
        ("echo *.none '*' \\*", 0, "*.none * *\n", ""),
        ("echo .h* .[!.]*", 0, ".hidden .hidden\n", ""),
        ("echo -*", 0, "./-n\n", ""),
        ("echo $A ${A}b \"$A\" '$A' $UNSET end", 0, "1  * 1  *b 1  * $A end\n", ""),
        ("$CMD $UNSET x", 0, "x\n", ""),
        ("echo \"$UNSET\" ''| wc -c", 0, "2\n", ""),
        (
            "echo before; cat < missing | echo after; false",
            1,
            "before\nafter\n",
            "vsrpc: No such file: {dir}/missing\n",
        ),
    ],
)
def test_results(guest: Guest, tmp_path: Path, command: str, code: int, stdout: str, stderr: str) -> None:
    for name in ("f.txt", "g.txt", ".hidden", "-n"):
        (tmp_path / name).write_text("text\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x").touch()
    reply = guest.exec(command, env={"A": "1  *", "CMD": "echo"})
    assert (reply.exit_code, reply.stdout.decode(), reply.stderr.decode()) == (
        code,
        stdout,
        stderr.format(dir=tmp_path),
    )
    assert reply.signal == ""
    assert reply.stdout_size == len(reply.stdout)
    assert not reply.stdout_truncated
    assert 0 < reply.duration_ms < 30_000


def test_argv_is_taken_as_it_is(guest: Guest) -> None:
    assert guest.exec(argv=["echo", "$HOME", "*", "a;b", ""]).stdout == b"$HOME * a;b \n"


def test_a_shell_runs_any_command_without_a_list(shell: Guest) -> None:
    assert shell.exec("for x in a b; do echo $(printf %s $x); done").stdout == b"a\nb\n"
    assert shell.exec("-x").exit_code == 127
    assert shell.exec(argv=["printf", "%s", "a b"]).stdout == b"a b"


@pytest.mark.parametrize(
    ("fields", "reason", "message"),
    [
        ({}, "MISSING_REQUIRED", "command is missing"),
        ({"command": " \n"}, "MISSING_REQUIRED", "command is missing"),
        ({"command": "ls", "argv": ["ls"]}, "INVALID_PARAMS", "Both command and argv"),
        ({"argv": [""]}, "INVALID_PARAMS", "argv: the program"),
        ({"argv": ["ls", "\0"]}, "INVALID_PARAMS", "argv: there is a NUL"),
        ({"command": "ls \0"}, "INVALID_PARAMS", "command: there is a NUL"),
        ({"command": "echo 'x"}, "INVALID_PARAMS", "command: the quote ' is never closed (column 6)"),
        ({"command": "$NOPE"}, "INVALID_PARAMS", "the command is empty"),
        ({"command": "l*"}, "INVALID_PARAMS", "a glob cannot name the program"),
        ({"command": "ls", "timeout": 0}, "INVALID_PARAMS", "timeout: 0 is not"),
        ({"command": "ls", "timeout": -1}, "INVALID_PARAMS", "timeout: -1 is not"),
        ({"command": "ls", "timeout": float("nan")}, "INVALID_PARAMS", "timeout: nan is not"),
        ({"command": "ls", "timeout": float("inf")}, "INVALID_PARAMS", "timeout: inf is not"),
        ({"command": "ls", "working_dir": "x"}, "INVALID_PARAMS", "working_dir: x is not an absolute path"),
        ({"command": "ls", "working_dir": "/tmp/no/such"}, "FILE_NOT_FOUND", "no such directory: /tmp/no/such"),
        ({"command": "ls", "working_dir": "/etc/hosts"}, "WRONG_FILE_TYPE", "not a directory: /etc/hosts"),
        ({"command": "ls", "working_dir": "/proc/1"}, "PERMISSION_DENIED", "Path not in allowed list: /proc/1"),
        ({"command": "ls; rm -rf /x"}, "PERMISSION_DENIED", "Command not allowed: rm ("),
        ({"command": "echo $(rm x)"}, "PERMISSION_DENIED", "Command not allowed: '$(' (command substitution)"),
        ({"argv": ["rm"]}, "PERMISSION_DENIED", "Command not allowed: rm ("),
        ({"command": "ls >/etc/x"}, "PERMISSION_DENIED", "Path not in allowed list: /etc/x"),
        ({"command": "cat </etc/passwd"}, "PERMISSION_DENIED", "Path not in allowed list: /etc/passwd"),
        ({"command": "echo /proc/*"}, "PERMISSION_DENIED", "Path not in allowed list: /proc"),
        ({"command": "ls", "env": {"LD_PRELOAD": "x"}}, "PERMISSION_DENIED", "variable not allowed: LD_PRELOAD"),
    ],
)
def test_bad_requests(guest: Guest, fields: dict[str, object], reason: str, message: str) -> None:
    error = failure(guest, **fields)
    assert error.reason == reason
    assert message in error.details()


def test_nothing_runs_when_a_part_is_refused(guest: Guest, tmp_path: Path) -> None:
    for command in ("echo x > made; rm x", "echo x > made && cat /etc/passwd", "echo x > made | ls > /etc/x"):
        failure(guest, command)
    assert not (tmp_path / "made").exists()


def test_a_glob_is_judged_by_what_it_matches_when_it_runs(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "z-link").symlink_to("/etc/passwd")
    assert "z-link" in failure(guest, "cat *").details()


def test_a_file_that_another_name_has_is_not_written(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("kept")
    os.link(tmp_path / "one", tmp_path / "two")
    assert "hard links" in failure(guest, "echo x > two").details()
    assert (tmp_path / "one").read_text() == "kept"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_only_regular_files_are_written(guest: Guest, tmp_path: Path, make: object) -> None:
    make(tmp_path / "target")  # type: ignore[operator]
    reply = guest.exec("echo x > target; echo after")
    assert reply.stdout == b"after\n"
    assert b"vsrpc: " in reply.stderr


def test_a_missing_program_alone_is_an_error_and_127_in_a_list(tmp_path: Path) -> None:
    guest = Guest(str(tmp_path), allowed=["no-such-program", "echo"])
    error = failure(guest, "no-such-program")
    assert (error.reason, error.data["command"]) == ("CMD_NOT_FOUND", "no-such-program")
    reply = guest.exec("no-such-program || echo 127")
    assert (reply.stdout, reply.exit_code) == (b"127\n", 0)
    assert b"vsrpc: Command not found: no-such-program" in reply.stderr
    assert guest.exec("echo x | no-such-program").exit_code == 127


def test_what_cannot_be_executed(tmp_path: Path) -> None:
    bad, plain = tmp_path / "bad", tmp_path / "plain"
    bad.write_text("#!/no/such/interpreter\n")
    bad.chmod(0o755)
    plain.write_text("x")
    guest = Guest(str(tmp_path), allowed=[str(bad), str(plain), "echo"])
    assert failure(guest, str(bad)).reason == "CMD_EXEC_FAILED"
    assert failure(guest, argv=[str(bad)]).reason == "CMD_EXEC_FAILED"
    assert "not an executable file" in failure(guest, str(plain)).details()
    assert guest.exec(f"{bad}; {plain}; echo x | {bad}").exit_code == 126


@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (15, "SIGTERM"), (40, "SIGRTMIN+6")])
def test_killed_by_a_signal(shell: Guest, number: int, name: str) -> None:
    reply = shell.exec(f"kill -{number} $$")
    assert (reply.exit_code, reply.signal) == (128 + number, name)


def test_output_over_the_cap_is_cut_and_counted(tmp_path: Path) -> None:
    shell = Guest(str(tmp_path), allowed=None, max_output=1000)
    reply = shell.exec("echo begin; head -c 3000000 /dev/zero; head -c 2000000 /dev/zero >&2; exit 3")
    assert reply.exit_code == 3
    assert (reply.stdout_size, reply.stderr_size) == (3_000_006, 2_000_000)
    assert reply.stdout_truncated
    assert reply.stderr_truncated
    assert reply.stdout == b"begin\n" + bytes(994)
    assert reply.stderr == bytes(1000)


def test_output_is_bytes(shell: Guest) -> None:
    assert shell.exec("printf '\\377\\0x'").stdout == b"\xff\0x"


def test_a_daemon_left_behind_is_not_waited_for(shell: Guest) -> None:
    reply = shell.exec("sleep 1000 & echo $!")
    pid = int(reply.stdout)
    assert psutil.pid_exists(pid)
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)


def test_timeout_kills_the_whole_group(shell: Guest, tmp_path: Path) -> None:
    error = failure(shell, "sleep 1000 & echo $!; echo warn >&2; trap 'echo bye' TERM; wait; sleep 1000", timeout=0.3)
    assert error.reason == "CMD_TIMEOUT"
    assert "timed out after 0.3 s" in error.details()
    pid, farewell = error.data["stdout"].split()
    assert farewell == "bye"  # SIGTERM came first; then SIGKILL, as it did not end
    assert gone(int(pid))
    assert error.data["stderr"] == "warn\n"
    assert error.data["timeout"] == "0.3"


def test_timeout_is_for_the_whole_line(guest: Guest) -> None:
    assert failure(guest, "sleep 0.2; sleep 0.2; sleep 1000 | cat", timeout=0.5).reason == "CMD_TIMEOUT"


def test_the_calls_deadline_ends_the_command_too(guest: Guest) -> None:
    error = failure(guest, "sleep 1000", context=new_context(0.2))
    assert error.reason == "DEADLINE_EXCEEDED"
    assert "longer deadline" in error.details()


def test_cancelling_the_call_kills_the_command(shell: Guest, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ready")
    context = new_context()
    caught: list[RpcError] = []

    def call() -> None:
        caught.append(failure(shell, "echo $$ > ready; exec sleep 1000", context=context))

    thread = threading.Thread(target=call)
    thread.start()
    pid = int((tmp_path / "ready").read_text())
    context.cancel()
    thread.join()
    assert caught[0].reason == "CANCELLED"
    assert gone(pid)


def test_a_call_cancelled_before_it_starts_runs_nothing(guest: Guest, tmp_path: Path) -> None:
    context = new_context()
    context.cancel()
    assert failure(guest, "echo x > made", context=context).reason == "CANCELLED"
    assert not (tmp_path / "made").exists()


def test_cancelling_after_the_end_is_harmless(guest: Guest) -> None:
    context = new_context()
    guest.exec("true", context=context)
    context.cancel()


def test_many_commands_at_a_time(guest: Guest) -> None:
    replies: list[shell_pb2.ExecResponse] = []

    def call(number: int) -> None:
        for turn in range(5):
            replies.append(guest.exec(f"echo {number} {turn} | cat", context=new_context()))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reply.stdout for reply in replies) == sorted(
        f"{n} {t}\n".encode() for n in range(8) for t in range(5)
    )
