"""The client in examples/go, which was written from PROTOCOL.md alone."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from peer_target import Target
from peer_tools import cache_dir, tool

from vsrpc._version import __version__

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300)]

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "go"


@pytest.fixture(scope="module")
def program() -> Path:
    built = cache_dir("go-example") / "example"
    subprocess.run([tool("go"), "build", "-o", str(built), "."], cwd=EXAMPLE, check=True, timeout=240)
    return built


def test_everything_in_the_example_works(program: Path, target: Target, folder: str) -> None:
    ended = subprocess.run([program, target.socket, folder], stdout=subprocess.PIPE, text=True, check=True, timeout=90)

    said = dict(line.split(": ", 1) for line in ended.stdout.splitlines())
    assert said.pop("host name")
    assert said == {
        "agent": f"vsrpc-guest/{__version__}",
        "stdout": "hello",
        "errors": "3002 3002 true true",
        "deadline": "5005",
        "same content": "true",
    }


def test_it_says_that_no_guest_answers(program: Path, tmp_path: Path) -> None:
    ended = subprocess.run([program, tmp_path / "socket", "/tmp/x"], capture_output=True, text=True, timeout=60)

    assert ended.returncode == 1
    assert "no such file" in ended.stderr
