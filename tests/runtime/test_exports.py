"""What the runtime offers by name, and what it costs to import."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import vsrpc
import vsrpc.transports
import vsrpc.wire


def test_the_public_names() -> None:
    names = ["Channel", "ChannelOptions", "Code", "ErrorDetail", "Key", "RpcError", "__version__", "connect"]
    assert vsrpc.__all__ == names
    assert all(hasattr(vsrpc, name) for name in names)


@pytest.mark.parametrize("module", [vsrpc.transports, vsrpc.wire])
def test_packages_offer_what_they_list(module: object) -> None:
    names = module.__all__  # type: ignore[attr-defined]
    assert all(hasattr(module, name) for name in names)
    public = {name for name, value in vars(module).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert public - set(names) <= {"annotations", "Callable", "Optional"}


# A host without protobuf, and a guest's memory, must not pay for these.
HEAVY = ("google.protobuf", "yaml", "psutil", "ssl", "asyncio", "grpc", "concurrent.futures.process")

IMPORTS = [
    # what is imported, and which of HEAVY may come with it
    ("vsrpc", ()),
    ("vsrpc.channel", ()),
    ("vsrpc.transports.serial", ()),
    ("vsrpc.transports.memory", ()),
    ("vsrpc.v1.system_tables", ()),
    ("vsrpc.v1.error_tables", ()),
    ("vsrpc.dispatcher", ()),
    ("vsrpc.server", ()),
    ("vsrpc.v1.system_vsrpc", ("google.protobuf",)),
]


@pytest.mark.parametrize(("module", "allowed"), IMPORTS)
def test_what_an_import_brings(module: str, allowed: tuple[str, ...]) -> None:
    heavy = [name for name in HEAVY if name not in allowed]
    program = f"import sys, {module}; print(*[name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# What may not be in the sans-IO core: it gets bytes and gives bytes.
IO = ("socket", "select", "threading", "_socket", "ssl", "asyncio", "subprocess", "vsrpc.channel", "vsrpc.transports")


def test_the_wire_core_brings_no_io() -> None:
    # vsrpc itself imports the channel; the wire package alone is loaded here, as if it stood by itself.
    program = f"""
import importlib.util, sys, types
root = types.ModuleType("vsrpc")
root.__path__ = {list(vsrpc.__path__)!r}
sys.modules["vsrpc"] = root
before = set(sys.modules)
import vsrpc.wire
print(*sorted(name for name in set(sys.modules) - before if name in {IO} or name.startswith("vsrpc.transports")))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
