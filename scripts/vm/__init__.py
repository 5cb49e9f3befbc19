"""A real guest in QEMU, for `make vm` and for the tests: built once, booted in seconds, thrown away.

Standard library only, and nothing of vsrpc: the machine must work when the product does not. `VM` is the whole
interface; `VMError` is every failure of it, `HostIncompleteError` the one that says this host lacks programs.
"""

from __future__ import annotations

from .errors import HostIncompleteError, VMError
from .machine import VM

__all__ = ["VM", "HostIncompleteError", "VMError"]
