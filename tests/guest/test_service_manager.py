"""ServiceManager, with a systemctl of our own that keeps its units in files; the real one is met in the VM's tests."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from servicer_helpers import context, refused

from guest.config import UNIT_ACTIONS
from guest.machine.systemd import is_running, unit_name
from guest.policy.units import UnitPolicy
from guest.services import service_manager
from guest.services.service_manager import ServiceManagerService
from vsrpc.context import ServicerContext
from vsrpc.v1 import service_pb2 as pb

ANY = UnitPolicy(None, UNIT_ACTIONS)

_SYSTEMCTL = """#!/bin/sh
cd "{here}"
echo "$@" >> calls
env | sort > environment
for unit; do :; done
action=$1
if [ -e "hang-$action" ]; then echo $$ > pid; exec sleep 100; fi
if [ "$action" = list-units ]; then
    cat listed
elif [ "$action" = show ]; then
    [ -e "units/$unit" ] || unit=missing
    cat "units/$unit"
elif [ "$action" = status ]; then
    echo "* $unit - for people"
    exit 3
elif [ -e "fail-$unit" ]; then
    cat "fail-$unit" >&2
    exit 1
else
    case $action in
    start|restart) sed -i 's/^ActiveState=.*/ActiveState=active/; s/^MainPID=.*/MainPID=4242/' "units/$unit" ;;
    stop) sed -i 's/^ActiveState=.*/ActiveState=inactive/; s/^MainPID=.*/MainPID=0/' "units/$unit" ;;
    enable) sed -i 's/^UnitFileState=.*/UnitFileState=enabled/' "units/$unit"; echo "Created symlink." >&2 ;;
    disable) sed -i 's/^UnitFileState=.*/UnitFileState=disabled/' "units/$unit" ;;
    esac
