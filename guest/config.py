"""The daemon's configuration: its keys, their defaults, and where the file is looked for.

The file's form is read by vsrpc.yamlconfig; what each key means is said in guest/config.yaml, which is also the
last place looked at. Nothing here acts on a setting.
"""

from __future__ import annotations

import os
import stat
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


def _command_name(value: object) -> str:
    name = text(value)
    if name != name.strip() or any(char.isspace() for char in name) or ("/" in name and not name.startswith("/")):
        raise ValueError(f"{show(value)} is not a command: write its name (ls) or its absolute path (/usr/bin/ls)")
    return name


def _unit_pattern(value: object) -> str:
    name = text(value)
    if "/" in name or any(char.isspace() for char in name):
        raise ValueError(f"{show(value)} is not a unit's name: write nginx, or a pattern such as php*.service")
    return name


ON, READ_ONLY, OFF = "on", "read-only", "off"
"""How much of a service is served: all of it, the rpcs that only read, or nothing."""


def _switch(value: object) -> str:
    if isinstance(value, bool):
        return ON if value else OFF
    if value == READ_ONLY:
        return READ_ONLY
    raise ValueError(f"{show(value)} is no switch: write true, false or {READ_ONLY}")


@dataclass(frozen=True)
class AllowedPath:
    """A directory, with all below it, or a file, whose content may be read and, if `writable`, written."""

    path: str
    writable: bool = True


def _allowed_path(value: object) -> AllowedPath:
    if not isinstance(value, dict):
        return AllowedPath(absolute_path(value))
    if set(value) != {"path", "access"} or value["access"] not in ("read", "write"):
        raise ValueError(f"{show(value)} is no entry: write a path, or {{path: /srv/, access: read}} (or write)")
    return AllowedPath(absolute_path(value["path"]), value["access"] == "write")


UNIT_ACTIONS = ("status", "start", "stop", "restart", "enable", "disable")

_PATHS = tuple(map(AllowedPath, ("/tmp/", "/var/log/", "/home/", "/opt/")))


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
    queue: int = key(integer(0, 4096), 128)
    """Calls that wait for their turn; what comes on top is refused."""


@dataclass(frozen=True)
class ServicesConfig:
    """How much of each service is served: ON, READ_ONLY or OFF."""

    system: str = key(_switch, ON)
    shell: str = key(_switch, ON)
    file: str = key(_switch, ON)
    service_manager: str = key(_switch, ON)


@dataclass(frozen=True)
class OperationsConfig:
    """Which operations on the guest as a machine callers may do."""

    power: bool = key(boolean, False)
    freeze: bool = key(boolean, False)
    trim: bool = key(boolean, True)
    set_time: bool = key(boolean, True)
    set_hostname: bool = key(boolean, True)


@dataclass(frozen=True)
class SecurityConfig:
    """What callers may do."""

    enable_auth: bool | None = key(or_null(boolean), None)
    """None: where others than the host's administrator could connect (vsock), and not at a port or a UNIX socket."""
    key_file: str = key(absolute_path, "/etc/vsrpc/keys")
    """The keys that callers may sign with."""
    replay_window: float = key(seconds(1, 3600), 300.0)
    """Seconds by which a signature's time may differ from the one that the daemon tells its clients."""
    allowed_commands: tuple[str, ...] | None = key(or_null(list_of(_command_name)), _BUILT_IN_COMMANDS)
    """Names; empty for the built-in list; None for any command, run by the shell."""
    allowed_paths: tuple[AllowedPath, ...] = key(list_of(_allowed_path), _PATHS)
    """Places of which content may be read and written; of several that hold a path the deepest counts."""
    denied_paths: tuple[str, ...] = key(list_of(absolute_path), ())
    """Directories, with all below them, and files that are refused always, beside the built-in ones."""
    allowed_units: tuple[str, ...] | None = key(or_null(list_of(_unit_pattern)), None)
    """Units that ServiceManager may touch: names or patterns; None for all."""
    allowed_unit_actions: tuple[str, ...] = key(list_of(one_of(UNIT_ACTIONS)), UNIT_ACTIONS)
    login_shell: bool = key(boolean, False)
    """Whether callers may have an interactive shell, in which allowed_commands does not hold."""
    operations: OperationsConfig = section(OperationsConfig)
    allow_update: bool = key(boolean, False)
    """Whether callers may replace the daemon."""
    services: ServicesConfig = section(ServicesConfig)


