#!/usr/bin/env python3
"""Writes the generated code of our schema: proto/vsrpc/v1 → vsrpc/v1 (`make proto`).

Runs grpcio-tools' protoc with mypy-protobuf and this repository's own plugin. What it writes depends only on proto/
and on the pinned tools. With an argument, writes below that directory instead.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "vsrpc/v1"


def generate(out: Path) -> None:
    """Write all generated files below `out`; raises CalledProcessError, with protoc's message on stderr."""
    (out / PACKAGE).mkdir(parents=True, exist_ok=True)
    protos = sorted(str(path.relative_to(ROOT / "proto")) for path in (ROOT / "proto" / PACKAGE).glob("*.proto"))
    (out / PACKAGE / "__init__.py").touch()
    with tempfile.TemporaryDirectory() as tools:
        plugin = Path(tools, "protoc-gen-vsrpc")
        plugin.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -m vsrpc.codegen\n")
        plugin.chmod(0o755)
        subprocess.run(
            [
                *(sys.executable, "-m", "grpc_tools.protoc", "--proto_path=proto"),
                *(f"--plugin=protoc-gen-vsrpc={plugin}", f"--vsrpc_out={out}"),
                f"--vsrpc_opt=openapi={PACKAGE}/openapi.json",
                *(f"--plugin=protoc-gen-mypy={Path(sys.executable).with_name('protoc-gen-mypy')}",),
                f"--mypy_out=quiet:{out}",
                *("--include_imports", "--include_source_info"),
                f"--descriptor_set_out={out / PACKAGE / 'descriptor_set.binpb'}",
                *protos,
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=True,
        )


if __name__ == "__main__":
    generate(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT)
