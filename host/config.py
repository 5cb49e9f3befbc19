"""Settings of the host side: where they come from and which one wins (option > environment > file > default).

Values only. The file's form is in host/configfile.py, which is imported only when a file says anything: most
commands run without one, and the YAML parser is the slowest thing they would load.
"""

from __future__ import annotations

import os
from typing import Mapping, NamedTuple

from host.errors import UsageError
from vsrpc.auth import Key
from vsrpc.port_lock import LOCK_DIR_VARIABLE

SOCKET_VARIABLE = "VIRTIO_SOCKET"
KEY_VARIABLE = "VSRPC_KEY"
KEY_FILE_VARIABLE = "VSRPC_KEY_FILE"
KEY_SOURCES = (
    f"the key to sign with is that of {KEY_VARIABLE}, of the file {KEY_FILE_VARIABLE}, or of connection.key_file in "
    "the configuration, and must be one of the guest's security.key_file"
)
SYSTEM_FILE = "/etc/vsrpc/host.yaml"
PACKAGED_FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "config.yaml")


class Settings(NamedTuple):
    """Everything that a configuration file can say. Times are in seconds; `target` is "" where none is set."""

    target: str = ""
    connect_timeout: float = 5.0
    read_timeout: float = 30.0
    write_timeout: float = 30.0
    lock_dir: str | None = None
    key_file: str | None = None
    max_retries: int = 3
    retry_interval: float = 1.0
    backoff_factor: float = 2.0
    log_level: str = "WARNING"
    log_file: str | None = None
    log_max_size: int = 10 * 1024 * 1024
    log_backup_count: int = 5


def find(option: str | None, environ: Mapping[str, str]) -> str:
    """The configuration file to read: the one asked for, the user's, the system's, or the packaged one.

    Raises UsageError if the one asked for does not exist.
    """
    if option is not None:
        try:
            os.stat(option)
        except FileNotFoundError:
            raise UsageError(f"{option}: no such configuration file; check the path given with -c") from None
        except OSError:
            pass  # whoever reads it says what is wrong
        return option
    home = environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    for path in (os.path.join(home, "vsrpc", "host.yaml"), SYSTEM_FILE):
        if os.path.exists(path):
            return path
    return PACKAGED_FILE


def load(path: str) -> Settings:
    """Read a configuration file. Raises UsageError with the file, the line, the key, and what is wrong."""
    if _says_nothing(path):
        return Settings()
    try:
        from host.configfile import parse
    except ImportError as error:
        raise UsageError(f"{path}: PyYAML is needed to read it: install python3-yaml ({error})") from None
    return parse(path)


def _says_nothing(path: str) -> bool:
    try:
        with open(path, "rb") as stream:
            return all(line.lstrip()[:1] in (b"", b"#") for line in stream)
    except OSError:
        return False  # whoever parses it says what is wrong


def target(option: str | None, environ: Mapping[str, str], settings: Settings) -> str:
    """The guest to talk to. Raises UsageError if nothing names one."""
    # An empty option is a script's empty variable: taking another guest instead would run things in the wrong one.
    chosen = option if option is not None else environ.get(SOCKET_VARIABLE) or settings.target
    if not chosen:
        raise UsageError(
            f"no socket given: use -s PATH, or set {SOCKET_VARIABLE}, or connection.socket_path in {SYSTEM_FILE} "
            "(to try things out without a VM: -s local:)"
        )
    return chosen


def lock_dir(environ: Mapping[str, str], settings: Settings) -> str | None:
    """Where the clients of a port take turns; None for the user's own directory."""
    return environ.get(LOCK_DIR_VARIABLE) or settings.lock_dir


def key(environ: Mapping[str, str], settings: Settings) -> Key | None:
    """What requests are signed with where the guest wants that: the environment's key, or the first one of the key file
    that the environment or else the settings name; None where nothing names one.

    Raises UsageError, which shows no secret. No option names a key: everybody can read a command line.
    """
    text = environ.get(KEY_VARIABLE)
    if text:
        try:
            return Key.parse(text)
        except ValueError as error:
            raise UsageError(f"{KEY_VARIABLE}: {error}") from None
    path = environ.get(KEY_FILE_VARIABLE)
    source = KEY_FILE_VARIABLE if path else "connection.key_file"
    path = path or settings.key_file
    if path is None:
        return None
    from vsrpc.keyfile import KeyFileError, read_keys

    try:
        return next(iter(read_keys(path).values()))
    except KeyFileError as error:
        raise UsageError(f"{source}: {error}") from None
