"""scripts/deploy.sh without a machine: command lines, what ssh says, and that --dry-run runs nothing.

The real thing, over a real sshd, is in tests/vm.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import bundle_tools
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "deploy.sh"

# Says $SSH_SAYS and fails as ssh does; or, where that is empty, runs the remote command here if it only looks.
SSH = """#!/bin/sh
echo "$*" >>"$FAKE/calls"
[ -z "$SSH_SAYS" ] || { echo "$SSH_SAYS" >&2; exit 255; }
for last; do :; done
case $last in
*"sudo -n true") echo "sudo: a password is required" >&2; exit 1 ;;
*) PATH="$FAKE/remote:$PATH" sh -c "$last" ;;
esac
"""


class Deploy:
    """Runs the script with fakes before everything else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in ("bin", "remote"):
            (path / name).mkdir()
        self.program("bin/ssh", SSH)
        self.program("remote/id", "#!/bin/sh\necho 0\n")
        (path / "bundle.tar.gz").write_bytes(bundle_tools.archive(bundle_tools.tiny(installer="echo")))

    def program(self, name: str, text: str) -> None:
        (self.path / name).write_text(text)
        (self.path / name).chmod(0o755)

    def __call__(self, *argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
        names = ("GUEST_IP", "HOST_IP", "REMOTE_DIR", "REMOTE_USER", "SSH_PORT", "SSH_IDENTITY", "BUNDLE")
        inherited = {name: value for name, value in os.environ.items() if name not in names}
        own = {
            "PATH": f"{self.path}/bin:{os.environ['PATH']}",
            "FAKE": str(self.path),
            "TMPDIR": str(self.path),
            "SSH_SAYS": "",
            "BUNDLE": str(self.path / "bundle.tar.gz"),
        }
        return subprocess.run(
            ["sh", str(SCRIPT), *argv],
            env={**inherited, **own, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def calls(self) -> list[str]:
        file = self.path / "calls"
        return file.read_text().splitlines() if file.exists() else []

    def left(self) -> list[str]:
        return [each.name for each in self.path.glob("vsrpc-deploy.*")]


@pytest.fixture
def deploy(tmp_path: Path) -> Deploy:
    return Deploy(tmp_path)


G = ["--guest-ip", "192.0.2.1"]
PYTHONS = ["python3", *(f"python3.{minor}" for minor in range(8, 15))]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "no step is given"),
        (["all"], "no machine is given"),
        ([*G], "no step is given"),
        ([*G, "frobnicate"], "unknown argument: frobnicate"),
        ([*G, "check", "--frobnicate"], "unknown argument: --frobnicate"),
        (["check", "--guest-ip"], "--guest-ip needs a value"),
        (["check", "--guest-ip", "-oProxyCommand=x"], "'-oProxyCommand=x' is no address"),
        (["check", "--guest-ip", "a; id"], "'a; id' is no address"),
        ([*G, "check", "--user", "a b"], "'a b' is no address or user name"),
        ([*G, "check", "--remote-dir", "here"], "--remote-dir 'here' is no absolute path"),
        ([*G, "check", "--remote-dir", "/"], "--remote-dir '/' is no absolute path"),
        ([*G, "check", "--port", "test.vserial.0"], "--port 'test.vserial.0' is no number"),
        ([*G, "check", "--port-name", "a b"], "--port-name 'a b'"),
        ([*G, "check", "--identity", "/nonexistent"], "--identity /nonexistent: no such file"),
        ([*G, "check", "--bundle", "/nonexistent"], "--bundle /nonexistent: no such file"),
        ([*G, "check", "--bundle", "{half}"], "{half} is no guest bundle, or only a part of one"),
        ([*G, "check", "--bundle", "{text}"], "{text} is no guest bundle"),
        ([*G, "check", "--socket", "/s"], "give --host-ip too"),
        (["check", "--host-ip", "192.0.2.1"], "the bundle 9.9.0: both sides would not be the same"),
    ],
)
def test_wrong_command_lines(deploy: Deploy, argv: list[str], message: str) -> None:
    names = {"half": str(deploy.path / "half"), "text": str(deploy.path / "text")}
    good = (deploy.path / "bundle.tar.gz").read_bytes()
    Path(names["half"]).write_bytes(good[: len(good) // 2])
    Path(names["text"]).write_text("text")
    done = deploy(*(each.format(**names) for each in argv))
    assert (done.returncode, done.stdout, message.format(**names) in done.stderr) == (2, "", True), done.stderr
    assert deploy.calls() == []
    assert deploy.left() == []


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("ssh: connect to host 192.0.2.1 port 22: No route to host", "no route: check the address"),
        ("ssh: connect to host 192.0.2.1 port 22: Network is unreachable", "no route: check the address"),
        ("ssh: connect to host 192.0.2.1 port 22: Connection timed out", "no route: check the address"),
        ("ssh: connect to host 192.0.2.1 port 22: Connection refused", "no sshd listens there"),
        ("root@192.0.2.1: Permission denied (publickey,password).", "login as root was refused"),
        ("ssh: Could not resolve hostname x: Name or service not known", "no such machine"),
        ("Host key verification failed.", "connect once by ssh"),
        ("something else", "see above (something else)"),
    ],
)
def test_no_connection(deploy: Deploy, said: str, message: str) -> None:
    done = deploy(*G, "all", SSH_SAYS=said)
    assert (done.returncode, message in done.stderr, said in done.stderr) == (3, True, True), done.stderr
    assert len(deploy.calls()) == 1
    assert deploy.left() == []


