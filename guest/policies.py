"""The policy of one configuration: what the daemon enforces, and what `vsrpc-guest explain` asks."""

from __future__ import annotations

import dataclasses
import os
import sys
from dataclasses import dataclass

import guest
import vsrpc
from guest.audit.sink import files
from guest.config import GuestConfig
from guest.files.temps import state_directory
from guest.policy.commands import CommandPolicy
from guest.policy.paths import PathPolicy
from guest.policy.switches import Switches
from guest.policy.units import UnitPolicy


@dataclass(frozen=True)
class Policies:
    """All of it."""

    paths: PathPolicy
    commands: CommandPolicy
    units: UnitPolicy
    switches: Switches


def policies(config: GuestConfig, config_file: str) -> Policies:
    """The policy that a configuration asks for; `config_file` and what it names of the daemon's are out of reach."""
    security = config.security
    own = (config_file, security.key_file, config.logging.file, *files(config.audit), state_directory())
    paths = PathPolicy(
        [each.path for each in security.allowed_paths if each.writable],
        own=[*(path for path in own if path is not None), *_program_places()],
        read_only=[each.path for each in security.allowed_paths if not each.writable],
        denied=security.denied_paths,
        program=_module_places(),
    )
    return Policies(
        paths,
        CommandPolicy(security.allowed_commands, paths, security.login_shell),
        UnitPolicy(security.allowed_units, security.allowed_unit_actions),
        Switches(dataclasses.asdict(security.services)),
    )


_SYSTEM = {"/", "/usr", "/usr/local"}
"""Where the system's own Python is, among everything else."""


def _program_places() -> list[str]:
    """Where the daemon's own program is: a caller who may write there may do everything."""
    packages = [os.path.dirname(os.path.abspath(module)) for module in (guest.__file__, vsrpc.__file__)]
    script = [os.path.abspath(sys.argv[0])] if os.path.isfile(sys.argv[0]) else []
    return packages + script + list({sys.prefix, sys.base_prefix} - _SYSTEM)


def _module_places() -> list[str]:
    """Directories that modules are loaded from: what is written there could be loaded when the daemon starts again.

    The current directory is only one of them if the daemon's modules lie in it.
    """
    main = sys.modules.get("__main__")
    modules = [module for module in list(sys.modules.values()) if module is not main]  # a script's directory is no such
    files = [file for file in (getattr(module, "__file__", None) for module in modules) if isinstance(file, str)]
    entries = [os.path.abspath(entry) for entry in sys.path]
    here = os.getcwd()
    return [
        entry
        for entry in entries
        if entry != "/" and (entry != here or any(file.startswith(entry + "/") for file in files))
    ]
