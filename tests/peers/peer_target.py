"""What the fixtures hand to the tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A guest: the path of its socket, and whether systemd runs in it."""

    socket: str
    has_systemd: bool


@dataclass(frozen=True)
class RemoteFile:
    """A file in the guest."""

    path: str
    content: bytes
