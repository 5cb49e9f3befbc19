"""The ServiceManager service: systemd's units, by name."""

from __future__ import annotations

import logging
import os
import threading
from typing import Callable, Sequence

from guest.config import UNIT_ACTIONS
from guest.errors import error
from guest.machine.systemd import DIRECTORIES, Result, Systemctl, TimedOut, Unit, Unusable, is_running, unit_name
from guest.policy.units import UnitPolicy
from vsrpc.context import ServicerContext
from vsrpc.errors import RpcError
from vsrpc.v1 import service_pb2 as pb
from vsrpc.v1.service_vsrpc import ServiceManagerServicer

_log = logging.getLogger(__name__)

_JOURNAL_LINES = 10

# Seconds between the reply to "restart yourself" and the restart: the reply must reach the host first.
_RESTART_DELAY = 1.0
_RESTART_LIMIT = 30.0  # seconds for systemctl to hand the restart to systemd

_SHOW_LIMIT = 10.0  # seconds for systemctl to tell what a name stands for

# Seconds kept back from the deadline, so that the answer "it takes too long" still arrives.
_ANSWER_TIME = 0.2

# How systemctl says that the daemon's user may not do it (polkit, D-Bus).
_REFUSALS = ("Access denied", "authentication required", "Permission denied", "not permitted")


class ServiceManagerService(ServiceManagerServicer):
    """Serves ServiceManager. `directories` are where systemctl is; `running` says whether systemd runs the guest."""

    def __init__(
        self, policy: UnitPolicy, directories: Sequence[str] = DIRECTORIES, running: Callable[[], bool] = is_running
    ) -> None:
        self._policy = policy
        self._directories = directories
        self._running = running

    def Control(self, request: pb.ControlRequest, context: ServicerContext) -> pb.ControlResponse:
        """Do the action, wait for its end, and tell the unit's state."""
        unit = _checked(request)
        self._policy.check_action(request.action)
        if not self._running():
            raise error("NOT_SUPPORTED", "This guest has no systemd, so its services cannot be controlled")
        systemctl = Systemctl(_remaining(context), context.add_callback, self._directories)
        try:
            before = systemctl.show(unit)
            context.notes["rule"] = self._policy.check_unit(before.id or unit, unit, request.action)
            return self._control(request, before, systemctl, context)
        except TimedOut:
            message = f"{request.action} of {unit} has not ended in time; it goes on in the guest: ask for its status"
            raise error("DEADLINE_EXCEEDED", message, name=request.name) from None
        except Unusable as failure:
            raise error("NOT_SUPPORTED", f"systemd does not answer for {unit}: {failure}", name=request.name) from None

    def explain(self, request: pb.ControlRequest) -> tuple[str, str]:
        """The unit on which Control would act, and the rule that allows it; raises RpcError as Control would.

        Where systemd cannot be asked whether the name is an alias, the name counts.
        """
        unit = _checked(request)
        self._policy.check_action(request.action)
        if not self._running():
            return unit, self._policy.check_unit(unit, unit, request.action)
        try:
            found = Systemctl(lambda: _SHOW_LIMIT, lambda callback: True, self._directories).show(unit)
        except (TimedOut, Unusable):
            return unit, self._policy.check_unit(unit, unit, request.action)
        rule = self._policy.check_unit(found.id or unit, unit, request.action)
        if not found.found:
            raise _not_found(unit)
        return found.id, rule

    def _control(
        self, request: pb.ControlRequest, before: Unit, systemctl: Systemctl, context: ServicerContext
    ) -> pb.ControlResponse:
        unit = before.id or unit_name(request.name)  # what was judged, whatever an alias means by now
        if not before.found:
            raise _not_found(unit)
        if request.action == "status":
            return _reply(request, before, systemctl.describe(unit))
        context.begins()
        if before.pid == os.getpid() and request.action in ("stop", "restart"):
            return self._own(request, before, systemctl)
        result = systemctl.act(request.action, unit)
        after = systemctl.show(unit)
        if result.exit_code != 0:
            raise _failed(request.action, unit, result, after, systemctl)
        return _reply(request, after, (result.output + result.errors).strip())

    def _own(self, request: pb.ControlRequest, unit: Unit, systemctl: Systemctl) -> pb.ControlResponse:
        """Our own unit: stopping it would leave the host without a guest to ask for the start."""
        if request.action == "stop":
            message = f"{unit.id} is the daemon that serves this call: without it the host cannot reach the guest"
            raise error("PERMISSION_DENIED", f"{message} (restart it, or stop it in the guest)", name=request.name)
        timer = threading.Timer(_RESTART_DELAY, self._restart, (unit.id,))
        timer.daemon = True
        timer.start()
        return _reply(request, unit, f"{unit.id} serves this call; it restarts in {_RESTART_DELAY:g} s")

    def _restart(self, unit: str) -> None:
        systemctl = Systemctl(lambda: _RESTART_LIMIT, lambda callback: True, self._directories)
        try:
            # Without waiting for the end: systemd is about to stop us, and all that we started.
            result = systemctl.act("restart", unit, "--no-block")
        except (TimedOut, Unusable) as failure:
            _log.error("%s was not restarted: %s", unit, failure or "systemctl does not end")
            return
        if result.exit_code != 0:
            _log.error("%s was not restarted: %s", unit, result.errors.strip())


def _checked(request: pb.ControlRequest) -> str:
    """The unit's full name; raises for a missing or wrong name or action."""
    for field in ("name", "action"):
        if not getattr(request, field):
            raise error("MISSING_REQUIRED", f"{field} is missing", field=field)
    if request.action not in UNIT_ACTIONS:
        message = f"No such action: {request.action[:64]!r} (there are {', '.join(UNIT_ACTIONS)})"
        raise error("INVALID_PARAMS", message, field="action")
    try:
        return unit_name(request.name)
    except ValueError as failure:
        raise error("INVALID_PARAMS", f"Not a service: {request.name[:256]!r}: {failure}", field="name") from None


def _reply(request: pb.ControlRequest, unit: Unit, output: str) -> pb.ControlResponse:
    return pb.ControlResponse(
        name=request.name, action=request.action, status=unit.status, enabled=unit.enabled, pid=unit.pid, output=output
    )


def _not_found(unit: str) -> RpcError:
    message = f"No such service in the guest: {unit} (`systemctl list-unit-files` there lists them)"
    return error("UNIT_NOT_FOUND", message, name=unit)


def _failed(action: str, unit: str, result: Result, after: Unit, systemctl: Systemctl) -> RpcError:
    if not after.found:
        return _not_found(unit)
    said = result.errors.strip() or result.output.strip() or f"systemctl ended with {result.exit_code}"
    if any(refusal in said for refusal in _REFUSALS):
        message = f"The guest does not let the daemon {action} {unit}: {_one_line(said)}"
        return error("PERMISSION_DENIED", message, name=unit, output=said)
    journal = systemctl.journal(unit, _JOURNAL_LINES).strip()
    last = journal.rpartition("\n")[2]
    message = f"Cannot {action} {unit}: {_one_line(said)}" + (f"; its last message: {last}" if last else "")
    return error("UNIT_FAILED", message, name=unit, status=after.status, output=said, journal=journal)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _remaining(context: ServicerContext) -> Callable[[], float]:
    def remaining() -> float:
        left = context.time_remaining()
        return 3600.0 if left is None else max(0.0, left - _ANSWER_TIME)

    return remaining
