"""What a type checker sees of generated code: every request and reply type, and each misuse."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from codegen_driver import GOLDEN, ROOT

pytestmark = pytest.mark.slow

# A comment after "#:" is what mypy is to say of its line; of the other lines it must say nothing.
USE = """
from vsrpc.calls import UnaryChannel
from vsrpc.context import ServicerContext, ServiceRegistry
from vsrpc.v1 import system_pb2
from vsrpc.v1.system_vsrpc import SYSTEM_INFO, SystemServicer, SystemStub, add_SystemServicer_to_server
from tricky.elsewhere import common_types_pb2
from tricky.v1 import shapes_pb2
from tricky.v1.shapes_vsrpc import ShapesStub

def client(channel: UnaryChannel) -> None:
    stub = SystemStub(channel)
    reveal_type(stub.Info(timeout=5))  #: Revealed type is "vsrpc.v1.system_pb2.InfoResponse"
    reveal_type(stub.Info.with_call()[0])  #: Revealed type is "vsrpc.v1.system_pb2.InfoResponse"
    reveal_type(stub.Info.future().result())  #: Revealed type is "vsrpc.v1.system_pb2.InfoResponse"
    reveal_type(stub.Info().interfaces[0].name)  #: Revealed type is "str"
    stub.Info(system_pb2.PingRequest())  #: incompatible type "PingRequest"
    stub.Inof()  #: "SystemStub" has no attribute "Inof"
    stub.Info(timeuot=5)  #: Unexpected keyword argument "timeuot"
    reveal_type(SYSTEM_INFO.request_type)  #: Revealed type is "type[vsrpc.v1.system_pb2.InfoRequest]"
    shapes = ShapesStub(channel)
    reveal_type(shapes.Draw(shapes_pb2.Outer.Inner(id=1)))  #: Revealed type is "tricky.v1.shapes_pb2.Outer"
    shapes.Silent(common_types_pb2.Common())

class Good(SystemServicer):
    def Ping(self, request: system_pb2.PingRequest, context: ServicerContext) -> system_pb2.PingResponse:
        return system_pb2.PingResponse(message="pong")

class Bad(SystemServicer):
    def Ping(self, request: system_pb2.InfoRequest, context: ServicerContext) -> system_pb2.PingResponse:  #: incompat
        return system_pb2.PingResponse()

def server(registry: ServiceRegistry) -> None:
    add_SystemServicer_to_server(Good(), registry)
    add_SystemServicer_to_server(object(), registry)  #: incompatible type "object"
"""


def test_mypy_strict(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "out", tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    protos = sorted(str(path.relative_to(GOLDEN / "proto")) for path in (GOLDEN / "proto").rglob("*.proto"))
    plugin = Path(sys.executable).with_name("protoc-gen-mypy")
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{GOLDEN / 'proto'}", f"-I{ROOT / 'proto'}"]
    command += [f"--plugin=protoc-gen-mypy={plugin}", f"--mypy_out=quiet:{tmp_path}", *protos]
    subprocess.run(command, check=True)
    assert not [path for path in tmp_path.rglob("*.pyi") if "google.api" in path.read_text()]
    (tmp_path / "use.py").write_text(USE)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary", "--hide-error-context"),
            *(
                "--explicit-package-bases",
                f"--cache-dir={tmp_path / 'cache'}",
                "--disable-error-code=unused-ignore",
                ".",
            ),
        ],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said: dict[int, str] = {}
    for line in done.stdout.splitlines():
        match = re.match(r"use\.py:(\d+): (.*)", line)
        assert match, done.stdout
        said[int(match.group(1))] = said.get(int(match.group(1)), "") + match.group(2)
    for number, line in enumerate(USE.splitlines(), 1):
        expected = line.partition("#: ")[2]
        assert (expected in said[number]) if expected else number not in said, (line, said.get(number))
