"""Which systemd units callers may control, and how."""

from __future__ import annotations

import fnmatch
import re
from typing import Callable, Iterable

from guest.errors import error
from guest.machine.systemd import typed_name
from guest.os_errors import printable

_UNITS = "security.allowed_units"
_ACTIONS = "security.allowed_unit_actions"

_ORDINARY = frozenset(("service", "socket", "timer", "path"))
"""Types of units that concern one service. Targets power the guest off, slices and scopes hold many services."""

_SHELLS = frozenset(("debug-shell.service", "emergency.service", "rescue.service"))

_INSTANCE = re.compile(r"@[^@]+\.(?=[a-z]+\Z)")


class UnitPolicy:
    """The rules for units (names or patterns of fnmatch; None for all) and for actions.

    A name or pattern without a type means a service, as in systemctl: `nginx` is nginx.service, `php*` is php*.service.
    """

    def __init__(self, units: Iterable[str] | None, actions: Iterable[str]) -> None:
        self._units = None if units is None else tuple(units)
        self._actions = tuple(actions)

    def check_action(self, action: str) -> None:
        """Raise PERMISSION_DENIED for an action that is not listed."""
        if action not in self._actions:
            way_out = f"{_ACTIONS} in the guest's configuration lists {', '.join(self._actions) or 'none'}"
            message = f"Service action not allowed: {printable(action)} ({way_out})"
            raise error("PERMISSION_DENIED", message, action=action, rule=_ACTIONS)

    def check_unit(self, unit: str, asked: str, action: str) -> str:
        """The rule that allows the unit of this full name; raises PERMISSION_DENIED.

        `unit` is systemd's own name of it: an alias (`asked`) counts for nothing, as what it means may change. Where
        all units are allowed, what stops or opens the whole guest is not changed: that must be listed.
        """
        rule = self._rule(unit)
        is_more = unit.rpartition(".")[2] not in _ORDINARY or unit in _SHELLS
        if self._units is None and action != "status" and is_more:
            message = f"Service not allowed: {asked} (it is more than a service; {_UNITS} may list {unit})"
            raise error("PERMISSION_DENIED", message, name=unit, rule=_UNITS)
        if rule is not None:
            return rule
        alias = f"{asked} is {unit}; " if asked != unit else ""
        way_out = f"{_UNITS} in the guest's configuration lists {', '.join(self._units or ()) or 'none'}"
        raise error("PERMISSION_DENIED", f"Service not allowed: {asked} ({alias}{way_out})", name=unit, rule=_UNITS)

    def check_all(self) -> str:
        """The rule that allows all units; raises PERMISSION_DENIED where only some are."""
        if self._units is None:
            return f"{_UNITS}: null"
        message = f"The whole journal is not allowed: name a unit ({_UNITS} in the guest's configuration is not null)"
        raise error("PERMISSION_DENIED", message, rule=_UNITS)

    def allows(self, unit: str) -> bool:
        """Whether the unit of this full name is listed."""
        return self._rule(unit) is not None

    def _rule(self, unit: str) -> str | None:
        if self._units is None:
            return f"{_UNITS}: null"
        for pattern in self._units:
            if fnmatch.fnmatchcase(unit, typed_name(pattern)):
                return f"{_UNITS}: {pattern}"
        return None

    def unmatched(self, units: Iterable[str]) -> list[str]:
        """The patterns that match none of these units, given by their full names; templates stand for all instances."""
        names = list(units)
        return [each for each in self._units or () if not any(map(_matcher(typed_name(each)), names))]


def _matcher(pattern: str) -> Callable[[str], bool]:
    template = _INSTANCE.sub("@.", pattern)
    return lambda name: fnmatch.fnmatchcase(name, pattern) or name == template
