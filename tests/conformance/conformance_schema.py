"""The suite's schema through our generator: protoc → descriptors → protoc-gen-vsrpc → Python modules.

The suite's own .proto files are used as they come with the pinned Go module; nothing of them is kept here. Its
streaming rpcs are left out before generation, since the generator refuses them.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

ROOT = Path(__file__).resolve().parents[2]

FILES = [f"connectrpc/conformance/v1/{name}.proto" for name in ("config", "service", "client_compat", "server_compat")]


def generate(proto: Path, out: Path) -> None:
    """Write the modules of the schema in the folder `proto` below `out`. Raises CalledProcessError."""
    descriptors = out / "descriptors.binpb"
    protoc = [sys.executable, "-m", "grpc_tools.protoc"]
    subprocess.run(
        [*protoc, f"--proto_path={proto}", "--include_imports", f"--descriptor_set_out={descriptors}", *FILES],
        check=True,
    )
    descriptors.write_bytes(_unary_only(descriptors.read_bytes()))
    plugin = out / "protoc-gen-vsrpc"
    plugin.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -m vsrpc.codegen\n")
    plugin.chmod(0o755)
    subprocess.run(
        [
            *protoc,
            f"--descriptor_set_in={descriptors}",
            f"--plugin=protoc-gen-vsrpc={plugin}",
            f"--vsrpc_out={out}",
            *FILES,
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )


def _unary_only(serialized: bytes) -> bytes:
    files = FileDescriptorSet.FromString(serialized)
    for file in files.file:
        for service in file.service:
            unary = [method for method in service.method if not (method.client_streaming or method.server_streaming)]
            del service.method[:]
            service.method.extend(unary)
    return files.SerializeToString()
