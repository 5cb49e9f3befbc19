"""systemd's units, through systemctl(1).

What it prints for programs is read, what it prints for people is passed on. Arguments go to the program as they are,
never through a shell. Only plain unit names are taken: no option, no path, no glob.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
from dataclasses import dataclass
from typing import Callable, Mapping, Sequence

DIRECTORIES = ("/usr/bin", "/bin", "/usr/sbin", "/sbin")

# systemd.unit(5): valid characters of unit names, and the types.
_NAME = re.compile(r"[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]*\Z")
_TYPES = frozenset(
    ("service", "socket", "device", "mount", "automount", "swap", "target", "path", "timer", "slice", "scope")
)
_LONGEST_NAME = 255

_PROPERTIES = ("Id", "LoadState", "ActiveState", "SubState", "MainPID", "UnitFileState", "MemoryCurrent")

_STATES = {
    "active": "running",
    "inactive": "stopped",
    "failed": "failed",
    "activating": "starting",
    "deactivating": "stopping",
    "reloading": "reloading",
}

STATUSES = (*_STATES.values(), "exited")
"""All words of the schema for a unit's state."""

_ENVIRONMENT = {
    "PATH": ":".join(DIRECTORIES),
    "LC_ALL": "C",
    "TERM": "dumb",
    "SYSTEMD_COLORS": "0",
    "SYSTEMD_PAGER": "",
    "SYSTEMD_URLIFY": "0",
}

_MOST_OUTPUT = 64 * 1024  # characters passed on: a screenful is what people read
_UNKNOWN_SIZE = 2**63  # bytes: what is more stands for "not set"


class TimedOut(Exception):
    """The program did not end in time, or its caller left; it was killed. What it asked systemd for goes on."""


class Unusable(Exception):
    """systemctl is not installed, or cannot tell what it is asked; the text says why."""


@dataclass(frozen=True)
class Result:
    """How a program ended, and what it printed."""

    exit_code: int
    output: str
    errors: str


@dataclass(frozen=True)
class Unit:
    """A unit's state. `status` is in the words of the schema, `substate` in systemd's; `pid` is 0 when no main process
    runs; `memory` in bytes, 0 where it is not known."""

    id: str
    found: bool
    status: str
    enabled: bool
    pid: int
    substate: str = ""
    memory: int = 0


@dataclass(frozen=True)
class Listed:
    """A unit that is loaded."""

    name: str
    status: str
    substate: str
    load: str
    description: str


def unit_name(name: str) -> str:
    """The unit's full name: ".service" is added to a name without a type, as systemctl does.

    Raises ValueError for what is no plain unit name.
    """
    if not _NAME.match(name) or name.startswith("."):
        raise ValueError("a plain unit name is needed (letters, digits, : _ . @ \\ and -), no path, pattern or option")
    full = typed_name(name)
    if len(full) > _LONGEST_NAME:
        raise ValueError(f"a unit name has at most {_LONGEST_NAME} characters")
    return full


def typed_name(name: str) -> str:
    """A unit's name, or a pattern of names, with its type."""
    return name if name.rpartition(".")[2] in _TYPES and "." in name else f"{name}.service"


def is_running(run_directory: str = "/run/systemd/system") -> bool:
    """Whether systemd is this system's service manager (sd_booted(3))."""
    return os.path.isdir(run_directory)