fi
"""

_JOURNALCTL = """#!/bin/sh
echo "$@" > "{here}/journal-call"
case "$*" in
*json*) printf '{"__CURSOR":"s=1;i=2","__REALTIME_TIMESTAMP":"7","MESSAGE":"up"}\\n' ;;
*) printf 'starting up\\ncannot bind to port 80\\n' ;;
esac
"""


class Guest:
    """A guest with systemd, as far as systemctl and journalctl tell."""

    def __init__(self, here: Path, policy: UnitPolicy = ANY) -> None:
        self.here = here
        (here / "units").mkdir()
        for name, script in (("systemctl", _SYSTEMCTL), ("journalctl", _JOURNALCTL)):
            (here / name).write_text(script.replace("{here}", str(here)))
            (here / name).chmod(0o755)
        (here / "units" / "missing").write_text("LoadState=not-found\nActiveState=inactive\n")
        self.service = ServiceManagerService(policy, (str(here),), lambda: True)

    def unit(
        self,
        name: str,
        active: str = "inactive",
        sub: str = "",
        pid: int = 0,
        file: str = "disabled",
        memory: str = "[not set]",
    ) -> None:
        (self.here / "units" / name).write_text(
            f"Id={name}\nLoadState=loaded\nActiveState={active}\nSubState={sub}\nMainPID={pid}\n"
            f"UnitFileState={file}\nMemoryCurrent={memory}\n"
        )

    def alias(self, name: str, unit: str) -> None:
        """A name by which systemctl knows a unit, which says its own."""
        (self.here / "units" / name).symlink_to(unit)

    def control(self, name: str, action: str, call: ServicerContext | None = None) -> pb.ControlResponse:
        return self.service.Control(pb.ControlRequest(name=name, action=action), call or context())

    def calls(self) -> list[str]:
        return (self.here / "calls").read_text().splitlines()


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path)


@pytest.mark.parametrize(
    ("active", "sub", "file", "status", "enabled"),
    [
        ("active", "running", "enabled", "running", True),
        ("active", "exited", "enabled-runtime", "exited", True),
        ("active", "listening", "static", "running", False),
        ("inactive", "dead", "disabled", "stopped", False),
        ("failed", "failed", "", "failed", False),
        ("activating", "auto-restart", "enabled", "starting", True),
        ("deactivating", "stop-sigterm", "masked", "stopping", False),
        ("reloading", "reload", "enabled", "reloading", True),
    ],
)
def test_status(guest: Guest, active: str, sub: str, file: str, status: str, enabled: bool) -> None:
    guest.unit("web.service", active, sub, 17, file)
    reply = guest.control("web", "status")
    assert reply == pb.ControlResponse(
        name="web",
        action="status",
        status=status,
        enabled=enabled,
        pid=17,
        output="* web.service - for people\n",
        substate=sub,
        journal=[pb.JournalEntry(cursor="s=1;i=2", time_us=7, priority=6, message=b"up", message_size=2)],
    )


@pytest.mark.parametrize(
    ("told", "memory"), [("4096", 4096), ("[not set]", 0), ("18446744073709551615", 0), ("infinity", 0), ("", 0)]
)
def test_memory(guest: Guest, told: str, memory: int) -> None:
    guest.unit("web.service", "active", "running", 17, memory=told)
    assert guest.control("web", "status").memory == memory


def test_a_state_without_a_journal(guest: Guest) -> None:
    guest.unit("web.service", "active", "running", 17)
    (guest.here / "journalctl").unlink()
    assert guest.control("web", "status").status == "running"


def test_actions_and_what_they_lead_to(guest: Guest) -> None:
    guest.unit("web.service")
    for action, expected in (
        ("start", ("running", False, 4242, "")),
        ("enable", ("running", True, 4242, "Created symlink.")),
        ("restart", ("running", True, 4242, "")),
        ("stop", ("stopped", True, 0, "")),
        ("disable", ("stopped", False, 0, "")),
    ):
        reply = guest.control("web.service", action)
        assert (reply.status, reply.enabled, reply.pid, reply.output) == expected
        assert f"{action} --no-pager --no-ask-password -- web.service" in guest.calls()


def test_the_programs_see_nothing_of_the_daemons_environment(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYSTEMD_EDITOR", "vi")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    guest.unit("web.service")
    guest.control("web", "start")
    environment = (guest.here / "environment").read_text()
    assert "SYSTEMD_EDITOR" not in environment
    assert "LC_ALL=C\n" in environment
    assert "LANG=" not in environment


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("nginx", "nginx.service"),
        ("nginx.service", "nginx.service"),
        ("ssh.socket", "ssh.socket"),
        ("getty@tty1", "getty@tty1.service"),
        ("a.b", "a.b.service"),
        ("service", "service.service"),
        (r"dev-disk-by\x2dlabel.swap", r"dev-disk-by\x2dlabel.swap"),
        ("x" * 247, "x" * 247 + ".service"),
    ],
)
def test_unit_names(name: str, full: str) -> None:
    assert unit_name(name) == full


@pytest.mark.parametrize(
    "name",
    [
        "-H",
        "--root=/x",
        "../x",
        "/etc/systemd/system/x.service",
        "a*",
        "a?",
        "[a]",
        "a b",
        "a;b",
        "a\nb",
        "$(x)",
        ".service",
        "ünit",
        "a\0",
        "x" * 248,
    ],
)
def test_names_that_are_no_unit_reach_no_program(guest: Guest, name: str) -> None:
    failure = refused("INVALID_PARAMS", guest.control, name, "start")
    assert failure.details().startswith("Not a service: ")
    assert not (guest.here / "calls").exists()


@pytest.mark.parametrize(
    ("name", "action", "reason", "message"),
    [
        ("", "status", "MISSING_REQUIRED", "name is missing"),
        ("web", "", "MISSING_REQUIRED", "action is missing"),
        ("web", "kill", "INVALID_PARAMS", "No such action: 'kill' (there are status, start, stop, restart"),
        ("web", "Start", "INVALID_PARAMS", "No such action: 'Start'"),
        ("none", "status", "UNIT_NOT_FOUND", "No such service in the guest: none.service"),
        ("none", "start", "UNIT_NOT_FOUND", "No such service in the guest: none.service"),
    ],
)
def test_mistakes(guest: Guest, name: str, action: str, reason: str, message: str) -> None:
    guest.unit("web.service")
    assert message in refused(reason, guest.control, name, action).details()


def test_a_failed_start_says_why(guest: Guest) -> None:
    guest.unit("web.service", "failed")
    said = "Job for web.service failed because the control process exited with error code.\nSee journalctl.\n"
    (guest.here / "fail-web.service").write_text(said)
    failure = refused("UNIT_FAILED", guest.control, "web", "start")
    assert failure.details() == (
        "Cannot start web.service: Job for web.service failed because the control process exited with error code. "
        "See journalctl.; its last message: cannot bind to port 80"
    )
    assert failure.data["status"] == "failed"
    assert failure.data["output"] == said.strip()
    assert failure.data["journal"] == "starting up\ncannot bind to port 80"
    assert "--unit=web.service" in (guest.here / "journal-call").read_text()


@pytest.mark.parametrize(("active", "sub"), [("failed", "failed"), ("activating", "auto-restart")])
def test_a_service_that_fails_as_soon_as_it_has_started(guest: Guest, active: str, sub: str) -> None:
    """Which the service manager calls a success, where it does not wait for its word."""
    guest.unit("web.service")
    script = (guest.here / "systemctl").read_text()
    changed = script.replace("s/^ActiveState=.*/ActiveState=active/", f"s/^ActiveState=.*/ActiveState={active}/")
    changed = changed.replace("s/^MainPID=.*/MainPID=4242/", f"s/^SubState=.*/SubState={sub}/")
    (guest.here / "systemctl").write_text(changed)
    failure = refused("UNIT_FAILED", guest.control, "web", "restart")
    assert failure.details() == (
        "Cannot restart web.service: it started, and failed at once; its last message: cannot bind to port 80"
    )
    assert failure.data["journal"] == "starting up\ncannot bind to port 80"
    assert guest.control("web", "stop").status == "stopped"


@pytest.mark.parametrize(
    "said",
    ["Failed to start web.service: Access denied", "Failed to enable unit: Interactive authentication required."],
)
def test_a_daemon_without_the_right(guest: Guest, said: str) -> None:
    guest.unit("web.service")
    (guest.here / "fail-web.service").write_text(said)
    assert said in refused("PERMISSION_DENIED", guest.control, "web", "start").details()


def test_a_guest_without_systemd(guest: Guest, tmp_path: Path) -> None:
    without = ServiceManagerService(ANY, (str(guest.here),), lambda: False)
    failure = refused("NOT_SUPPORTED", without.Control, pb.ControlRequest(name="web", action="status"), context())
    assert "no systemd" in failure.details()
    bare = ServiceManagerService(ANY, (str(tmp_path / "none"),), lambda: True)
    failure = refused("NOT_SUPPORTED", bare.Control, pb.ControlRequest(name="web", action="status"), context())
    assert "systemctl is not installed" in failure.details()
    assert is_running(str(tmp_path))
    assert not is_running(str(tmp_path / "none"))


def test_what_takes_too_long_is_left_to_systemd(guest: Guest) -> None:
    guest.unit("web.service")
    (guest.here / "hang-start").touch()
    failure = refused("DEADLINE_EXCEEDED", guest.control, "web", "start", context(1))
    assert "start of web.service has not ended in time" in failure.details()
    assert not os.path.exists(f"/proc/{(guest.here / 'pid').read_text().strip()}")


def test_a_caller_who_leaves_ends_the_program(guest: Guest) -> None:
    guest.unit("web.service")
    (guest.here / "hang-start").touch()
    call = context(60)
    ended = threading.Event()

    def leave() -> None:
        while not (guest.here / "pid").exists() and not ended.wait(0.01):
            pass
        call.cancel()

    thread = threading.Thread(target=leave)
    thread.start()
    try:
        refused("DEADLINE_EXCEEDED", guest.control, "web", "start", call)
    finally:
        ended.set()
        thread.join()
    refused("DEADLINE_EXCEEDED", guest.control, "web", "start", call)  # who has left already starts nothing


def test_our_own_unit_is_not_stopped_and_restarts_after_the_reply(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest.unit("vsrpc-guest.service", "active", "running", os.getpid())
    failure = refused("PERMISSION_DENIED", guest.control, "vsrpc-guest", "stop")
    assert "vsrpc-guest.service is the daemon that serves this call" in failure.details()
    monkeypatch.setattr(service_manager, "_RESTART_DELAY", 0.05)
    before = set(threading.enumerate())
    reply = guest.control("vsrpc-guest", "restart")
    (timer,) = set(threading.enumerate()) - before
    assert reply.status == "running"
    assert "restarts in 0.05 s" in reply.output
    timer.join()
    assert guest.calls()[-1] == "restart --no-pager --no-ask-password --no-block -- vsrpc-guest.service"


# -- what may be controlled


def limited(here: Path, units: list[str] | None, *actions: str) -> Guest:
    guest = Guest(here, UnitPolicy(units, actions or UNIT_ACTIONS))
    for name in ("web.service", "web.socket", "web2.service", "db@main.service", "ssh.service", "php8.service"):
        guest.unit(name)
    guest.alias("sshd.service", "ssh.service")
    guest.alias("web-alias.service", "php8.service")
    return guest


@pytest.mark.parametrize(
    ("units", "name", "rule"),
    [
        (None, "web", "null"),
        (["web"], "web", "web"),
        (["web.service"], "web", "web.service"),
        (["php*", "web"], "php8", "php*"),
        (["db@*.service"], "db@main", "db@*.service"),
        (["web.socket"], "web.socket", "web.socket"),
        (["ssh"], "sshd", "ssh"),
    ],
)
def test_units_that_are_listed(tmp_path: Path, units: list[str] | None, name: str, rule: str) -> None:
    guest = limited(tmp_path, units)
    call = context()
    assert guest.control(name, "start", call).status == "running"
    assert call.notes == {"rule": f"security.allowed_units: {rule}"}


@pytest.mark.parametrize(
    ("units", "name", "said"),
    [
        ([], "web", "web.service (security.allowed_units in the guest's configuration lists none)"),
        (["web"], "web2", "web2.service (security.allowed_units in the guest's configuration lists web)"),
        (["web"], "web.socket", "web.socket ("),  # a service is meant by a name without a type
        (["w*"], "web.socket", "web.socket ("),
        (["web"], "no-such", "no-such.service ("),  # it is not told whether it is there
        (["sshd", "web*"], "sshd", "sshd.service (sshd.service is ssh.service; "),
        (["sshd", "web*"], "web-alias", "web-alias.service (web-alias.service is php8.service; "),
        (["WEB"], "web", "web.service ("),
    ],
)
def test_units_that_are_not_listed(tmp_path: Path, units: list[str], name: str, said: str) -> None:
    guest = limited(tmp_path, units)
    for action in UNIT_ACTIONS:
        failure = refused("PERMISSION_DENIED", guest.control, name, action)
        assert failure.details().startswith(f"Service not allowed: {said}")
        assert failure.data["rule"] == "security.allowed_units"
    assert {line.split()[0] for line in guest.calls()} == {"show"}


def test_the_unit_that_was_judged_is_acted_on(tmp_path: Path) -> None:
    """Not its alias, which could come to mean another one."""
    guest = limited(tmp_path, ["ssh"])
    guest.control("sshd", "restart")
    assert "restart --no-pager --no-ask-password -- ssh.service" in guest.calls()


def test_actions_that_are_not_listed(tmp_path: Path) -> None:
    guest = limited(tmp_path, None, "status", "restart")
    guest.control("web", "status")
    guest.control("web", "restart")
    before = guest.calls()
    for action in ("start", "stop", "enable", "disable"):
        failure = refused("PERMISSION_DENIED", guest.control, "web", action)
        assert failure.details() == (
            f"Service action not allowed: {action} (security.allowed_unit_actions in the guest's configuration lists "
            "status, restart)"
        )
        assert failure.data["rule"] == "security.allowed_unit_actions"
    assert guest.calls() == before


def test_what_explain_asks(tmp_path: Path) -> None:
    guest = limited(tmp_path, ["ssh"])
    ask = guest.service.explain
    assert ask(pb.ControlRequest(name="sshd", action="stop")) == ("ssh.service", "security.allowed_units: ssh")
    refused("PERMISSION_DENIED", ask, pb.ControlRequest(name="web", action="stop"))
    (tmp_path / "units" / "ssh.service").write_text("Id=ssh.service\nLoadState=not-found\nActiveState=inactive\n")
    refused("UNIT_NOT_FOUND", ask, pb.ControlRequest(name="ssh", action="stop"))
    assert {line.split()[0] for line in guest.calls()} == {"show"}


def test_patterns_that_match_nothing() -> None:
    policy = UnitPolicy(["nginx", "php*", "getty@tty1", "none", "db@*"], UNIT_ACTIONS)
    there = ["nginx.service", "php8.service", "getty@.service", "none.socket"]
    assert policy.unmatched(there) == ["none", "db@*"]


# -- all of them

_LISTED = """\
web.service loaded active running The web
db@main.service loaded inactive dead
ssh.socket loaded active listening  SSH  Socket
gone.service not-found inactive dead gone.service
mount.mount loaded active mounted /
once.service loaded active exited Über
php8.service loaded failed failed PHP
"""


def listed(guest: Guest, **fields: str) -> list[str]:
    (guest.here / "listed").write_text(_LISTED)
    return [unit.name for unit in guest.service.ListUnits(pb.ListUnitsRequest(**fields), context()).units]


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, "db@main.service gone.service mount.mount once.service php8.service ssh.socket web.service"),
        ({"pattern": "web"}, "web.service"),
        ({"pattern": "*"}, "db@main.service gone.service once.service php8.service web.service"),
        ({"pattern": "p[gh]p?"}, "php8.service"),
        ({"pattern": "*.socket"}, "ssh.socket"),
        ({"pattern": "none"}, ""),
        ({"status": "running"}, "mount.mount ssh.socket web.service"),
        ({"status": "failed"}, "php8.service"),
        ({"pattern": "*", "status": "exited"}, "once.service"),
    ],
)
def test_units_are_listed(guest: Guest, fields: dict[str, str], names: str) -> None:
    assert listed(guest, **fields) == names.split()


def test_what_a_list_tells(guest: Guest) -> None:
    listed(guest)
    units = guest.service.ListUnits(pb.ListUnitsRequest(), context()).units
    assert units[5] == pb.Unit(
        name="ssh.socket", status="running", substate="listening", load="loaded", description="SSH  Socket"
    )
    assert (units[0].description, units[1].load, units[3].description) == ("", "not-found", "Über")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pattern": "a;b"}, "Not a pattern of unit names: 'a;b'"),
        ({"pattern": "a b"}, "Not a pattern"),
        ({"pattern": "x" * 256}, "Not a pattern"),
        ({"status": "active"}, "No such status: 'active' (there are running, stopped, failed"),
    ],
)
def test_lists_that_cannot_be(guest: Guest, fields: dict[str, str], message: str) -> None:
    assert message in refused("INVALID_PARAMS", lambda: listed(guest, **fields)).details()


def test_units_that_are_not_allowed_are_not_listed(tmp_path: Path) -> None:
    guest = limited(tmp_path, ["web", "db@*"], "status")
    assert listed(guest) == ["db@main.service", "web.service"]
    guest.service = ServiceManagerService(UnitPolicy(None, ["start"]), (str(tmp_path),), lambda: True)
    refused("PERMISSION_DENIED", listed, guest)
    guest.service = ServiceManagerService(ANY, (str(tmp_path),), lambda: False)
    assert "and so no units" in refused("NOT_SUPPORTED", listed, guest).details()
