"""The daemon's configuration: its keys, their defaults, and where the file is looked for.

The file's form is read by vsrpc.yamlconfig; what each key means is said in guest/config.yaml, which is also the
last place looked at. Nothing here acts on a setting.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from vsrpc.yamlconfig import (
    ConfigError,
    absolute_path,
    boolean,
    integer,
    key,
    list_of,
    load_config,
    one_of,
    or_null,
    seconds,
    section,
    show,
    size,
    text,
)

KIB = 1024
MIB = 1024 * KIB

_BUILT_IN_COMMANDS: tuple[str, ...] | None = ()

SYSTEM_FILE = "/etc/vsrpc/guest.yaml"
PACKAGED_FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "config.yaml")


def _no_auth(value: object) -> bool:
    # Fail closed: a daemon that is told to authenticate must not serve everybody.
    if boolean(value):
        raise ValueError("this version cannot authenticate callers, so it will not start with true: write false")
    return False


def _command_name(value: object) -> str:
    name = text(value)
    if name != name.strip() or any(char.isspace() for char in name) or ("/" in name and not name.startswith("/")):
        raise ValueError(f"{show(value)} is not a command: write its name (ls) or its absolute path (/usr/bin/ls)")
    return name


@dataclass(frozen=True)
class DeviceConfig:
    """The virtio-serial port."""

    path: str = key(absolute_path, "/dev/virtio-ports/test.vserial.0")
    buffer_size: int = key(size(4 * KIB, 16 * MIB), 256 * KIB)
    """Bytes asked for in one read of the port."""
    allow_rebind: bool = key(boolean, False)
    """Whether the port's driver may be bound anew to heal it, which takes all ports of its controller away."""


@dataclass(frozen=True)
class ServerConfig:
    """Limits of the server."""

    max_request_size: int = key(size(64 * KIB, 1024 * MIB), 10 * MIB)
    """Bytes of a request's body; also of a reply's."""
    request_timeout: float = key(seconds(1, 86400), 60.0)
    """Seconds that a call may take when its caller sets no deadline."""
    workers: int = key(integer(1, 256), 8)
    """Calls served at a time."""


@dataclass(frozen=True)
class SecurityConfig:
    """What callers may do."""

    enable_auth: bool = key(_no_auth, False)
    allowed_commands: tuple[str, ...] | None = key(or_null(list_of(_command_name)), _BUILT_IN_COMMANDS)
    """Names; empty for the built-in list; None for any command, run by the shell."""
    allowed_paths: tuple[str, ...] = key(list_of(absolute_path), ("/tmp/", "/var/log/", "/home/", "/opt/"))
    """Directories, with all below them, and files, of which content may be read and written."""


@dataclass(frozen=True)
class LoggingConfig:
    """Where the log goes."""

    level: str = key(one_of(("DEBUG", "INFO", "WARNING", "ERROR")), "INFO")
    file: str | None = key(or_null(absolute_path), None)
    """None for standard error, which is the journal under systemd."""
    max_size: int = key(size(64 * KIB, 1024 * MIB), 10 * MIB)
    """Bytes at which the file is rotated."""
    backup_count: int = key(integer(0, 100), 5)
    """Rotated files kept."""


@dataclass(frozen=True)
class GuestConfig:
    """All of it."""

    device: DeviceConfig = section(DeviceConfig)
    server: ServerConfig = section(ServerConfig)
    security: SecurityConfig = section(SecurityConfig)
    logging: LoggingConfig = section(LoggingConfig)


def find(path: str | None) -> str:
    """The file to read: the one asked for, else the system's if there is one, else the packaged one."""
    if path is not None:
        return path
    return SYSTEM_FILE if os.path.exists(SYSTEM_FILE) else PACKAGED_FILE


def load(path: str) -> GuestConfig:
    """Read and validate a configuration file; raises ConfigError, whose text names the file, the line and the key."""
    return load_config(path, GuestConfig)


__all__ = ["ConfigError", "GuestConfig", "LoggingConfig", "SecurityConfig", "ServerConfig", "find", "load"]