class Systemctl:
    """Runs systemctl and journalctl. `directories` are where they are looked for, before any environment is asked.

    Methods take `remaining`, which gives the seconds left, and `on_cancel`, which registers what ends the program when
    the caller leaves; they raise TimedOut and Unusable.
    """

    def __init__(
        self,
        remaining: Callable[[], float],
        on_cancel: Callable[[Callable[[], None]], bool],
        directories: Sequence[str] = DIRECTORIES,
    ) -> None:
        self._remaining = remaining
        self._on_cancel = on_cancel
        self._directories = directories

    def show(self, unit: str) -> Unit:
        """The unit's state."""
        properties = ",".join(_PROPERTIES)
        result = self._run("systemctl", "show", f"--property={properties}", "--no-pager", "--", unit)
        if result.exit_code != 0:
            raise Unusable(result.errors.strip() or f"systemctl show ended with {result.exit_code}")
        return _unit(dict(line.partition("=")[::2] for line in result.output.splitlines()))

    def names(self) -> list[str]:
        """The full names of all units that are loaded or have a file: templates too, aliases not."""
        names: list[str] = []
        for what in ("list-units", "list-unit-files"):
            listed = self._run("systemctl", what, "--no-legend", "--plain", "--no-pager", "--all", most=None)
            rows = (line.split() for line in listed.output.splitlines())
            names += [row[0] for row in rows if len(row) > 1 and row[1] != "alias"]
        return names

    def units(self) -> list[Listed]:
        """All units that are loaded, by name. Raises Unusable."""
        options = ("--all", "--full", "--no-legend", "--plain", "--no-pager")
        result = self._run("systemctl", "list-units", *options, most=None)
        if result.exit_code != 0:
            raise Unusable(result.errors.strip() or f"systemctl list-units ended with {result.exit_code}")
        listed = []
        for line in result.output.splitlines():
            name, load, active, substate, *description = [*line.split(None, 4), "", "", "", ""][:5]
            if name:
                listed.append(Listed(name, _status(active, substate), substate, load, *description))
        return sorted(listed, key=lambda unit: unit.name)

    def act(self, action: str, unit: str, *options: str) -> Result:
        """start, stop, restart, enable or disable; waits for the end."""
        return self._run("systemctl", action, "--no-pager", "--no-ask-password", *options, "--", unit)

    def describe(self, unit: str) -> str:
        """What `systemctl status` prints for people."""
        return self._run("systemctl", "status", "--no-pager", "--full", "--lines=5", "--", unit).output

    def journal(self, unit: str, lines: int) -> str:
        """The unit's last messages; empty where there is no journal."""
        try:
            arguments = ("--no-pager", "--quiet", "--output=cat", f"--lines={lines}", f"--unit={unit}")
            return self._run("journalctl", *arguments).output
        except (Unusable, TimedOut):
            return ""

    def _run(self, program: str, *arguments: str, most: int | None = _MOST_OUTPUT) -> Result:
        process = start(program, *arguments, directories=self._directories)
        left = threading.Event()

        def leave() -> None:
            left.set()
            process.kill()

        with process:
            if not self._on_cancel(leave):
                leave()
            try:
                output, errors = process.communicate(timeout=self._remaining())
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                raise TimedOut from None
        if left.is_set():
            raise TimedOut
        return Result(process.returncode, _text(output, most), _text(errors, _MOST_OUTPUT))


def _find_program(program: str, directories: Sequence[str] = DIRECTORIES) -> str:
    """Where the program is. Raises Unusable."""
    for directory in directories:
        path = os.path.join(directory, program)
        if os.access(path, os.X_OK):
            return path
    raise Unusable(f"{program} is not installed (looked in {', '.join(directories)})")


def start(program: str, *arguments: str, directories: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start one of systemd's programs, with its output and errors in pipes. Raises Unusable, OSError."""
    return subprocess.Popen(
        [_find_program(program, directories), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_ENVIRONMENT,
        cwd="/",
        start_new_session=True,
    )


def _unit(properties: Mapping[str, str]) -> Unit:
    active = properties.get("ActiveState", "")
    substate = properties.get("SubState", "")
    pid, memory = properties.get("MainPID", ""), properties.get("MemoryCurrent", "")
    return Unit(
        id=properties.get("Id", ""),
        # A unit whose file was removed goes on until it is stopped.
        found=properties.get("LoadState") != "not-found" or active not in ("inactive", ""),
        status=_status(active, substate),
        enabled=properties.get("UnitFileState", "") in ("enabled", "enabled-runtime"),
        pid=int(pid) if pid.isdigit() else 0,
        substate=substate,
        memory=int(memory) if memory.isdigit() and int(memory) < _UNKNOWN_SIZE else 0,
    )


def _status(active: str, substate: str) -> str:
    return "exited" if (active, substate) == ("active", "exited") else _STATES.get(active, active)


def _text(output: bytes, most: int | None) -> str:
    return output.decode("utf-8", "replace")[:most]
