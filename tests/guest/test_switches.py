"""Services that are switched off or to read-only: every rpc, by its own path and by each of its routes."""

from __future__ import annotations

import json
from typing import Any, Iterator

import pytest
from servicer_helpers import context, refused

from guest.config import OFF, ON, READ_ONLY, GuestConfig, OperationsConfig, SecurityConfig, ServicesConfig
from guest.daemon import Daemon
from guest.policy.switches import KEYS, WITH, Switches
from vsrpc.wire import Headers, Request

READING = {
    "System": {"Ping", "Info", "Status"},
    "File": {"Download", "DownloadChunk", "Stat", "List", "ReadFiles", "Checksum", "DataRanges", "FileSystems", "Tail"},
    "Job": {"Read", "Wait", "List"},
    "Machine": {"GetTime", "Processes"},
    "ServiceManager": {"ListUnits", "Journal"},
}
CHANGING = {
    "System": {"Update", "ConfirmUpdate"},
    "Machine": {"Power", "SetTime", "SetHostname", "Freeze", "Thaw", "Trim"},
    "Shell": {"Exec"},
    "Job": {"Start", "Write", "Signal", "Resize", "Forget"},
    "File": {"Upload", "InitUpload", "UploadChunk", "FinishUpload", "AbortUpload", "ResumeUpload"}
    | {"WriteFiles", "MakeDirectory", "Remove", "Rename", "SetAttributes", "Link", "Touch"},
    "ServiceManager": {"Control"},
}
ROUTES = [route for service in (*KEYS.values(), *WITH.values()) for route in service.routes]
NOTHING = OperationsConfig(False, False, False, False, False)


@pytest.fixture
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    services = ServicesConfig(**dict.fromkeys(KEYS, request.param))
    made = Daemon(GuestConfig(security=SecurityConfig(services=services, operations=NOTHING)), "/no/such/file")
    try:
        yield made
    finally:
        made.stop()


def call(daemon: Daemon, method: str, path: str, message: dict[str, str]) -> tuple[int, dict[str, Any]]:
    headers = Headers([("host", "guest"), ("content-type", "application/json")])
    body = b"" if method == "GET" else json.dumps(message).encode()
    response = daemon.dispatcher.call(Request(method, path, headers, body)).run()
    return response.status, json.loads(bytes(response.body))


def served(daemon: Daemon, message: dict[str, str]) -> tuple[set[str], set[str]]:
    """The rpcs that are served by their own paths, and by all of their routes."""
    by_path, by_route = set(), set()
    for route in ROUTES:
        status, reply = call(daemon, "POST", route.rpc_path, message)
        if status != 403 or "Service switched" not in reply["message"]:
            by_path.add(route.rpc_path)
        status, reply = call(daemon, route.http_method, route.template, message)
        if status != 403 or "Service switched" not in reply["message"]:
            by_route.add(route.rpc_path)
        else:
            assert reply["code"] == 4001
            assert reply["data"]["rule"].startswith("security.services.")
    return by_path, by_route


def paths(table: dict[str, set[str]]) -> set[str]:
    return {f"/vsrpc.v1.{service}/{rpc}" for service, rpcs in table.items() for rpc in rpcs}


@pytest.mark.parametrize(
    ("daemon", "message", "expected"),
    [
        (ON, {}, paths(READING) | paths(CHANGING)),
        (READ_ONLY, {}, paths(READING)),
        (READ_ONLY, {"action": "start"}, paths(READING)),
        (OFF, {}, {"/vsrpc.v1.System/Ping"}),
        (OFF, {"action": "status"}, {"/vsrpc.v1.System/Ping"}),
    ],
    indirect=["daemon"],
)
def test_what_is_served(daemon: Daemon, message: dict[str, str], expected: set[str]) -> None:
    fields = {"/vsrpc.v1.ServiceManager/Control"} if message else {route.rpc_path for route in ROUTES}
    by_path, by_route = served(daemon, message)
    assert by_path & fields == expected & fields
    assert by_route & fields == expected & fields


@pytest.mark.parametrize("daemon", [READ_ONLY], indirect=True)
def test_read_only_services_may_be_asked_for_their_state(daemon: Daemon) -> None:
    control = "/vsrpc.v1.ServiceManager/Control"
    for path in (control, "/api/v1/service/control"):
        _, reply = call(daemon, "POST", path, {"name": "vsrpc-none", "action": "status"})
        assert "switched" not in reply["message"]
        _, reply = call(daemon, "POST", path, {"name": "vsrpc-none", "action": "restart"})
        assert "Service switched to read-only: ServiceManager (security.services.service_manager in" in reply["message"]


def test_each_switch_is_its_services_own() -> None:
    switches = Switches({**dict.fromkeys(KEYS, ON), "file": OFF})
    failure = refused("PERMISSION_DENIED", switches.check, "/vsrpc.v1.File/Stat", None)
    assert failure.details() == "Service switched off: File (security.services.file in the guest's configuration)"
    assert failure.data["rule"] == "security.services.file"
    switches.check("/vsrpc.v1.Shell/Exec", None)
    switches.check("/example.v1.File/Stat", None)  # a service of somebody else's


def test_nothing_of_a_refused_call_is_run() -> None:
    call = context()
    call.path = "/vsrpc.v1.Shell/Exec"
    reached: list[object] = []
    switches = Switches(dict.fromkeys(KEYS, OFF))
    refused("PERMISSION_DENIED", switches.intercept, lambda request, context: reached.append(request), None, call)
    assert reached == []