@dataclass(frozen=True)
class LimitsConfig:
    """How much callers may use. None: no limit."""

    requests_per_second: float | None = key(or_null(seconds(1, 1_000_000)), None)
    """Calls in a second, on average; as many may come at once."""
    commands: int | None = key(or_null(integer(1, 256)), None)
    """Commands that run at a time."""
    jobs: int = key(integer(1, 1024), 256)
    """Jobs that run at a time."""
    job_memory: int | None = key(or_null(size(1 * MIB, 1 << 50)), None)
    """Bytes of memory that the processes of a job may use together."""
    job_processes: int | None = key(or_null(integer(1, 1 << 22)), None)
    """Processes and threads of a job."""
    uploads: int = key(integer(1, 1024), 32)
    """Uploads open at a time."""
    upload_idle: float = key(seconds(10, 86400), 900.0)
    """Seconds without a call after which an upload is dropped."""
    upload_space: int | None = key(or_null(size(64 * KIB, 1 << 50)), None)
    """Bytes of all open uploads."""
    free_space: int = key(size(0, 1 << 50), 0)
    """Bytes that uploads leave free on a file system."""
    buffered: int = key(size(1 * MIB, 1 << 40), 64 * MIB)
    """Bytes of requests that were received and are not served yet."""
    argument_size: int = key(size(1 * KIB, 2 * MIB), 128 * KIB)
    """Bytes of a command's line, or of its arguments together."""
    environment_size: int = key(size(0, 2 * MIB), 128 * KIB)
    """Bytes of a request's variables together."""


@dataclass(frozen=True)
class AuditConfig:
    """The record of what callers did."""

    enabled: bool = key(boolean, True)
    file: str | None = key(or_null(absolute_path), None)
    """None for the daemon's log."""
    max_size: int = key(size(64 * KIB, 1024 * MIB), 10 * MIB)
    """Bytes at which the file is rotated."""
    backup_count: int = key(integer(0, 100), 5)
    """Rotated files kept."""


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
    limits: LimitsConfig = section(LimitsConfig)
    audit: AuditConfig = section(AuditConfig)
    logging: LoggingConfig = section(LoggingConfig)


def find(path: str | None) -> str:
    """The file to read: the one asked for, else the system's if there is one, else the packaged one."""
    if path is not None:
        return path
    try:
        os.lstat(SYSTEM_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return PACKAGED_FILE
    except OSError:  # it may be there: reading it will tell why it cannot be used
        pass
    return SYSTEM_FILE


def load(path: str) -> GuestConfig:
    """Read and validate a configuration file; raises ConfigError, whose text names the file, the line and the key.

    Also for a file that others could have written.
    """
    _check_trusted(path)
    config = load_config(path, GuestConfig)
    if config.limits.buffered < config.server.max_request_size:
        raise ConfigError(
            f"{path}: limits.buffered is {config.limits.buffered}, less than server.max_request_size, which is "
            f"{config.server.max_request_size}: no request of that size would fit; raise the one or lower the other"
        )
    return config


def _check_trusted(path: str) -> None:
    places = {os.path.dirname(each) for each in (os.path.abspath(path), os.path.realpath(path))}
    try:
        status = os.stat(path)
        directories = {place: os.stat(place) for place in sorted(places)}
    except OSError:
        return  # reading it tells
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path}: cannot read this configuration file: it is not a regular file")
    files = {path: status, **{place: each for place, each in directories.items() if not each.st_mode & stat.S_ISVTX}}
    for file, each in files.items():
        if each.st_mode & stat.S_IWOTH:
            raise ConfigError(f"{path}: not trusted: every user may write {file}; run: chmod o-w {file}")
    if os.geteuid() != 0 or os.path.realpath(path) != os.path.realpath(SYSTEM_FILE):
        return
    for file, each in files.items():
        if each.st_uid != 0:
            raise ConfigError(f"{path}: not trusted: {file} belongs to user {each.st_uid}; run: chown root {file}")
        if each.st_mode & stat.S_IWGRP and each.st_gid != 0:
            raise ConfigError(f"{path}: not trusted: group {each.st_gid} may write {file}; run: chmod g-w {file}")


__all__ = ["ConfigError", "GuestConfig", "LoggingConfig", "SecurityConfig", "ServerConfig", "find", "load"]
