"""An update in the guest ends with the new release confirmed, or with everything as it was, whatever interrupts it."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from pathlib import Path
from typing import Any, Callable

import bundle_tools
import pytest
from servicer_helpers import refused

from guest.services.updates import Updates
from guest.update import archive, saved, state
from guest.update.__main__ import main
from guest.update.archive import BadBundle
from guest.update.layout import UNIT, Layout, version_of
from guest.update.state import CHECKING, CONFIRMED, INSTALLING, READY, ROLLED_BACK, State
from guest.update.transaction import Transaction
from vsrpc.v1 import system_pb2 as pb

FILES = ("usr/local/bin/vsrpc-guest", f"etc/systemd/system/{UNIT}")


class FakeService:
    """The units, of which it is only noted what was done with them."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def restart_daemon(self) -> None:
        self.done.append("restart")

    def last_words(self) -> str:
        return "the last line"

    def begin_update(self) -> None:
        self.done.append("begin")

    def end_update(self) -> None:
        self.done.append("end")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A system with a release "old" installed, and no udev rule."""
    root = tmp_path / "root"
    old = root / "opt/vsrpc/releases/old"
    (old / "vsrpc").mkdir(parents=True)
    (old / "vsrpc/_version.py").write_text('__version__ = "1.0"\n')
    (root / "opt/vsrpc/current").symlink_to("releases/old")
    (root / "opt/vsrpc/update").mkdir()
    for name in FILES:
        (root / name).parent.mkdir(parents=True)
    (root / FILES[0]).symlink_to("/opt/vsrpc/current/bin/vsrpc-guest")
    (root / FILES[1]).write_text("old unit")
    (root / "etc/udev/rules.d").mkdir(parents=True)
    return Layout(str(root))


def shown(layout: Layout) -> dict[str, str]:
    """What is installed."""
    paths = {path: os.readlink(path) if os.path.islink(path) else Path(path).read_text() for path in _there(layout)}
    return {"current": os.readlink(layout.current), **paths}


def _there(layout: Layout) -> list[str]:
    return [path for path in layout.replaced if os.path.lexists(path)]


INSTALL = """
cd {root} && mkdir -p opt/vsrpc/releases/new && ln -sfn releases/new opt/vsrpc/current
echo new unit >etc/systemd/system/vsrpc-guest.service; echo rule >etc/udev/rules.d/60-vsrpc.rules
rm usr/local/bin/vsrpc-guest; echo '#!/bin/sh' >usr/local/bin/vsrpc-guest
"""


def prepared(layout: Layout, installer: str, confirm_within: float = 0.3) -> State:
    """An update whose bundle has this installer, as System.Update leaves it."""
    new = os.path.join(layout.work, "new")
    os.mkdir(new)
    bundle = archive.unpack(bundle_tools.archive(bundle_tools.tiny("2.0", installer.format(root=layout.root))), new)
    update = State("id", bundle, archive.version(bundle), confirm_within)
    state.save(layout.work, update)
    return update


def ended(layout: Layout) -> State:
    """The update as it is on disk, of which nothing else may be left."""
    update = state.load(layout.work)
    assert update is not None
    assert set(os.listdir(layout.work)) <= {"state.json", "verdict"}
    return update


def confirming(layout: Layout) -> Callable[[str, str], str]:
    """Stands in for the last look at what is decided: the new daemon confirms just before it."""
    decided = state.decided

    def look(work: str, _: Any = None) -> str:
        state.decide(work, CONFIRMED)
        return decided(work)

    return look


def test_a_confirmed_update_stays(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(layout, INSTALL)
    monkeypatch.setattr(state, "decided", confirming(layout))
    service = FakeService()
    assert main(["run"], layout, service) == 0  # type: ignore[arg-type]
    assert ended(layout).phase == CONFIRMED
    assert shown(layout)["current"] == "releases/new"
    assert service.done == ["end"]


@pytest.mark.parametrize(
    ("installer", "message", "done"),
    [
        (INSTALL, "nobody reached the new daemon through its port within 0.3 s (the last line of its log: the last", 1),
        (INSTALL + "\necho broken; exit 1", "its installer failed: broken", 1),
        ("echo no space; exit 1", "its installer failed: no space", 0),
        ("exit 7", "its installer failed: exit code 7", 0),
    ],
)
def test_what_does_not_work_is_taken_back(layout: Layout, installer: str, message: str, done: int) -> None:
    before = shown(layout)
    update = prepared(layout, installer)
    service = FakeService()
    Transaction(layout, service).go_on(update)  # type: ignore[arg-type]
    assert shown(layout) == before
    assert (update.phase, message in update.message) == (ROLLED_BACK, True), update.message
    assert ended(layout) == update
    # A daemon that was not replaced goes on.
    assert service.done == ["restart"] * done + ["end"]


@pytest.mark.parametrize(
    ("phase", "installed", "verdict"),
    [
        (INSTALLING, False, ""),
        (INSTALLING, True, ""),
        (CHECKING, True, ""),
        (CHECKING, True, ROLLED_BACK),
        (CHECKING, True, CONFIRMED),
    ],
)
def test_an_interrupted_update_comes_to_an_end(layout: Layout, phase: str, installed: bool, verdict: str) -> None:
    """As at the boot after a power cut. What the host was told stays true."""
    before = shown(layout)
    update = prepared(layout, INSTALL)
    saved.save(layout)
    if installed:
        subprocess.run(["sh", f"{update.bundle}/install.sh"], check=True)
    update.phase = phase
    state.save(layout.work, update)
    if verdict:
        state.decide(layout.work, verdict)
    assert main(["run"], layout, FakeService()) == 0  # type: ignore[arg-type]
    confirmed = verdict == CONFIRMED
    assert ended(layout).phase == (CONFIRMED if confirmed else ROLLED_BACK)
    assert (shown(layout) == before) is not confirmed
    # Once more, should the unit be started again: nothing is left to do.
    service = FakeService()
    assert main(["run"], layout, service) == 0  # type: ignore[arg-type]
    assert service.done == ["end"]


def test_what_cannot_be_kept_is_not_replaced(layout: Layout) -> None:
    before = shown(layout)
    update = prepared(layout, INSTALL)
    Path(layout.work, "saved").write_text("in the way")
    Transaction(layout, FakeService()).go_on(update)  # type: ignore[arg-type]
    assert (update.phase, "nothing was changed" in update.message) == (ROLLED_BACK, True)
    assert shown(layout) == before


def test_the_state_of_another_version_is_understood(layout: Layout) -> None:
    prepared(layout, INSTALL)
    path = Path(layout.work, "state.json")
    path.write_text(path.read_text().replace("{", '{"added_later": 1, ', 1))
    update = state.load(layout.work)
    assert update is not None
    assert update.version == "2.0"
    path.write_text('{"update_id": "x"}')
    with pytest.raises(ValueError, match=r"state\.json"):
        state.load(layout.work)


TINY = bundle_tools.tiny()
GOOD = bundle_tools.archive(TINY)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no archive", "no whole"),
        (GOOD[: len(GOOD) // 2], "no whole"),
        (bundle_tools.archive(TINY, top=""), "one directory"),
        (bundle_tools.archive({"a": b"", "../b": b""}), "below its own directory"),
        (bundle_tools.archive({"a/b": b"", "/c/d": b""}, top=""), "below its own directory"),
        (bundle_tools.archive({"a/b": b"", "c/d": b""}, top=""), "one directory"),
        (bundle_tools.archive({"install.sh": b"", "guest/__main__.py": b""}), r"vsrpc/_version\.py is missing"),
        (bundle_tools.archive({**TINY, "vsrpc/_version.py": b""}), "names no version"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # what is packed depends on the time
)
def test_what_is_no_bundle(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(BadBundle, match=message):
        archive.version(archive.unpack(content, str(tmp_path)))
    assert not (tmp_path.parent / "b").exists()


# -- System.Update and ConfirmUpdate


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A systemd-run that notes its arguments."""
    path = tmp_path / "bin" / "systemd-run"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{tmp_path}/run.args\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def world(layout: Layout, tmp_path: Path, program: Path) -> dict[str, Any]:
    """What Updates sees of an installation that may be replaced."""
    (tmp_path / "cgroup").write_text(f"0::/system.slice/{UNIT}\n")
    return {
        "allowed": True,
        "layout": layout,
        "release": os.path.realpath(layout.current),
        "cgroup": str(tmp_path / "cgroup"),
        "run_directory": str(tmp_path),
        "path": f"{program.parent}:/usr/bin:/bin",
    }


