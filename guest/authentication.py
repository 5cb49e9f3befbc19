"""Whether callers must sign their requests, and with which keys: from the configuration to the runtime's judge."""

from __future__ import annotations

from guest.config import ConfigError, SecurityConfig
from vsrpc.authenticator import Authenticator
from vsrpc.keyfile import KeyFile, KeyFileError


def authenticator(security: SecurityConfig, address: str) -> Authenticator | None:
    """Who judges the requests that come to `address`, a listener's; None where they need not be signed.

    Raises ConfigError where they must be, and there is no key.
    """
    if not is_needed(security, address):
        return None
    try:
        return Authenticator(KeyFile(security.key_file), security.replay_window)
    except KeyFileError as failure:
        why = "as security.enable_auth says"
        if security.enable_auth is None:
            why = "since any program of the host can connect to a vsock; enable_auth: false lets all of them call"
        raise ConfigError(f"security.key_file: {failure} (callers must sign, {why})") from None


def is_needed(security: SecurityConfig, address: str) -> bool:
    """Whether callers at that address must sign: as configured, else where no permissions decide who can connect."""
    if security.enable_auth is None:
        return address.startswith("vsock:")
    return security.enable_auth
