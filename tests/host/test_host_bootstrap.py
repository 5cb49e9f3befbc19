"""Bootstrap through a guest agent: what is installed, what is refused before anything is written, and what is left."""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path
from typing import Any, Callable, Iterator

import bundle_tools
import pytest
from host_agent import FakeAgent, error

from host import bootstrap as module
from host import guest_agent
from host.bootstrap import Installed, bootstrap
from host.bundle import Bundle, read
from host.cli.main import main
from host.errors import RPCError
from host.guest_agent import AgentSocket, GuestAgent

INSTALLER = 'echo "$@" >"$TEST_DIRECTORY/arguments"; pwd >"$TEST_DIRECTORY/place"; echo installed'


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs of the guest that are not this machine's: it has a root, and no vsrpc."""
    directory = tmp_path / "programs"
    directory.mkdir()
    program(directory, "id", "echo 0")
    program(directory, "vsrpc-guest", "exit 127")
    monkeypatch.setenv("TEST_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(module, "_TEMPORARY", str(tmp_path / "temporary"))
    monkeypatch.setattr(module, "_PROBE", module._PROBE.replace("/var/tmp/vsrpc-bootstrap", f"{tmp_path}/temporary"))
    return directory


def program(directory: Path, name: str, script: str) -> None:
    (directory / name).write_text(f"#!/bin/sh\n{script}\n")
    (directory / name).chmod(0o755)


@pytest.fixture
def fake(tmp_path: Path, programs: Path) -> Iterator[FakeAgent]:
    agent = FakeAgent(tmp_path / "agent.sock", programs)
    yield agent
    agent.close()


def bundle_file(tmp_path: Path, installer: str = INSTALLER) -> Path:
    path = tmp_path / "vsrpc-guest-9.9.0.tar.gz"
    path.write_bytes(bundle_tools.archive(bundle_tools.tiny(installer=installer)))
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return read(str(bundle_file(tmp_path)))


def run(fake: FakeAgent, bundle: Bundle, **options: Any) -> Installed:
    agent = GuestAgent(lambda: AgentSocket(str(fake.path), 5))
    try:
        return bootstrap(agent, bundle, **options)
    finally:
        agent.close()


def left(tmp_path: Path) -> list[str]:
    return [path.name for path in tmp_path.glob("temporary*")]


def test_it_installs_and_leaves_nothing(fake: FakeAgent, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "temporary.killed").mkdir()
    fake.greeting = b'{"return": 7}\n{"ret'
    assert run(fake, bundle, port="my.port") == Installed("9.9.0", "", True, "installed")
    assert (tmp_path / "arguments").read_text() == "--port my.port\n"
    assert left(tmp_path) == []
    assert fake.open == {}
    run(fake, bundle)
    assert (tmp_path / "arguments").read_text() == "\n"


def test_large_bundles_go_in_pieces(
    fake: FakeAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: Bundle
) -> None:
    monkeypatch.setattr(AgentSocket, "piece", 100)
    seen: list[tuple[int, int]] = []
    run(fake, bundle, progress=lambda done, total: seen.append((done, total)))
    size = len(bundle.content)
    assert seen == [(min(end, size), size) for end in range(100, size + 100, 100)]
    # What a write does not take is sent again.
    fake.fault = halved(fake)
    assert run(fake, bundle, force=True).changed


def halved(fake: FakeAgent) -> Callable[[str, dict[str, Any]], Any]:
    def fault(name: str, arguments: dict[str, Any]) -> Any:
        if name == "guest-file-write":
            data = base64.b64decode(arguments["buf-b64"])
            arguments["buf-b64"] = base64.b64encode(data[: len(data) // 2 + 1]).decode()

    return fault


@pytest.mark.parametrize(("force", "changed"), [(False, False), (True, True)])
def test_the_same_version_is_there(fake: FakeAgent, bundle: Bundle, programs: Path, force: bool, changed: bool) -> None:
    program(programs, "vsrpc-guest", "echo vsrpc-guest 9.9.0")
    done = run(fake, bundle, force=force)
    assert (done.previous_version, done.changed) == ("9.9.0", changed)
    assert ("guest-file-open" in fake.calls) is changed


@pytest.mark.parametrize(
    ("name", "script", "reason", "message"),
    [
        ("id", "echo 1000", "PERMISSION_DENIED", "not run as root (uid 1000)"),
        ("python3", "[ $# = 2 ] && echo 3.6.8; exit 1", "NOT_SUPPORTED", "Python 3.8 or newer"),
        ("df", "echo Header; echo d 100 90 10 90% /", "NO_SPACE", "has 10 KiB free"),
    ],
)
def test_what_is_refused_before_anything_is_written(
    fake: FakeAgent,
    bundle: Bundle,
    programs: Path,
    tmp_path: Path,
    name: str,
    script: str,
    reason: str,
    message: str,
) -> None:
    names = [name] if name != "python3" else ["python3", *(f"python3.{minor}" for minor in range(8, 15))]
    for each in names:
        program(programs, each, script)
    bundle = Bundle(**{**vars(bundle), "unpacked": 10_000_000})
    with pytest.raises(RPCError) as caught:
        run(fake, bundle)
    assert (caught.value.reason, message in caught.value.message) == (reason, True), caught.value
    assert "guest-file-open" not in fake.calls
    assert left(tmp_path) == []


def test_disabled_requests_are_named(fake: FakeAgent, bundle: Bundle) -> None:
    fake.disabled = {"guest-exec", "guest-file-open"}
    with pytest.raises(RPCError, match=r"disables guest-exec, guest-file-open: .*BLACKLIST_RPC") as caught:
        run(fake, bundle)
    assert caught.value.reason == "PERMISSION_DENIED"


def damaging(name: str, arguments: dict[str, Any]) -> Any:
    if name == "guest-file-write":
        arguments["buf-b64"] = base64.b64encode(bytes(len(base64.b64decode(arguments["buf-b64"])))).decode()


def full(name: str, arguments: dict[str, Any]) -> Any:
    return error("failed to write to file: No space left on device") if name == "guest-file-write" else None


def stuck(name: str, arguments: dict[str, Any]) -> Any:
    return {"return": {"count": 0, "eof": False}} if name == "guest-file-write" else None


@pytest.mark.parametrize(
    ("fault", "message"),
    [(damaging, "bundle.tar.gz"), (full, "No space left on device"), (stuck, "is its disk full")],
)
def test_a_failure_leaves_nothing(fake: FakeAgent, bundle: Bundle, tmp_path: Path, fault: Any, message: str) -> None:
    fake.fault = fault
    with pytest.raises(RPCError, match=message):
        run(fake, bundle)
    assert left(tmp_path) == []
    assert fake.open == {}
    assert not (tmp_path / "arguments").exists()


def test_a_failed_installation_leaves_nothing(fake: FakeAgent, tmp_path: Path) -> None:
    bundle = read(str(bundle_file(tmp_path, "echo it is Monday >&2; exit 1")))
    with pytest.raises(RPCError, match="the guest is as it was: the installation failed: it is Monday"):
        run(fake, bundle)
    assert left(tmp_path) == []


def test_an_interrupted_run_leaves_nothing(fake: FakeAgent, bundle: Bundle, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(fake, bundle, progress=interrupt)
    assert left(tmp_path) == []
    assert fake.open == {}


def test_a_lost_agent_leaves_what_the_next_run_removes(fake: FakeAgent, bundle: Bundle, tmp_path: Path) -> None:
    def leave(name: str, arguments: dict[str, Any]) -> Any:
        if name == "guest-file-write":
            fake.fault = lambda name, arguments: (_ for _ in ()).throw(EOFError)
            raise EOFError

    fake.fault = leave
    with pytest.raises(RPCError) as caught:
        run(fake, bundle)
    assert caught.value.reason == "CONNECTION_LOST"
    assert len(left(tmp_path)) == 1
    fake.fault = lambda name, arguments: None
    run(fake, bundle)
    assert left(tmp_path) == []


def command(capfd: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(["bootstrap", *argv])
    return (code, *capfd.readouterr())


def test_the_command_line(
    fake: FakeAgent, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VIRTIO_SOCKET", raising=False)
    file = str(bundle_file(tmp_path))
    code, out, err = command(capfd, "--agent", str(fake.path), "--bundle", file)
    assert (code, out.splitlines()[-1], err) == (0, "installed", "")
    code, out, err = command(capfd, "--agent", str(fake.path), "--bundle", file, "-r")
    assert code == 0
    assert '"changed": true' in out


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["--agent", "{missing}"], 3, "cannot reach the guest agent's socket {missing}"),
        (["--agent", "{missing}", "--bundle", "{missing}"], 2, "{missing}: No such file"),
        (["--agent", "{missing}", "--bundle", "{text}"], 2, "{text} is no guest bundle"),
        (["--agent", "{missing}", "--bundle", "{half}"], 2, "{half} is no guest bundle, or only a part"),
        (["--agent", "{missing}", "--bundle", "{other}"], 2, "it has no install.sh"),
        (["--agent", "{missing}", "--port", "a b"], 2, "port name 'a b'"),
        (["--agent", "{missing}", "--port", "org.qemu.guest_agent.0"], 2, "keeps such names"),
        ([], 2, "one of the arguments --agent --domain is required"),
        (["--agent", "x", "--domain", "y"], 2, "not allowed with"),
        (["--agent", "{silent}", "-t", "0.3"], 6, "no guest agent answers at {silent} within 0.3 s"),
    ],
)
def test_what_the_command_line_refuses(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], argv: list[str], code: int, message: str
) -> None:
    import socket

    good = bundle_tools.archive(bundle_tools.tiny())
    names = {name: str(tmp_path / name) for name in ("missing", "text", "half", "other", "silent", "good")}
    (tmp_path / "good").write_bytes(good)
    (tmp_path / "text").write_text("text")
    (tmp_path / "half").write_bytes(good[: len(good) // 2])
    (tmp_path / "other").write_bytes(bundle_tools.archive({"README": b""}))
    words = [each.format(**names) for each in argv]
    if "--bundle" not in words:
        words += ["--bundle", names["good"]]
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(names["silent"])
        silent.listen()
        assert main(["bootstrap", *words]) == code
    out, err = capfd.readouterr()
    assert (out, err.count("\n"), message.format(**names) in err) == ("", 1, True), err


def test_no_bundle_is_there(
    fake: FakeAgent, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("host.bundle.places", lambda: [str(tmp_path)])
    code, _, err = command(capfd, "--agent", str(fake.path))
    assert (code, f"in {tmp_path}: give one by --bundle" in err) == (2, True), err


def test_what_answers_is_no_agent(fake: FakeAgent, bundle: Bundle) -> None:
    fake.fault = lambda name, arguments: b"HTTP/1.1 400 Bad Request\n"
    with pytest.raises(RPCError, match="is no QEMU guest agent") as caught:
        run(fake, bundle)
    assert caught.value.reason == "PROTOCOL_ERROR"


# A virsh that has a domain "vm1", whose agent is at $AGENT.
VIRSH = """#!{python}
import json, os, socket, sys
words = sys.argv[1:]
assert words[0] == "qemu-agent-command" and words[2] == "--timeout" and len(words[4]) < 131072, words
if words[1] != "vm1":
    sys.exit("error: failed to get domain '%s'" % words[1])
if not os.path.exists(os.environ["AGENT"]):
    sys.exit("error: Guest agent is not responding: QEMU guest agent is not connected")
with socket.socket(socket.AF_UNIX) as agent:
    agent.connect(os.environ["AGENT"])
    agent.sendall(words[4].encode() + b"\\n")
    reply = json.loads(agent.makefile().readline())
if "error" in reply:
    name = json.loads(words[4])["execute"]
    sys.exit("error: internal error: unable to execute QEMU agent command '%s': %s" % (name, reply["error"]["desc"]))
print(json.dumps(reply))
"""


@pytest.fixture
def virsh(tmp_path: Path, fake: FakeAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "virsh"
    directory.mkdir()
    (directory / "virsh").write_text(VIRSH.format(python=sys.executable))
    (directory / "virsh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    monkeypatch.setenv("AGENT", str(fake.path))
    monkeypatch.delenv("VIRTIO_SOCKET", raising=False)


@pytest.mark.usefixtures("virsh")
def test_by_libvirt(fake: FakeAgent, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = str(bundle_file(tmp_path, INSTALLER + "\n#" + os.urandom(200_000).hex()))
    code, out, err = command(capfd, "--domain", "vm1", "--bundle", file)
    assert (code, out.splitlines()[-1], err) == (0, "installed", "")
    assert fake.calls.count("guest-file-write") > 1
    assert "guest-sync-delimited" not in fake.calls  # libvirt's matter
    assert left(tmp_path) == []


@pytest.mark.usefixtures("virsh")
@pytest.mark.parametrize(
    ("domain", "agent", "fault", "code", "message"),
    [
        ("vm2", None, None, 2, "no such domain: vm2"),
        ("-x", None, None, 2, "'-x' is no domain's name"),
        ("vm1", "/nonexistent", None, 3, "does qemu-guest-agent run in the guest"),
        ("vm1", None, full, 5, "'guest-file-write': failed to write to file: No space left on device"),
    ],
)
def test_failures_by_libvirt(
    fake: FakeAgent,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    domain: str,
    agent: str | None,
    fault: Any,
    code: int,
    message: str,
) -> None:
    if agent:
        monkeypatch.setenv("AGENT", agent)
    if fault:
        fake.fault = fault
    done, _, err = command(capfd, f"--domain={domain}", "--bundle", str(bundle_file(tmp_path)))
    assert (done, message in err, err.count("\n")) == (code, True, 1), err
    assert left(tmp_path) == []


def test_pieces_fit_into_an_argument() -> None:
    assert len(base64.b64encode(bytes(guest_agent._VIRSH_PIECE))) + 1024 < 128 * 1024
