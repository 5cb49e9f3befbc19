"""Run by the matrix in an isolated interpreter: uses generated code as a user would, on whatever protobuf it finds.

Arguments: the protobuf version and implementation expected, then directories for sys.path. Any exception is a failure.
Needs nothing but the standard library, protobuf and the repository.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def modules(directory: Path, package: str, suffix: str) -> list[Any]:
    """All generated modules of a directory with that suffix."""
    names = sorted(path.stem for path in directory.glob(f"*{suffix}.py"))
    assert names, directory
    return [importlib.import_module(f"{package}.{name}" if package else name) for name in names]


def filled(message_class: Any, depth: int = 0) -> Any:
    """A message with every field set to something, three levels deep."""
    message = message_class()
    for field in message_class.DESCRIPTOR.fields:
        if field.message_type is not None and depth == 3:
            continue
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            entry = field.message_type.fields_by_name
            key = sample(entry["key"])
            if entry["value"].message_type is None:
                value[key] = sample(entry["value"])
            else:
                value[key].MergeFrom(filled(entry["value"].message_type._concrete_class, depth + 1))
        elif hasattr(value, "append"):
            if field.message_type is None:
                value.extend([sample(field)] * 2)
            else:
                value.add().MergeFrom(filled(field.message_type._concrete_class, depth + 1))
        elif field.message_type is not None:
            value.CopyFrom(filled(type(value), depth + 1))
        else:
            setattr(message, field.name, sample(field))
    return message


def sample(field: Any) -> Any:
    """A value that is not the field's default."""
    from google.protobuf.descriptor import FieldDescriptor as Kind

    if field.enum_type is not None:
        return field.enum_type.values[-1].number
    return {
        Kind.TYPE_BOOL: True,
        Kind.TYPE_DOUBLE: 2.5,
        Kind.TYPE_FLOAT: 2.5,
        Kind.TYPE_STRING: "Grüße",
        Kind.TYPE_BYTES: b"\x00\xff",
    }.get(field.type, 7)


def check_round_trips(pb2: Any) -> int:
    """Every message of a module survives bytes and JSON; returns how many there were."""
    from google.protobuf import json_format

    for name, descriptor in pb2.DESCRIPTOR.message_types_by_name.items():
        message_class = getattr(pb2, name)
        assert message_class.DESCRIPTOR is descriptor or message_class.DESCRIPTOR.full_name == descriptor.full_name
        assert message_class.__module__ == pb2.__name__
        message = filled(message_class)
        assert message_class.FromString(message.SerializeToString()) == message
        assert json_format.Parse(json_format.MessageToJson(message), message_class()) == message
    for name, enum in pb2.DESCRIPTOR.enum_types_by_name.items():
        wrapper = getattr(pb2, name)
        for value in enum.values:
            assert getattr(pb2, value.name) == wrapper.Value(value.name) == value.number
    return len(pb2.DESCRIPTOR.message_types_by_name)


def check_own_schema() -> None:
    """vsrpc.v1: everything imports and round-trips, fields with presence know it, nothing drags options in."""
    v1 = ROOT / "vsrpc" / "v1"
    modules(v1, "vsrpc.v1", "_tables")
    modules(v1, "vsrpc.v1", "_vsrpc")
    assert sum(check_round_trips(pb2) for pb2 in modules(v1, "vsrpc.v1", "_pb2")) > 20
    from vsrpc.v1 import file_pb2, system_pb2

    request = file_pb2.UploadRequest(overwrite=False)
    assert request.HasField("overwrite")
    assert not file_pb2.UploadRequest().HasField("overwrite")
    assert type(system_pb2.InfoResponse().interfaces.add()) is system_pb2.NetworkInterface
    assert not [name for name in sys.modules if name.startswith(("google.api", "vsrpc.options"))]