def begin(world: dict[str, Any], content: bytes = GOOD, sha256: str | None = None, seconds: float = 0) -> Any:
    return Updates(**world).begin(content, hashlib.sha256(content).hexdigest() if sha256 is None else sha256, seconds)


def test_an_update_is_prepared_and_begun(world: dict[str, Any], layout: Layout, tmp_path: Path) -> None:
    reply = begin(world, seconds=30)
    update = state.load(layout.work)
    assert update is not None
    assert (update.update_id, update.phase, update.confirm_within) == (reply.update_id, READY, 30)
    assert (reply.version, version_of(update.bundle)) == ("9.9.0", "9.9.0")
    assert (tmp_path / "run.args").read_text().splitlines()[-1] == "begin"
    assert stat.S_IMODE(os.stat(layout.work).st_mode) == 0o700
    refused("BUSY", begin, world)
    # One that was prepared long ago and never begun is in nobody's way.
    os.utime(os.path.join(layout.work, "state.json"), (0, 0))
    Path(layout.update_unit).touch()
    refused("BUSY", begin, world)  # the last one is about to end
    os.unlink(layout.update_unit)
    assert begin(world).update_id != reply.update_id


def change(**changes: Any) -> Callable[[dict[str, Any], Path], dict[str, Any]]:
    return lambda world, tmp_path: {**world, **changes}


