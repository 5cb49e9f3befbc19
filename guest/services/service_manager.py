"""The ServiceManager service: systemd's units, by name, and the journal."""

from __future__ import annotations

import dataclasses
import fnmatch
import logging
import os
import re
import threading
from typing import Callable, Sequence

from guest.config import UNIT_ACTIONS
from guest.errors import error
from guest.machine.journal import JournalReader, Part, Query
from guest.machine.systemd import (
    DIRECTORIES,
    STATUSES,
    Result,
    Systemctl,
    TimedOut,
    Unit,
    Unusable,
    is_running,
    typed_name,
    unit_name,
)
from guest.os_errors import printable
from guest.policy.units import UnitPolicy
from guest.services.journal import DEFAULT_REPLY, entry, longest_of, query_of, room_of, wait_of
from vsrpc.context import ServicerContext
from vsrpc.errors import RpcError
from vsrpc.v1 import service_pb2 as pb
from vsrpc.v1.service_vsrpc import ServiceManagerServicer

_log = logging.getLogger(__name__)

_JOURNAL_LINES = 10
_STATUS_ROOM = 64 * 1024  # bytes of these lines

_PATTERN = re.compile(r"[A-Za-z0-9:_.\\@*?\[\]!-]{0,255}\Z")

# Seconds between the reply to "restart yourself" and the restart: the reply must reach the host first.
_RESTART_DELAY = 1.0
_RESTART_LIMIT = 30.0  # seconds for systemctl to hand the restart to systemd

_SHOW_LIMIT = 10.0  # seconds for systemctl to tell what a name stands for

# Seconds kept back from the deadline, so that the answer "it takes too long" still arrives.
_ANSWER_TIME = 0.2

# How systemctl says that the daemon's user may not do it (polkit, D-Bus).
_REFUSALS = ("Access denied", "authentication required", "Permission denied", "not permitted")