def check_golden() -> None:
    """The golden schema: what a generator trips over still works once loaded."""
    out = ROOT / "tests" / "golden" / "out"
    for directory, package in (
        (out, ""),
        (out / "tricky" / "v1", "tricky.v1"),
        (out / "tricky/elsewhere", "tricky.elsewhere"),
    ):
        for pb2 in modules(directory, package, "_pb2"):
            check_round_trips(pb2)
    shapes = importlib.import_module("tricky.v1.shapes_pb2")
    elsewhere = importlib.import_module("tricky.elsewhere.common_types_pb2")
    inner = shapes.Outer.Inner(id=3, kinds=[shapes.Outer.Inner.KIND_ROUND, -1], flag=False)
    assert shapes.Outer.Inner.Kind.Name(inner.kinds[1]) == "KIND_NEGATIVE"
    outer = shapes.Outer(inner=inner, deepest=[shapes.Outer.Inner.Deepest(raw=b"x")], by_name={"a": inner}, color=1)
    outer.kind_of[5] = 1
    assert outer.by_name["a"].HasField("flag")
    assert not outer.HasField("ratio")
    assert outer.WhichOneof("choice") is None
    outer.recursive.text = "deep"
    assert outer.WhichOneof("choice") == "recursive"
    setattr(outer, "class", True)
    setattr(outer, "None", 4)
    outer.self = "me"
    again = shapes.Outer.FromString(outer.SerializeToString())
    assert (again, getattr(again, "class"), getattr(again, "None")) == (outer, True, 4)
    assert getattr(shapes, "None") == 0
    assert getattr(shapes, "yield")(value=1).value == 1
    assert elsewhere.Bare is importlib.import_module("bare_pb2").Bare  # its import is public
    assert elsewhere.Common(bare=elsewhere.Bare(name="b")).bare.name == "b"
    options = shapes.Outer.DESCRIPTOR.fields_by_name["secret"].GetOptions()
    assert options.deprecated
    assert options.SerializeToString() == b"\x18\x01"  # deprecated, and no custom option
    check_services(shapes, elsewhere)


def check_services(shapes: Any, elsewhere: Any) -> None:
    """Stub, servicer and registration of the golden schema, over a channel that calls the servicer."""
    from vsrpc.errors import RpcError
    from vsrpc.method import MethodDescriptor
    from vsrpc.status import Code

    generated = importlib.import_module("tricky.v1.shapes_vsrpc")

    class Servicer(generated.ShapesServicer):  # type: ignore[misc, name-defined]
        def Draw(self, request: Any, context: Any) -> Any:
            return shapes.Outer(inner=request)

    class Registry:
        def add_service(self, service: Any, servicer: Any) -> None:
            self.service, self.servicer = service, servicer

        def unary_unary(self, path: str, request_serializer: Any, response_deserializer: Any) -> Any:
            method = MethodDescriptor.of(request_serializer)
            assert method is not None
            assert method.path == path
            assert method in self.service.methods

            def call(request: Any) -> Any:
                received = method.request_type.FromString(request_serializer(request))
                reply = getattr(self.servicer, method.name)(received, None)
                return response_deserializer(reply.SerializeToString())

            return call

    registry = Registry()
    generated.add_ShapesServicer_to_server(Servicer(), registry)
    stub = generated.ShapesStub(registry)
    assert stub.Draw(shapes.Outer.Inner(id=9)).inner.id == 9
    assert stub.Draw(None) == shapes.Outer(inner=shapes.Outer.Inner())
    caught = None
    try:
        stub.Silent(elsewhere.Common())
    except RpcError as error:
        caught = error
    assert caught is not None
    assert caught.code() is Code.UNIMPLEMENTED
    assert "tricky.v1.Shapes.Silent" in caught.details()


def main(version: str, implementation: str, *path: str) -> None:
    """Check that this is the runtime which was asked for, then all of the above."""
    sys.path[:0] = path
    import google.protobuf
    from google.protobuf.internal import api_implementation

    assert google.protobuf.__version__ == version, google.protobuf.__version__
    assert implementation in ("default", api_implementation.Type()), api_implementation.Type()
    check_own_schema()
    check_golden()


if __name__ == "__main__":
    main(*sys.argv[1:])
