"""What can go wrong with a test VM, as one small tree."""

from __future__ import annotations


class VMError(Exception):
    """The VM could not do what was asked; the message says which step failed and shows the evidence."""


class HostIncompleteError(VMError):
    """This host lacks the programs to run a VM, and they cannot be installed from here."""
