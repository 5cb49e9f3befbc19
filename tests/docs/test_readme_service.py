"""The README's way to a service of one's own works as it is written: its schema, its command, its program."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

CALLER = """
import sys
import vsrpc
from my.v1.thing_pb2 import DoRequest
from my.v1.thing_vsrpc import ThingStub
from vsrpc.v1.system_vsrpc import SystemStub

with vsrpc.connect(sys.argv[1]) as channel:
    print(ThingStub(channel).Do(DoRequest(name="x"), timeout=10).text)
    print(SystemStub(channel).Ping(timeout=10).message)
    print(bytes(channel.http("POST", "/my/v1/do", body=b'{"name": "y"}').body).decode())
"""


def blocks() -> list[str]:
    """The indented blocks of the section: schema, command, program."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("### 4. Add a service of your own\n")[2].partition("\n## ")[0]
    return [textwrap.dedent(block) for block in re.findall(r"(?:^(?: {4}.*)?\n)*^ {4}.*\n", section, re.MULTILINE)]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "proto").symlink_to(ROOT / "proto")
    (tmp_path / "my/v1").mkdir(parents=True)
    return tmp_path


def test_a_service_of_ones_own(place: Path) -> None:
    schema, command, program = blocks()
    (place / "my/v1/thing.proto").write_text(schema)
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, shell=True, cwd=place, env=environment, check=True, timeout=60)
    target = f"unix:{place}/s"
    assert program.count("listener(settings.device.path)") == 1
    (place / "my_guest.py").write_text(program.replace("listener(settings.device.path)", f"listener({target!r})"))
    (place / "caller.py").write_text(CALLER)
    with subprocess.Popen([sys.executable, "my_guest.py"], cwd=place, env=environment) as guest:
        try:
            while not (place / "s").exists():
                assert guest.poll() is None
                time.sleep(0.01)
            caller = [sys.executable, "caller.py", target]
            done = subprocess.run(caller, cwd=place, env=environment, capture_output=True, text=True, timeout=60)
        finally:
            guest.kill()
    assert done.stderr == ""
    did, pong, reply = done.stdout.splitlines()
    assert (did, pong) == ("did x", "pong")
    assert '"data":{"text":"did y"}' in reply