class ServiceManagerService(ServiceManagerServicer):
    """Serves ServiceManager. `directories` are where systemctl is; `running` says whether systemd runs the guest;
    `max_reply` is the largest reply in bytes."""

    def __init__(
        self,
        policy: UnitPolicy,
        directories: Sequence[str] = DIRECTORIES,
        running: Callable[[], bool] = is_running,
        max_reply: int = DEFAULT_REPLY,
    ) -> None:
        self._policy = policy
        self._max_reply = max_reply
        self._directories = directories
        self._running = running

    def Control(self, request: pb.ControlRequest, context: ServicerContext) -> pb.ControlResponse:
        """Do the action, wait for its end, and tell the unit's state."""
        unit = _checked(request)
        self._policy.check_action(request.action)
        systemctl = self._systemctl(context, "This guest has no systemd, so its services cannot be controlled")
        try:
            with context.waiting():
                before = systemctl.show(unit)
                context.notes["rule"] = self._policy.check_unit(before.id or unit, unit, request.action)
                return self._control(request, before, systemctl, context)
        except TimedOut:
            message = f"{request.action} of {unit} has not ended in time; it goes on in the guest: ask for its status"
            raise error("DEADLINE_EXCEEDED", message, name=request.name) from None
        except Unusable as failure:
            raise error("NOT_SUPPORTED", f"systemd does not answer for {unit}: {failure}", name=request.name) from None

    def ListUnits(self, request: pb.ListUnitsRequest, context: ServicerContext) -> pb.ListUnitsResponse:
        """List the units that may be asked for."""
        self._policy.check_action("status")
        if not _PATTERN.match(request.pattern):
            shown = printable(request.pattern[:256])
            message = f"Not a pattern of unit names: {shown!r}: letters, digits, : _ . @ \\ - and *, ?, [...] are"
            raise error("INVALID_PARAMS", message, field="pattern")
        if request.status and request.status not in STATUSES:
            message = f"No such status: {printable(request.status[:64])!r} (there are {', '.join(STATUSES)})"
            raise error("INVALID_PARAMS", message, field="status")
        systemctl = self._systemctl(context, "This guest has no systemd, and so no units")
        try:
            with context.waiting():
                units = systemctl.units()
        except TimedOut:
            raise error("DEADLINE_EXCEEDED", "systemd has not listed its units in time") from None
        except Unusable as failure:
            raise error("NOT_SUPPORTED", f"systemd does not list its units: {failure}") from None
        pattern = typed_name(request.pattern) if request.pattern else "*"
        return pb.ListUnitsResponse(
            units=[
                pb.Unit(**{name: printable(value) for name, value in dataclasses.asdict(unit).items()})
                for unit in units
                if fnmatch.fnmatchcase(unit.name, pattern)
                and request.status in ("", unit.status)
                and self._policy.allows(unit.name)
            ]
        )

    def Journal(self, request: pb.JournalRequest, context: ServicerContext) -> pb.JournalResponse:
        """Read the journal."""
        self._policy.check_action("status")
        query, room, wait = query_of(request), room_of(request, self._max_reply), wait_of(request)
        unit = _unit_name(request.unit, "unit") if request.unit else ""
        if not unit:
            context.notes["rule"] = self._policy.check_all()
        systemctl = self._systemctl(context, "This guest has no systemd, and so no journal")
        journal = self._journal(context)
        try:
            with context.waiting():
                if unit:
                    # What systemd calls it: the journal knows no aliases. One that is gone may have left messages.
                    own = systemctl.show(unit).id or unit
                    context.notes["rule"] = self._policy.check_unit(own, unit, "status")
                    query = dataclasses.replace(query, unit=own)
                part = journal.read(query, room, wait)
        except TimedOut:
            raise error("DEADLINE_EXCEEDED", "The journal could not be read in time: ask for less of it") from None
        except Unusable as failure:
            raise error("NOT_SUPPORTED", f"The journal cannot be read: {failure}") from None
        return pb.JournalResponse(entries=map(entry, part.entries), cursor=part.cursor, more=part.more)

    def _systemctl(self, context: ServicerContext, without: str) -> Systemctl:
        if not self._running():
            raise error("NOT_SUPPORTED", without)
        return Systemctl(_remaining(context), context.add_callback, self._directories)

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
            reply = _reply(request, before, systemctl.describe(unit))
            reply.journal.extend(map(entry, self._last_messages(unit, context).entries))
            return reply
        context.begins()
        if before.pid == os.getpid() and request.action in ("stop", "restart"):
            return self._own(request, before, systemctl)
        result = systemctl.act(request.action, unit)
        after = systemctl.show(unit)
        if result.exit_code != 0:
            raise _failed(request.action, unit, result, after, systemctl)
        if request.action in ("start", "restart") and (after.status == "failed" or after.substate == "auto-restart"):
            raise _failed(request.action, unit, Result(0, "it started, and failed at once", ""), after, systemctl)
        return _reply(request, after, (result.output + result.errors).strip())

    def _journal(self, context: ServicerContext) -> JournalReader:
        longest = longest_of(self._max_reply)
        return JournalReader(_remaining(context), context.add_callback, self._directories, longest)

    def _last_messages(self, unit: str, context: ServicerContext) -> Part:
        try:
            return self._journal(context).read(Query(unit, _JOURNAL_LINES), _STATUS_ROOM)
        except (TimedOut, Unusable):  # the state is what was asked for
            return Part((), "")

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
    return _unit_name(request.name, "name")


def _unit_name(name: str, field: str) -> str:
    try:
        return unit_name(name)
    except ValueError as failure:
        raise error("INVALID_PARAMS", f"Not a service: {name[:256]!r}: {failure}", field=field) from None


def _reply(request: pb.ControlRequest, unit: Unit, output: str) -> pb.ControlResponse:
    return pb.ControlResponse(
        name=request.name,
        action=request.action,
        status=unit.status,
        enabled=unit.enabled,
        pid=unit.pid,
        output=output,
        memory=unit.memory,
        substate=unit.substate,
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