def another_unit(world: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "cgroup").write_text("0::/user.slice/user-0.slice/session-1.scope\n")
    return world


def another_release(world: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    os.mkdir(os.path.join(os.path.dirname(world["release"]), "newer"))
    os.unlink(world["layout"].current)
    os.symlink("releases/newer", world["layout"].current)
    return world


def failing_systemd(world: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "bin/systemd-run").write_text("#!/bin/sh\necho Access denied >&2; exit 1\n")
    return world


@pytest.mark.parametrize(
    ("reason", "message", "arguments", "world_of"),
    [
        ("PERMISSION_DENIED", "security.allow_update", {}, change(allowed=False)),
        ("MISSING_REQUIRED", "content", {"content": b""}, change()),
        ("MISSING_REQUIRED", "sha256", {"sha256": ""}, change()),
        ("INVALID_PARAMS", "64 hexadecimal", {"sha256": "abc"}, change()),
        ("CONTENT_MISMATCH", "nothing was changed", {"sha256": "0" * 64}, change()),
        ("INVALID_PARAMS", "confirm_within is 1:", {"seconds": 1}, change()),
        ("INVALID_PARAMS", "no whole .tar.gz archive", {"content": b"x"}, change()),
        (
            "INVALID_PARAMS",
            "install.sh, guest/__main__.py are missing",
            {"content": bundle_tools.archive({"vsrpc/_version.py": b""})},
            change(),
        ),
        ("NOT_SUPPORTED", "Debian package", {}, change(release="/usr/lib/python3/dist-packages")),
        ("NOT_SUPPORTED", "no systemd", {}, change(run_directory="/nonexistent")),
        ("NOT_SUPPORTED", f"not run as {UNIT}", {}, another_unit),
        ("NOT_SUPPORTED", "restart it first", {}, another_release),
        ("NOT_SUPPORTED", "systemd-run cannot be used", {}, change(path="/nonexistent")),
        ("UNIT_FAILED", "Access denied", {}, failing_systemd),
    ],
)
def test_an_update_that_is_refused_leaves_nothing(
    world: dict[str, Any],
    layout: Layout,
    tmp_path: Path,
    reason: str,
    message: str,
    arguments: dict[str, Any],
    world_of: Any,
) -> None:
    world = world_of(world, tmp_path)
    before = shown(layout)
    assert message in str(refused(reason, lambda: begin(world, **arguments)))
    assert shown(layout) == before
    assert not os.path.exists(layout.work) or os.listdir(layout.work) == []


@pytest.mark.parametrize(
    ("phase", "verdict", "answer", "message"),
    [
        (READY, "", pb.UPDATE_STATE_RUNNING, "ready"),
        (INSTALLING, "", pb.UPDATE_STATE_RUNNING, "installing"),
        (CHECKING, "", pb.UPDATE_STATE_CONFIRMED, "confirmed"),
        (CHECKING, CONFIRMED, pb.UPDATE_STATE_CONFIRMED, "confirmed"),
        (CHECKING, ROLLED_BACK, pb.UPDATE_STATE_RUNNING, "going back"),
        (CONFIRMED, CONFIRMED, pb.UPDATE_STATE_CONFIRMED, "confirmed"),
        (ROLLED_BACK, ROLLED_BACK, pb.UPDATE_STATE_ROLLED_BACK, "why it was"),
    ],
)
def test_how_an_update_goes(
    world: dict[str, Any], layout: Layout, phase: str, verdict: str, answer: int, message: str
) -> None:
    state.save(layout.work, State("id", "/b", "2.0", 60, phase, "why\nit was" if phase == ROLLED_BACK else ""))
    if verdict:
        state.decide(layout.work, verdict)
    service = Updates(**world)
    for _ in range(2):
        reply = service.confirm("id")
        assert (reply.state, reply.message) == (answer, message)
    assert state.decided(layout.work) == (verdict or (CONFIRMED if phase == CHECKING else ""))
    refused("SESSION_NOT_FOUND", service.confirm, "other")
    refused("MISSING_REQUIRED", service.confirm, "")
