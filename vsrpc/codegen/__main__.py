"""protoc-gen-vsrpc: reads protoc's request from stdin, writes the response to stdout.

Parameter (`--vsrpc_opt`): `openapi=PATH` also writes an OpenAPI document of all files of the run to PATH.
"""

from __future__ import annotations

import sys
from pathlib import Path

from google.protobuf import __version__ as protobuf_version
from google.protobuf import message_factory
from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse

from vsrpc.codegen import names, render_openapi, render_pb2, render_tables, render_vsrpc
from vsrpc.codegen.model import SchemaError
from vsrpc.codegen.read import read

# Our schema with all that it imports: google/api/annotations.proto and vsrpc/options/v1/options.proto among them.
DESCRIPTOR_SET = Path(__file__).resolve().parent.parent / "v1" / "descriptor_set.binpb"

USAGE = """\
protoc-gen-vsrpc is run by protoc, for example:
  python3 -m grpc_tools.protoc -I. --descriptor_set_in="$(protoc-gen-vsrpc --descriptor-set)" \\
      --vsrpc_out=. [--vsrpc_opt=openapi=PATH] my.proto
--descriptor-set  print the path of a FileDescriptorSet with google/api/annotations.proto and
                  vsrpc/options/v1/options.proto, for schemas that import them
"""


def generate(request: CodeGeneratorRequest) -> dict[str, str]:
    """Path → text of every file to write; raises SchemaError."""
    if not hasattr(message_factory, "GetMessageClass"):
        raise SchemaError(
            f"generating needs protobuf 4.22 or newer, this Python has {protobuf_version}: use a virtual environment"
            " with a newer one (what is generated runs on 3.12.4 and newer)"
        )
    openapi_path = _openapi_path(request.parameter)
    schema = read(request)
    texts: dict[str, str | None] = {}
    for file in schema.files:
        stem = names.stem(file.name)
        texts[f"{stem}_pb2.py"] = render_pb2.render(file)
        texts[f"{stem}_tables.py"] = render_tables.render(file, schema)
        texts[f"{stem}_vsrpc.py"] = render_vsrpc.render(file, schema)
    if openapi_path:
        texts[openapi_path] = render_openapi.render(schema)
    return {path: text for path, text in texts.items() if text is not None}


def _openapi_path(parameter: str) -> str:
    key, _, value = parameter.partition("=")
    if parameter and (key != "openapi" or not value or "," in value):
        raise SchemaError(f"unknown plugin parameter {parameter!r}; the only one is openapi=PATH")
    return value


def main() -> None:
    """Answer one request of protoc; with arguments, a user's."""
    if sys.argv[1:] == ["--descriptor-set"]:
        print(DESCRIPTOR_SET)
        return
    if len(sys.argv) > 1 or sys.stdin.isatty():
        sys.exit(USAGE)
    request = CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    response = CodeGeneratorResponse(supported_features=CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL)
    try:
        for path, text in sorted(generate(request).items()):
            response.file.add(name=path, content=text)
    except SchemaError as error:
        response.error = str(error)
    sys.stdout.buffer.write(response.SerializeToString())


if __name__ == "__main__":
    main()