@pytest.mark.parametrize(
    ("fakes", "argv", "message"),
    [
        ({}, [], "Python 3."),
        ({"id": "echo 7"}, [], "root is needed"),
        ({"df": "echo H; echo d 100 90 10 90% /"}, [], "has 10 KiB free, and"),
        (
            {f"python3{minor}": "exit 1" for minor in ("", *(f".{n}" for n in range(8, 15)))},
            [],
            "no Python 3.8 or newer",
        ),
        ({}, ["--user", "me"], "me may not become root on the guest 192.0.2.1 without a password (sudo: a password"),
        ({}, ["--remote-dir", "/dev/null/x"], "/dev/null is not a directory"),
    ],
)
def test_what_check_finds(deploy: Deploy, fakes: dict[str, str], argv: list[str], message: str) -> None:
    for name, script in fakes.items():
        deploy.program(f"remote/{name}", f"#!/bin/sh\n{script}\n")
    if not any("--remote-dir" in each for each in argv):
        argv = [*argv, "--remote-dir", str(deploy.path / "there")]
    done = deploy(*G, *argv, "check")
    good = not fakes and "--user" not in argv and "/dev/null/x" not in argv
    assert (done.returncode == 0, message in done.stdout + done.stderr) == (good, True), done
    assert not (deploy.path / "there").exists()


def test_what_is_there_is_not_copied_again_and_damage_is_noticed(deploy: Deploy) -> None:
    there = deploy.path / "there"
    argv = [*G, "--remote-dir", str(there), "sync"]
    deploy.program("remote/tar", "#!/bin/sh\nexit 2\n")
    done = deploy(*argv)
    assert (done.returncode, "cannot unpack" in done.stderr, os.listdir(there / "guest")) == (1, True, [])
    (deploy.path / "remote/tar").unlink()
    deploy.program("remote/sha256sum", "#!/bin/sh\nexit 1\n")
    done = deploy(*argv)
    assert (done.returncode, "is damaged" in done.stderr, os.listdir(there / "guest")) == (1, True, [])
    (deploy.path / "remote/sha256sum").unlink()
    assert "copied to" in deploy(*argv).stdout
    (release,) = (there / "guest").iterdir()
    assert sorted(os.listdir(release)) == ["guest", "install.sh", "vsrpc"]
    assert "is there already" in deploy(*argv).stdout


@pytest.mark.parametrize("step", ["start", "deps"])
def test_steps_that_need_another_one_name_it(deploy: Deploy, step: str) -> None:
    done = deploy(*G, "--remote-dir", str(deploy.path / "there"), step)
    assert (done.returncode, "run the step sync first" in done.stderr) == (1, True), done.stderr


def test_dry_run_runs_nothing_and_shows_all(deploy: Deploy) -> None:
    done = deploy("--dry-run", "all", "--port-name", "my.port", "--user", "me", GUEST_IP="192.0.2.1", REMOTE_DIR="/x y")
    assert (done.returncode, done.stderr) == (0, "")
    assert deploy.calls() == []
    for text in ("me@192.0.2.1", "sudo -n", "/x y/guest", "my.port", "install.sh", "sha256sum -c", "# test, guest"):
        assert text in done.stdout, text
    assert deploy.left() == []


def test_options_win_over_the_environment(deploy: Deploy) -> None:
    done = deploy(*G, "--dry-run", "check", GUEST_IP="192.0.2.9", SSH_PORT="2222")
    assert "root@192.0.2.1" in done.stdout
    assert "192.0.2.9" not in done.stdout
    assert "-p 2222" in done.stdout
