"""`update-guest` as the host sees it: what it sends, when it sends nothing, and what it says of each end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Iterator

import bundle_tools
import pytest

from host import update as module
from host.bundle import Bundle, read
from host.client import VirtioRPCClient
from host.errors import RPCError, failure
from host.local import LocalGuest
from host.update import Updated, update

RUNNING = {"state": "UPDATE_STATE_RUNNING", "message": "installing", "version": "1.0"}
CONFIRMED = {"state": "UPDATE_STATE_CONFIRMED", "message": "confirmed", "version": "9.9.0"}
ROLLED_BACK = {"state": "UPDATE_STATE_ROLLED_BACK", "message": "it is Monday", "version": "1.0"}


class FakeClient:
    """A guest's answers: errors, or data, in their order; the last one again and again."""

    def __init__(self, begin: Any, *confirm: Any, agent: str = "vsrpc-guest/1.0") -> None:
        self.channel = SimpleNamespace(beginning=SimpleNamespace(peer=SimpleNamespace(agent=agent)))
        self._begin = begin
        self._confirm = list(confirm)
        self.begun: list[tuple[str, float]] = []

    def connect(self) -> None:
        pass

    def begin_update(self, content: bytes, sha256: str, confirm_within: float) -> Any:
        self.begun.append((sha256, confirm_within))
        return self._answer(self._begin)

    def confirm_update(self, update_id: str, timeout: float) -> Any:
        assert update_id == "id"
        return self._answer(self._confirm.pop(0) if len(self._confirm) > 1 else self._confirm[0])

    def _answer(self, answer: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return {"data": answer}


BEGUN = {"update_id": "id", "version": "9.9.0", "previous_version": "1.0"}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POLL", 0.0)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    (tmp_path / "b").write_bytes(bundle_tools.archive(bundle_tools.tiny()))
    return read(str(tmp_path / "b"))


def run(client: FakeClient, bundle: Bundle, seconds: float = 5.0, force: bool = False) -> Updated:
    return update(client, bundle, seconds, force)  # type: ignore[arg-type]


def test_it_is_followed_until_the_new_daemon_answers(bundle: Bundle) -> None:
    lost = failure("CONNECTION_LOST", "lost")
    client = FakeClient(BEGUN, RUNNING, lost, failure("INTERNAL_ERROR", "starting"), RUNNING, CONFIRMED)
    assert run(client, bundle) == Updated("1.0", "9.9.0", True)
    assert client.begun == [(bundle.sha256, 5.0)]


@pytest.mark.parametrize(("force", "changed"), [(False, False), (True, True)])
def test_the_same_version_is_there(bundle: Bundle, force: bool, changed: bool) -> None:
    client = FakeClient(BEGUN, CONFIRMED, agent="vsrpc-guest/9.9.0")
    assert run(client, bundle, force=force).changed is changed
    assert bool(client.begun) is changed


@pytest.mark.parametrize(
    ("client", "reason", "message"),
    [
        (
            FakeClient(BEGUN, RUNNING, ROLLED_BACK),
            "UNIT_FAILED",
            "9.9.0 was rolled back, 1.0 serves again: it is Monday",
        ),
        (
            FakeClient(failure("ENDPOINT_NOT_FOUND", "no rpc")),
            "NOT_SUPPORTED",
            "to update itself: use vsrpc-host bootstrap",
        ),
        (FakeClient(failure("METHOD_NOT_ALLOWED", "no rpc")), "NOT_SUPPORTED", "(vsrpc-guest/1.0) is too old"),
        (FakeClient(failure("PERMISSION_DENIED", "security.allow_update")), "PERMISSION_DENIED", "allow_update"),
        (FakeClient(BEGUN, failure("SESSION_NOT_FOUND", "another")), "SESSION_NOT_FOUND", "another"),
    ],
)
def test_how_it_may_fail(bundle: Bundle, client: FakeClient, reason: str, message: str) -> None:
    with pytest.raises(RPCError) as caught:
        run(client, bundle)
    assert (caught.value.reason, message in caught.value.message) == (reason, True), caught.value


def test_a_guest_that_never_tells(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_INSTALL_SECONDS", 0.05)
    with pytest.raises(RPCError, match="has not ended; last: not there") as caught:
        run(FakeClient(BEGUN, failure("READ_TIMEOUT", "not there")), bundle, seconds=0.0)
    assert caught.value.reason == "OUTCOME_UNKNOWN"


@pytest.fixture(params=["proto", "json"])
def client(request: pytest.FixtureRequest) -> Iterator[VirtioRPCClient]:
    with LocalGuest() as guest, VirtioRPCClient(guest.target, json=request.param == "json") as made:
        yield made


def test_a_real_daemon_refuses_by_default(client: VirtioRPCClient, bundle: Bundle) -> None:
    with pytest.raises(RPCError, match=r"security\.allow_update") as caught:
        update(client, bundle, 5.0)
    assert caught.value.reason == "PERMISSION_DENIED"
    with pytest.raises(RPCError, match="No such update: 'x'"):
        client.confirm_update("x")
