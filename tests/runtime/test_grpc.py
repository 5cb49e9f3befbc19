"""Our channel and gRPC's: stubs are the same to both."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import grpc_tools.protoc
import pytest
from runtime_world import World

from vsrpc import Channel, Code, RpcError
from vsrpc.channel import UnaryUnaryCallable
from vsrpc.v1.shell_pb2 import ExecRequest, ExecResponse
from vsrpc.v1.shell_vsrpc import ShellStub

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """What grpcio's own generator makes of shell.proto."""
    out = tmp_path_factory.mktemp("grpc")
    builtin = Path(grpc_tools.protoc.__file__).parent / "_proto"
    paths = [f"--proto_path={path}" for path in (ROOT / "proto", builtin)]
    assert grpc_tools.protoc.main(["protoc", *paths, f"--grpc_python_out={out}", "vsrpc/v1/shell.proto"]) == 0
    spec = importlib.util.spec_from_file_location("shell_pb2_grpc", out / "vsrpc" / "v1" / "shell_pb2_grpc.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("compression", ["", "gzip"])
def test_grpcs_stub_runs_on_our_channel(world: World, generated: ModuleType, compression: str) -> None:
    stub = generated.ShellStub(world.channel(compression=compression))
    request = ExecRequest(command="hello")
    assert stub.Exec(request, timeout=5, metadata=(("a", "b"),)).stdout == b"hello"
    response, call = stub.Exec.with_call(request)
    assert (response.stdout, call.code()) == (b"hello", Code.OK)
    assert stub.Exec.future(request).result().stdout == b"hello"


def test_grpcs_stub_gets_our_errors(world: World, generated: ModuleType) -> None:
    world.handlers.set("Exec", lambda request, context: context.abort(Code.NOT_FOUND, "not there"))
    with pytest.raises(RpcError, match="NOT_FOUND: not there"):
        generated.ShellStub(world.channel()).Exec(ExecRequest())


def parameters(function: Any) -> list[tuple[str, Any]]:
    return [(each.name, each.default) for each in inspect.signature(function).parameters.values()]


def test_the_channel_is_shaped_as_grpcs() -> None:
    """A stub may pass whatever grpc.Channel.unary_unary takes, by position or by name."""
    assert parameters(Channel.unary_unary) == parameters(grpc.Channel.unary_unary)


@pytest.mark.parametrize("name", ["__call__", "with_call", "future"])
def test_a_callable_takes_what_stubs_pass(name: str) -> None:
    ours = parameters(getattr(UnaryUnaryCallable, name))
    theirs = parameters(getattr(grpc.UnaryUnaryMultiCallable, name))
    assert [each for each, _ in ours] == [each for each, _ in theirs[: len(ours)]]
    assert [default for _, default in ours[2:]] == [default for _, default in theirs[2 : len(ours)]]


class FakeGrpcChannel:
    """Records what a stub asks of a grpc.Channel, in a signature that only that has."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def unary_unary(self, *arguments: Any, **named: Any) -> Any:
        bound = inspect.signature(grpc.Channel.unary_unary).bind(self, *arguments, **named)
        self.asked = bound.arguments
        return lambda request, timeout=None: self.asked["response_deserializer"](
            ExecResponse(stdout=self.asked["request_serializer"](request)).SerializeToString()
        )


def test_our_stub_runs_on_a_channel_of_grpcs_shape() -> None:
    channel = FakeGrpcChannel()
    stub = ShellStub(channel)
    assert channel.asked["method"] == "/vsrpc.v1.Shell/Exec"
    response = stub.Exec(ExecRequest(command="x"), timeout=5)
    assert response == ExecResponse(stdout=ExecRequest(command="x").SerializeToString())


def test_codes_are_grpcs() -> None:
    assert {code.name: code.value for code in Code} == {code.name: code.value[0] for code in grpc.StatusCode}


def test_errors_have_grpcs_methods() -> None:
    for name in ("code", "details", "initial_metadata", "trailing_metadata"):
        assert callable(getattr(RpcError, name))
        assert hasattr(grpc.Call, name)
