"""The command line before a guest that takes only signed requests: where its key comes from, and what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Iterator, Mapping

import pytest
from e2e_cli import Outcome

from host.client import RPCError, VirtioRPCClient
from vsrpc import Key

SECRET = "00112233445566778899aabbccddeeff"
KEY = f"host1 {SECRET}"
WRONG = "host1 " + "00" * 16


def host(target: str, *argv: str, **environ: str) -> Outcome:
    """Run a command line in an environment of its own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("VIRTIO_", "VSRPC_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-m", "host", "-s", target, *argv],
        env={**kept, "XDG_CONFIG_HOME": "/nonexistent", **environ},
        capture_output=True,
        timeout=100,
    )
    return Outcome(done.returncode, done.stdout, done.stderr.decode())


def private(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A guest that has one key; its target."""
    directory = tmp_path_factory.mktemp("guarded")
    security = {"enable_auth": True, "key_file": private(directory / "keys", KEY), "allowed_paths": [f"{directory}/"]}
    (directory / "guest.yaml").write_text(json.dumps({"security": security}))
    target = f"unix:{directory}/sock"
    with (directory / "log").open("wb") as log:
        command = [sys.executable, "-m", "guest", "--listen", target, "--config", f"{directory}/guest.yaml"]
        daemon = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL)
    try:
        answered = host(target, "wait", VSRPC_KEY=KEY)
        assert answered.code == 0, (answered.err, (directory / "log").read_text())
        yield target
    finally:
        daemon.terminate()
        daemon.wait(30)
    assert SECRET not in (directory / "log").read_text()


@pytest.fixture
def sources(tmp_path: Path) -> Mapping[str, str]:
    """Where a key may come from: good and wrong ones, and files that name them."""
    good, wrong = private(tmp_path / "good", f"# mine\n{KEY}\nother {'11' * 16}\n"), private(tmp_path / "wrong", WRONG)
    named = {}
    for name, path in (("good", good), ("wrong", wrong)):
        (tmp_path / f"{name}.yaml").write_text(f"connection: {{key_file: {path}}}\n")
        named[f"{name}.yaml"] = f"{tmp_path}/{name}.yaml"
    return {"good": good, "wrong": wrong, **named}


@pytest.mark.parametrize("mode", [[], ["--json"]])
@pytest.mark.parametrize(
    ("environ", "config"),
    [
        ({"VSRPC_KEY": KEY}, None),
        ({"VSRPC_KEY_FILE": "good"}, None),
        ({}, "good.yaml"),
        ({"VSRPC_KEY": KEY, "VSRPC_KEY_FILE": "wrong"}, "wrong.yaml"),
        ({"VSRPC_KEY_FILE": "good"}, "wrong.yaml"),
        ({"VSRPC_KEY": "", "VSRPC_KEY_FILE": ""}, "good.yaml"),
    ],
)
def test_where_the_key_comes_from(
    guarded: str, sources: Mapping[str, str], mode: list[str], environ: dict[str, str], config: str | None
) -> None:
    argv = [*mode, *(["-c", sources[config]] if config else []), "-d", "ping"]
    done = host(guarded, *argv, **{name: sources.get(value, value) for name, value in environ.items()})
    assert (done.code, done.json["message"]) == (0, "pong"), done.err
    assert SECRET not in done.err


@pytest.mark.parametrize(
    ("argv", "code"),
    [(["ping"], 4), (["--json", "ping"], 4), (["exec", "uptime"], 204), (["upload", __file__, "/x"], 4)],
)
@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({}, "there is no key to sign with"),
        ({"VSRPC_KEY": WRONG}, "the secrets of the two ends differ"),
        ({"VSRPC_KEY": KEY.replace("host1", "host2")}, "knows no key host2"),
    ],
)
def test_what_is_said_without_the_right_key(
    guarded: str, argv: list[str], code: int, environ: dict[str, str], says: str
) -> None:
    done = host(guarded, *argv, **environ)
    assert (done.code, done.out, done.err.count("\n")) == (code, b"", 1), done
    assert says in done.err
    for way_out in ("VSRPC_KEY,", "VSRPC_KEY_FILE", "connection.key_file", "security.key_file"):
        assert way_out in done.err


@pytest.mark.parametrize(
    ("environ", "text", "mode", "says"),
    [
        ({"VSRPC_KEY": SECRET}, None, 0, "VSRPC_KEY: not of the form NAME SECRET"),
        ({"VSRPC_KEY": "host1 abcd"}, None, 0, "VSRPC_KEY: the secret of key host1 has 2 bytes"),
        ({"VSRPC_KEY_FILE": "keys"}, None, 0, "VSRPC_KEY_FILE: keys: cannot read the keys: No such file or directory"),
        (
            {"VSRPC_KEY_FILE": "keys"},
            KEY,
            0o644,
            "VSRPC_KEY_FILE: keys: mode 0644 lets others at the keys: chmod 600 keys",
        ),
        ({"VSRPC_KEY_FILE": "keys"}, SECRET, 0o600, "VSRPC_KEY_FILE: keys: line 1: not of the form NAME SECRET"),
    ],
)
def test_a_key_that_cannot_be_used_is_told_at_once(
    tmp_path: Path, environ: dict[str, str], text: str | None, mode: int, says: str
) -> None:
    if text is not None:
        private(tmp_path / "keys", text, mode)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("VIRTIO_", "VSRPC_", "XDG_"))}
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-m", "host", "-s", "/nowhere", "-d", "ping"],
        cwd=tmp_path,
        env={**kept, "PYTHONPATH": root, "XDG_CONFIG_HOME": "/nonexistent", **environ},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"vsrpc-host: error: {says}")
    assert SECRET not in done.stderr


def test_files_both_ways(guarded: str, tmp_path: Path) -> None:
    content = os.urandom(5 << 20)
    (tmp_path / "file").write_bytes(content)
    remote = guarded.removeprefix("unix:").removesuffix("sock") + "file"
    for mode in ([], ["--json"]):
        assert host(guarded, *mode, "upload", str(tmp_path / "file"), remote, VSRPC_KEY=KEY).code == 0
        assert Path(remote).read_bytes() == content
        assert host(guarded, *mode, "download", remote, str(tmp_path / "back"), VSRPC_KEY=KEY).code == 0
        assert (tmp_path / "back").read_bytes() == content


def test_the_python_client_takes_a_key(guarded: str) -> None:
    with VirtioRPCClient(guarded, key=Key.parse(KEY)) as client:
        assert client.ping()["data"]["message"] == "pong"
    with VirtioRPCClient(guarded) as client, pytest.raises(RPCError) as caught:
        client.ping()
    assert caught.value.reason == "UNAUTHENTICATED"


@pytest.mark.parametrize(
    ("environ", "code", "state", "verdict"),
    [
        ({"VSRPC_KEY": KEY}, 0, "ok", "fine: the guest can be called"),
        ({}, 4, "fault", "no_key: the guest takes only signed requests"),
        ({"VSRPC_KEY": WRONG}, 4, "fault", "key_refused: the signature is not one with key host1"),
    ],
)
def test_the_doctor_looks_at_the_key(
    guarded: str, environ: dict[str, str], code: int, state: str, verdict: str
) -> None:
    done = host(guarded, "doctor", **environ)
    lines = done.out.decode().splitlines()
    assert (done.code, done.err) == (code, "")
    assert [line.split()[:2] for line in lines][4] == ["key", state]
    assert lines[-1].startswith(f"verdict  {verdict}")
    assert ("VSRPC_KEY_FILE" in lines[-1]) is (state == "fault")
    assert host(guarded, "-r", "doctor", **environ).json["data"]["facts"]["signatures"] is True


def test_the_embedded_guest_is_called_as_ever_and_is_told_no_key() -> None:
    done = host("local:", "exec", "env", VSRPC_KEY=KEY)
    assert done.code == 0
    assert SECRET.encode() not in done.out
