"""PROTOCOL.md's own script for signed requests, with curl and openssl, before a guest that wants them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator

import pytest
from peer_tools import tool

pytestmark = pytest.mark.peers

ROOT = Path(__file__).resolve().parents[2]
SECRET = "00112233445566778899aabbccddeeff"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of a guest that takes only signed requests, with its socket `sock` and its file `keys`."""
    directory = tmp_path_factory.mktemp("signed")
    keys = directory / "keys"
    keys.write_text(f"host1 {SECRET}\n")
    keys.chmod(0o600)
    (directory / "guest.yaml").write_text(json.dumps({"security": {"enable_auth": True, "key_file": str(keys)}}))
    command = [sys.executable, "-m", "guest", "--listen", f"unix:{directory}/sock", "--exit-with-stdin"]
    with subprocess.Popen(
        [*command, "--config", str(directory / "guest.yaml")], cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as daemon:
        assert daemon.stderr is not None
        assert any(b" serves unix:" in line for line in daemon.stderr)
        yield directory
        daemon.communicate()


def ask(guarded: Path, script: Path, target: str, body: Any, key_file: Path | None = None) -> Any:
    done = subprocess.run(
        ["sh", "-eu", str(script), f"{guarded}/sock", target, json.dumps(body)],
        env={**os.environ, "VSRPC_KEY_FILE": str(key_file or guarded / "keys")},
        capture_output=True,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tool("curl"), tool("openssl")
    (text,) = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "PROTOCOL.md").read_text(), re.DOTALL | re.MULTILINE)
    path = tmp_path_factory.mktemp("script") / "signed.sh"
    path.write_text(text)
    return path


def test_the_script_of_the_page(guarded: Path, script: Path, tmp_path: Path) -> None:
    exec_ = {"command": "echo 'wörd'", "timeout": 10}
    assert ask(guarded, script, "/api/v1/shell/exec", exec_)["data"]["stdout"] == "wörd\n"
    assert ask(guarded, script, "/vsrpc.v1.System/Ping", {})["message"] == "pong"
    wrong = tmp_path / "wrong"
    wrong.write_text("host1 " + "00" * 16 + "\n")
    refused = ask(guarded, script, "/api/v1/shell/exec", exec_, wrong)
    assert (refused["code"], "the secrets of the two ends differ" in refused["message"]) == (4002, True)


def test_the_client_in_go(guarded: Path, go_example: Path) -> None:
    def run(key: str) -> subprocess.CompletedProcess[str]:
        command = [go_example, f"{guarded}/sock", f"/tmp/vsrpc-signed-{os.getpid()}-"]
        environ = {**os.environ, "VSRPC_KEY": key}
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)

    try:
        done = run(f"host1 {SECRET}")
    finally:
        for path in Path("/tmp").glob(f"vsrpc-signed-{os.getpid()}-*"):
            path.unlink()
    assert (done.returncode, "same content: true" in done.stdout) == (0, True), done.stderr
    assert "set VSRPC_KEY to NAME SECRET" in run("").stderr
    assert "the secrets of the two ends differ" in run("host1 " + "00" * 16).stderr
