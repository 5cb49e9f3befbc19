"""model → text of `*_pb2.py`: the file's descriptor, handed to vsrpc.pbload."""

from __future__ import annotations

from vsrpc.codegen import names, text
from vsrpc.codegen.model import File


def render(file: File) -> str:
    """The module that loads a file's messages, after those of the files that it imports."""
    lines = [text.header(file.name), "from vsrpc import pbload"]
    for dependency in file.imports:
        package, name = names.module(dependency, "_pb2")
        lines.append(f"{text.import_line(package, name)}  # noqa: F401")
        if dependency in file.public_imports:
            lines.append(f"from {package + '.' if package else ''}{name} import *  # noqa: F403")
    lines += ["", "pbload.load(", *text.bytes_literal(file.descriptor, "    ")]
    lines[-1] += ","
    lines += [f'    "{file.name}",', "    globals(),", ")"]
    return "\n".join(lines) + "\n"
