"""The form of the host's configuration file: its keys, what each may be, and the settings they make.

Imported only to read a file that says something, because it loads the YAML parser.
"""

from __future__ import annotations

from dataclasses import dataclass

from host.config import Settings
from host.errors import UsageError
from vsrpc.yamlconfig import (
    ConfigError,
    absolute_path,
    integer,
    key,
    load_config,
    one_of,
    or_null,
    seconds,
    section,
    size,
    text,
)

_DEFAULT = Settings()
_LONGEST = 86400.0  # seconds


@dataclass(frozen=True)
class ConnectionSection:
    """How the port is reached."""

    socket_path: str | None = key(or_null(text), None)
    connect_timeout: float = key(seconds(0.01, _LONGEST), _DEFAULT.connect_timeout)
    read_timeout: float = key(seconds(0.01, _LONGEST), _DEFAULT.read_timeout)
    write_timeout: float = key(seconds(0.01, _LONGEST), _DEFAULT.write_timeout)
    lock_dir: str | None = key(or_null(absolute_path), _DEFAULT.lock_dir)
    key_file: str | None = key(or_null(absolute_path), _DEFAULT.key_file)


@dataclass(frozen=True)
class RetrySection:
    """When a call is made again."""

    max_retries: int = key(integer(0, 100), _DEFAULT.max_retries)
    retry_interval: float = key(seconds(0, 3600), _DEFAULT.retry_interval)
    backoff_factor: float = key(seconds(1, 100), _DEFAULT.backoff_factor)


@dataclass(frozen=True)
class LoggingSection:
    """Where the log goes."""

    level: str = key(one_of(("DEBUG", "INFO", "WARNING", "ERROR")), _DEFAULT.log_level)
    file: str | None = key(or_null(absolute_path), _DEFAULT.log_file)
    max_size: int = key(size(64 * 1024, 1024**3), _DEFAULT.log_max_size)
    backup_count: int = key(integer(0, 100), _DEFAULT.log_backup_count)


@dataclass(frozen=True)
class HostConfig:
    """All of it."""

    connection: ConnectionSection = section(ConnectionSection)
    retry: RetrySection = section(RetrySection)
    logging: LoggingSection = section(LoggingSection)


def parse(path: str) -> Settings:
    """Read and validate a file. Raises UsageError with the file, the line, the key, and what is wrong."""
    try:
        config = load_config(path, HostConfig)
    except ConfigError as error:
        raise UsageError(str(error)) from None
    connection, retry, log = config.connection, config.retry, config.logging
    return Settings(
        target=connection.socket_path or "",
        connect_timeout=connection.connect_timeout,
        read_timeout=connection.read_timeout,
        write_timeout=connection.write_timeout,
        lock_dir=connection.lock_dir,
        key_file=connection.key_file,
        max_retries=retry.max_retries,
        retry_interval=retry.retry_interval,
        backoff_factor=retry.backoff_factor,
        log_level=log.level,
        log_file=log.file,
        log_max_size=log.max_size,
        log_backup_count=log.backup_count,
    )
