"""Runs protoc in this process, and the generator on what it read.

After a wanted change of the generator, `PYTHONPATH=. python tests/codegen/codegen_driver.py` rewrites tests/golden/out;
read the difference before committing it.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Iterable

import grpc_tools.protoc
from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from vsrpc.codegen.__main__ import generate

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
BUILTIN = Path(grpc_tools.protoc.__file__).parent / "_proto"


def request(proto_dir: Path, names: Iterable[str], parameter: str = "") -> CodeGeneratorRequest:
    """What protoc would send the plugin for these files of a directory; our own proto/ can be imported."""
    names = list(names)
    with tempfile.NamedTemporaryFile() as out:
        paths = [f"--proto_path={path}" for path in (proto_dir, ROOT / "proto", BUILTIN)]
        flags = ["--include_imports", "--include_source_info", f"--descriptor_set_out={out.name}"]
        status = grpc_tools.protoc.main(["protoc", *paths, *flags, *names])
        assert status == 0, "protoc refused the test's own schema; its message is on stderr"
        files = FileDescriptorSet.FromString(Path(out.name).read_bytes()).file
    return CodeGeneratorRequest(file_to_generate=names, proto_file=files, parameter=parameter)


def golden_texts() -> dict[str, str]:
    """Path → text of everything generated from tests/golden/proto."""
    proto_dir = GOLDEN / "proto"
    names = sorted(str(path.relative_to(proto_dir)) for path in proto_dir.rglob("*.proto"))
    return generate(request(proto_dir, names, "openapi=openapi.json"))


if __name__ == "__main__":
    shutil.rmtree(GOLDEN / "out", ignore_errors=True)
    for path, text in golden_texts().items():
        target = GOLDEN / "out" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
