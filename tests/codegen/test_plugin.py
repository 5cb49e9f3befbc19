"""The plugin as a user runs it: a process started by protoc, on a schema of the user's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from codegen_driver import ROOT, request
from google.protobuf import message_factory

from vsrpc.codegen.__main__ import generate
from vsrpc.codegen.model import SchemaError

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
# The package is not the directory, and imports come from what vsrpc ships.
MINE = """syntax = "proto3";
package acme.lights.v2;
import "google/api/annotations.proto";
import "google/protobuf/duration.proto";
import "vsrpc/options/v1/options.proto";
// Switches lights.
service Lights {
  // Blinks one light.
  rpc Blink(BlinkRequest) returns (BlinkResponse) { option (google.api.http) = {%s}; }
}
message BlinkRequest { string lamp = 1; google.protobuf.Duration period = 2; }
message BlinkResponse { bytes log = 1 [(vsrpc.options.v1.text) = true]; }
"""
USE = """
import sys
from devices import my_lights_pb2, my_lights_vsrpc
assert not [name for name in sys.modules if name.startswith(("google.api", "vsrpc.v1", "vsrpc.options"))], sys.modules
request = my_lights_pb2.BlinkRequest(lamp="desk")
request.period.seconds = 2
assert my_lights_pb2.BlinkRequest.FromString(request.SerializeToString()) == request
service = my_lights_vsrpc.LIGHTS_SERVICE
assert (service.name, service.methods[0].path) == ("acme.lights.v2.Lights", "/acme.lights.v2.Lights/Blink")
route, = service.routes
assert (route.http_method, route.template, route.body) == ("POST", "/lights/{lamp}", "*")
assert service.text_fields == {"acme.lights.v2.BlinkResponse": ("log",)}
"""


def plugin(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vsrpc.codegen", *arguments]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def protoc(directory: Path, http: str) -> subprocess.CompletedProcess[str]:
    """protoc with the plugin, on MINE with that route, into directory/out."""
    script = directory / "protoc-gen-vsrpc"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vsrpc.codegen\n')
    script.chmod(0o755)
    (directory / "src" / "devices").mkdir(parents=True)
    (directory / "src" / "devices" / "my-lights.proto").write_text(MINE % http)
    (directory / "out").mkdir()
    imports = plugin("--descriptor-set").stdout.strip()
    command = [sys.executable, "-m", "grpc_tools.protoc", "-Isrc", f"--descriptor_set_in={imports}"]
    command += [f"--plugin=protoc-gen-vsrpc={script}", "--vsrpc_out=out", "devices/my-lights.proto"]
    return subprocess.run(command, cwd=directory, env=ENVIRONMENT, capture_output=True, text=True)


def test_a_users_own_schema(tmp_path: Path) -> None:
    done = protoc(tmp_path, 'post: "/lights/{lamp}" body: "*"')
    assert (done.returncode, done.stderr) == (0, "")
    written = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert written == [f"devices/my_lights_{kind}.py" for kind in ("pb2", "tables", "vsrpc")]
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path / 'out'}"}
    subprocess.run([sys.executable, "-c", USE], env=environment, check=True)


def test_an_error_is_one_line_of_protoc(tmp_path: Path) -> None:
    done = protoc(tmp_path, 'get: "/lights/{lamp}"')
    assert done.returncode == 1
    assert done.stderr == (
        "--vsrpc_out: devices/my-lights.proto:9: rpc acme.lights.v2.Lights.Blink: route GET /lights/{lamp}:"
        " field 'period' of acme.lights.v2.BlinkRequest is a message or map, which a query cannot carry;"
        ' use a method with body "*"\n'
    )
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("argument", ["--help", "my.proto"])
def test_usage(argument: str) -> None:
    done = plugin(argument)
    assert done.returncode == 1
    assert done.stderr.startswith("protoc-gen-vsrpc is run by protoc, for example:")


def test_an_old_protobuf_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.proto").write_text('syntax = "proto3";')
    monkeypatch.delattr(message_factory, "GetMessageClass")
    with pytest.raises(SchemaError, match=r"generating needs protobuf 4\.22 or newer, this Python has "):
        generate(request(tmp_path, ["a.proto"]))
