"""Programs of other projects that tests talk to: where they are found, and where what they build is kept."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest


def tool(name: str) -> str:
    """Path of a program, in the virtual environment or on PATH.

    Where it is missing the test is skipped; under VSRPC_REQUIRE_PEERS=1 it fails.
    """
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is not None:
        return found
    reason = f"{name} is not installed; `make setup-peers` gets it"
    if os.environ.get("VSRPC_REQUIRE_PEERS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def cache_dir(*parts: str) -> Path:
    """A folder for what is downloaded or built once: below $VSRPC_CACHE, by default ~/.cache/vsrpc."""
    base = os.environ.get("VSRPC_CACHE")
    if not base:
        base = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "vsrpc")
    path = Path(base).absolute().joinpath(*parts)
    path.mkdir(parents=True, exist_ok=True)
    return path
