"""What a pipeline consists of, ready to be started, and how it ended."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Mapping, Sequence

# POSIX XCU 2.8.2
CANNOT_EXECUTE = 126
"""Exit code of a command that was found and could not be executed."""
NOT_FOUND = 127
"""Exit code of a command that was not found."""


@dataclass(frozen=True)
class OpenFile:
    """Standard descriptor `fd` is the open file `file`; the job closes it once the stage runs."""

    fd: int
    file: int


@dataclass(frozen=True)
class Copy:
    """Standard descriptor `fd` is a copy of standard descriptor `source`, as it is then."""

    fd: int
    source: int


@dataclass(frozen=True)
class Stage:
    """A process to start. Redirections apply in order, after the pipeline's own."""

    argv: Sequence[str]
    program: str
    environment: Mapping[str, str]
    redirections: tuple[OpenFile | Copy, ...] = ()
    makes_session: bool = False
    """Whether the program makes a session for itself, as setsid(1) does."""

    def close(self) -> None:
        """Close the open files."""
        for redirection in self.redirections:
            if isinstance(redirection, OpenFile):
                os.close(redirection.file)


@dataclass(frozen=True)
class FailedStage:
    """A stage that cannot run: its exit code, and what it says on standard error."""

    code: int
    message: str

    def close(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True)
class Status:
    """How a command ended: the exit code, 128 + N if signal N killed it, and then the signal's name."""

    code: int
    signal: str = ""
