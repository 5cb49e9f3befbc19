"""`vsrpc-guest check-config`: what is legal in a configuration, but risky or without effect."""

from __future__ import annotations

import os
from typing import Iterator

from guest.config import READ_ONLY, GuestConfig
from guest.machine.systemd import Systemctl, TimedOut, Unusable, is_running
from guest.policies import Policies, policies
from guest.policy.arguments import RULES
from guest.policy.commands import is_program, lookup
from guest.policy.resolve import within
from vsrpc.errors import RpcError

_LIMIT = 60.0  # seconds for systemctl to list the units

# Who writes there becomes root: programs, what starts at boot or by the clock, and who may log in.
_ROOTS_PLACES = (
    *("/bin", "/boot", "/etc", "/lib", "/root", "/sbin", "/usr/bin", "/usr/lib", "/usr/local/bin"),
    *("/usr/local/lib", "/usr/local/sbin", "/usr/sbin", "/var/lib", "/var/spool/cron"),
)
_PRIVATE_PLACES = ("/etc", "/root", "/var/lib")


def warnings(config: GuestConfig, config_file: str) -> list[str]:
    """What whoever wrote the configuration should know, each beginning with the key."""
    policy = policies(config, config_file)
    return [*_commands(config), *_paths(config, policy), *_units(config, policy), *_others(config)]


def _commands(config: GuestConfig) -> Iterator[str]:
    key = "security.allowed_commands"
    allowed = config.security.allowed_commands
    if allowed is None:
        yield f"{key} is null: callers may run any command, as the daemon's user"
    for command in allowed or ():
        if not (is_program(command) if "/" in command else lookup(command)):
            yield f"{key}: {command} is not installed"
        if os.path.basename(command) not in RULES:
            yield (
                f"{key}: {command} has no argument rule: callers may give it any arguments, "
                "also such that run other programs or write files, if it takes them"
            )


def _paths(config: GuestConfig, policy: Policies) -> Iterator[str]:
    key = "security.allowed_paths"
    for place in config.security.allowed_paths:
        real = os.path.realpath(place.path)
        try:
            policy.paths.check_read(place.path)
        except RpcError as failure:
            yield f"{key}: {place.path} has no effect: refused by {failure.data.get('rule', 'the operating system')}"
            continue
        if not os.path.exists(place.path):
            yield f"{key}: {place.path} does not exist"
        inside = [each for each in (_ROOTS_PLACES if place.writable else _PRIVATE_PLACES) if within(each, real)]
        if inside and place.writable:
            yield f"{key}: {place.path} holds {inside[0]}: callers who may write there can become root in the guest"
        elif inside:
            yield f"{key}: {place.path} holds {inside[0]}: callers may read passwords and keys that programs keep there"
    for path in config.security.denied_paths:
        if not os.path.lexists(path):
            yield f"security.denied_paths: {path} does not exist"


def _units(config: GuestConfig, policy: Policies) -> Iterator[str]:
    key = "security.allowed_units"
    if not config.security.allowed_units or not is_running():
        return
    try:
        names = Systemctl(lambda: _LIMIT, lambda callback: True).names()
    except (TimedOut, Unusable) as failure:
        yield f"{key} was not compared with the guest's units: {failure or 'systemctl does not end'}"
        return
    for pattern in policy.units.unmatched(names):
        yield f"{key}: {pattern} matches no unit of this guest (aliases do not count)"


def _others(config: GuestConfig) -> Iterator[str]:
    if config.security.services.shell == READ_ONLY:
        yield "security.services.shell: read-only leaves only what reads of jobs: no command runs"
    if not config.audit.enabled:
        yield "audit.enabled is false: what callers do is not recorded"
    for key, file in (("logging.file", config.logging.file), ("audit.file", config.audit.file)):
        if file is not None and not os.path.isdir(os.path.dirname(file)):
            yield f"{key}: {os.path.dirname(file)} does not exist: the daemon cannot write {file}"
