"""Names: from the schema's to Python's, and the check that they are possible.

Module names follow the file's path, as in protoc's own Python output: "a/b-c.proto" is the module "a.b_c_pb2".
"""

from __future__ import annotations

import keyword
import re

from vsrpc.codegen.model import File, Schema, SchemaError

_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def constant(name: str) -> str:
    """ "ServiceManager" → "SERVICE_MANAGER"."""
    return _WORD_START.sub("_", name).upper()


def stem(file_name: str) -> str:
    """The path of a file's Python modules without their suffix: "a/b-c.proto" → "a/b_c"."""
    base = file_name[: -len(".proto")] if file_name.endswith(".proto") else file_name
    return base.replace("-", "_")


def module(file_name: str, suffix: str) -> tuple[str, str]:
    """Package ("" at the top) and name of a file's module: ("a.b", "c_pb2")."""
    package, _, name = f"{stem(file_name)}{suffix}".replace("/", ".").rpartition(".")
    return package, name


def method_constant(service: str, method: str) -> str:
    """The constant that holds a method's descriptor: "SYSTEM_INFO"."""
    return f"{constant(service)}_{constant(method)}"


def service_constant(service: str) -> str:
    """The constant that holds a service's descriptor: "SYSTEM_SERVICE"."""
    return f"{constant(service)}_SERVICE"


def check(file: File, schema: Schema) -> None:
    """Raise SchemaError for a name that the generated Python could not have."""
    for part in stem(file.name).split("/"):
        if not part.isidentifier() or keyword.iskeyword(part):
            raise SchemaError(
                f"{file.name}: {part!r} in the file's path cannot be in a Python module's name; rename it"
            )
    taken = {"TYPE_CHECKING": "a name of the generated module"}
    for service in file.services:
        if service.name.startswith("__"):
            raise SchemaError(f"{file.name}: service {service.full_name} begins with two underscores; rename it")
        owner = f"service {service.full_name}"
        for name, meaning in [
            (service_constant(service.name), owner),
            *((method_constant(service.name, method.name), method.where) for method in service.methods),
        ]:
            if name in taken:
                raise SchemaError(f"{file.name}: {meaning}: its constant {name} is taken by {taken[name]}; rename one")
            taken[name] = meaning
        for method in service.methods:
            if keyword.iskeyword(method.name) or method.name.startswith("__"):
                raise SchemaError(f"{method.where}: {method.name!r} cannot be a Python method's name; rename it")
            for type_name in (method.request, method.response):
                for part in schema.messages[type_name].python_path.split("."):
                    if keyword.iskeyword(part):
                        raise SchemaError(f"{method.where}: type {type_name} has a Python keyword as name; rename it")
