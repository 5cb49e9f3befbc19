"""What a short command loads: the most of its time is Python's and goes with that."""

from __future__ import annotations

import subprocess
import sys
from typing import Iterator

import pytest
from google.protobuf.internal import api_implementation

from host.local import LocalGuest

# What it did load once, and has no use for.
UNUSED = {
    "ast",
    "asyncio",
    "dataclasses",
    "gzip",
    "hashlib",
    "hmac",
    "inspect",
    "ipaddress",
    "logging",
    "pathlib",
    "shutil",
    "ssl",
    "subprocess",
    "tempfile",
    "traceback",
    "urllib.parse",
    "yaml",
    "google.protobuf.json_format",
    "host.configfile",
    "host.local",
    "host.transfer",
    "host.cli.jobs",
    "host.cli.provisioning",
    "vsrpc.context",
    "vsrpc.interceptor",
    "vsrpc.server",
    "vsrpc.yamlconfig",
}

# What protobuf needs where it is in Python.
UNUSED_IN_C = {"pickle", "google.protobuf.descriptor_pool", "google.protobuf.message_factory"}

PROGRAM = """
import sys
before = set(sys.modules)  # what makes an editable installation loads some itself
from host.__main__ import main
code = main()
print(*sorted(set(sys.modules) - before), file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def socket() -> Iterator[str]:
    with LocalGuest() as local:
        yield local.target


def loaded(*argv: str) -> set[str]:
    """The modules that a command line loads."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, *argv], capture_output=True, text=True, check=True)
    assert done.stdout
    return set(done.stderr.split())


@pytest.mark.parametrize("command", ["ping", "info"])
def test_a_call_loads_no_more_than_it_needs(command: str, socket: str) -> None:
    modules = loaded("-s", socket, command)
    in_c = api_implementation.Type() != "python"
    assert modules & (UNUSED | UNUSED_IN_C if in_c else UNUSED) == set()
    assert {name for name in modules if name.endswith("_pb2")} == {"vsrpc.v1.system_pb2"}


def test_json_needs_no_protobuf(socket: str) -> None:
    assert not [name for name in loaded("-s", socket, "--json", "ping") if name.startswith("google.protobuf")]
