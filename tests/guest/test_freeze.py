"""Freezing: with file systems and a kernel of our own, and the real guard; the real kernel is met in the VM's tests."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from freeze_helpers import Kernel, wait_until

from guest.logging_setup import Holdback
from guest.machine import thaw_guard
from guest.machine.freeze import (
    FIFREEZE,
    FITHAW,
    Freezer,
    FrozenAlready,
    NotMounted,
    ThawedMeanwhile,
    on_disks,
    thaw_leftovers,
)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(tmp_path, monkeypatch)


def no_guards() -> bool:
    """Whether all guards have ended; each has a thread that waits for it."""
    return not any(thread.name == "vsrpc-thaw" for thread in threading.enumerate())


def test_all_are_frozen_the_last_mounted_first_and_thawed_the_other_way(kernel: Kernel) -> None:
    places, left = kernel.freezer.freeze([], 60)
    assert places == [kernel.place(name) for name in ("data", "longest", "root")]
    assert 50 < left <= 60
    assert kernel.freezer.frozen
    assert os.path.exists(kernel.note)
    assert kernel.freezer.thaw() == places
    assert kernel.log == [f"{what} {name}" for what, names in ORDER for name in names]
    assert (kernel.held, kernel.freezer.frozen, os.path.exists(kernel.note)) == (False, False, False)
    assert kernel.freezer.thaw() == []


ORDER = (("freeze", ("data", "longest", "root")), ("thaw", ("root", "longest", "data")))


def test_some_are_frozen_once_each_in_the_order_of_mounting(kernel: Kernel) -> None:
    root, data = kernel.place("root"), kernel.place("data")
    places, _ = kernel.freezer.freeze([root, data + "/", root], 60)
    assert places == [data, root]
    kernel.freezer.thaw()
    with pytest.raises(NotMounted, match="/none"):
        on_disks([root, "/none"])
    with pytest.raises(NotMounted):  # in memory
        on_disks([str(kernel.root)])


def test_frozen_twice(kernel: Kernel) -> None:
    kernel.freezer.freeze([], 60)
    with pytest.raises(FrozenAlready, match=kernel.place("root")):
        kernel.freezer.freeze([], 60)
    other = Freezer(kernel.hold, kernel.ioctl, kernel.note)
    with pytest.raises(FrozenAlready, match="another daemon"):
        other.freeze([], 60)
    assert kernel.freezer.frozen
    assert kernel.held
    kernel.freezer.thaw()


@pytest.mark.parametrize(
    ("wanted", "number", "raised"),
    [
        (["root"], errno.EOPNOTSUPP, errno.EOPNOTSUPP),
        ([], errno.EIO, errno.EIO),
        (["root"], errno.EIO, errno.EIO),
        ([], errno.EBUSY, FrozenAlready),
    ],
)
def test_what_cannot_be_frozen_leaves_nothing_frozen(
    kernel: Kernel, wanted: list[str], number: int, raised: int | type[Exception]
) -> None:
    kernel.fails[FIFREEZE, "root"] = number
    with pytest.raises(OSError if isinstance(raised, int) else raised) as caught:
        kernel.freezer.freeze([kernel.place(name) for name in wanted], 60)
    if isinstance(caught.value, OSError):
        assert (caught.value.errno, caught.value.filename) == (raised, kernel.place("root"))
    assert (kernel.frozen, kernel.held, kernel.freezer.frozen) == (set(), False, False)
    assert not os.path.exists(kernel.note)


def test_of_all_those_that_can_be(kernel: Kernel) -> None:
    kernel.fails[FIFREEZE, "root"] = errno.EOPNOTSUPP
    places, _ = kernel.freezer.freeze([], 60)
    assert places == [kernel.place("data"), kernel.place("longest")]
    kernel.freezer.thaw()
    kernel.fails.update({(FIFREEZE, name): errno.EOPNOTSUPP for name in ("data", "longest")})
    with pytest.raises(OSError, match="no file system on a disk that can be frozen"):
        kernel.freezer.freeze([], 60)
    assert not kernel.held


def test_the_lease_ends(kernel: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    kernel.freezer.freeze([], 0.3)
    wait_until(lambda: not kernel.freezer.frozen)
    wait_until(lambda: "within the lease: thawed" in caplog.text)
    assert (kernel.frozen, kernel.held) == (set(), False)
    kernel.freezer.freeze([], 60)  # and all begins anew
    kernel.freezer.thaw()


def test_a_guard_that_is_killed_ends_it(kernel: Kernel) -> None:
    """Nothing would thaw if we died, too."""
    kernel.freezer.freeze([], 60)
    now = kernel.freezer._now
    assert now is not None
    now.guard._process.send_signal(signal.SIGTERM)  # that is for us: systemd sends it to both
    now.guard._process.kill()
    wait_until(lambda: not kernel.freezer.frozen)
    assert kernel.frozen == set()


def test_thawed_before_all_is_frozen(kernel: Kernel) -> None:
    """As it hangs, say: what was frozen thaws at once, the rest as soon as it is frozen."""

    def thaw(name: str) -> None:
        if name == "longest":
            assert kernel.freezer.thaw() == [kernel.place("data")]
            kernel.held = True  # of no interest here

    kernel.on_freeze = thaw
    with pytest.raises(ThawedMeanwhile):
        kernel.freezer.freeze([], 60)
    assert (kernel.frozen, kernel.freezer.frozen) == (set(), False)
    assert not os.path.exists(kernel.note)
    kernel.on_freeze = lambda name: None
    kernel.freezer.freeze([], 60)
    kernel.freezer.thaw()


def test_what_cannot_be_thawed_can_be_tried_again(kernel: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    places, _ = kernel.freezer.freeze([], 60)
    kernel.fails[FITHAW, "data"] = errno.EIO
    with pytest.raises(OSError) as caught:
        kernel.freezer.thaw()
    assert caught.value.filename == kernel.place("data")
    assert "cannot thaw" in caplog.text
    assert (kernel.frozen, kernel.held) == ({"data"}, True)
    del kernel.fails[FITHAW, "data"]
    assert kernel.freezer.thaw() == [places[0]]
    assert not kernel.held


def test_a_daemon_that_stops_leaves_nothing_frozen_and_freezes_no_more(kernel: Kernel) -> None:
    kernel.freezer.freeze([], 60)
    kernel.freezer.stop()
    assert kernel.frozen == set()
    with pytest.raises(OSError, match="stopping"):
        kernel.freezer.freeze([], 60)
    wait_until(no_guards)


def test_without_a_guard_nothing_is_frozen(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(OSError, match="does not start"):
        kernel.freezer.freeze([], 60)
    assert (kernel.log, kernel.freezer.frozen, os.path.exists(kernel.note)) == ([], False, False)


def test_leftovers_are_those_of_daemons_that_died(tmp_path: Path, kernel: Kernel) -> None:
    assert thaw_leftovers(kernel.note) == []
    kernel.freezer.freeze([], 60)
    assert thaw_leftovers(kernel.note) == []  # it lives
    assert os.path.exists(kernel.note)
    kernel.freezer.thaw()
    (tmp_path / "note").write_bytes(b"\0".join(os.fsencode(kernel.place(name)) for name in ("root", "gone")))
    assert thaw_leftovers(kernel.note) == []  # none of them is frozen
    assert not os.path.exists(kernel.note)


@pytest.mark.parametrize(("told", "thaws"), [(b"x", False), (b"", True), (None, True)])
def test_the_guard(tmp_path: Path, told: bytes | None, thaws: bool) -> None:
    """Whether it thaws is seen by the note that it removes then."""
    note = tmp_path / "note"
    note.touch()
    lease = "0.1" if told is None else "60"
    program = [sys.executable, "-I", "-S", thaw_guard.__file__, lease, str(note)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as guard:
        assert guard.stdin is not None
        assert guard.stdout is not None
        assert guard.stdout.read() == b"r"
        guard.send_signal(signal.SIGTERM)
        if told is not None:
            guard.stdin.write(told)
            guard.stdin.close()
        assert guard.wait() == 0
    assert note.exists() is not thaws


def test_the_log_is_held_back() -> None:
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Holdback([Lines()], most=40)
    log = logging.Logger("test")
    log.addHandler(handler)
    log.info("one")
    handler.hold(True)
    value = ["two"]
    log.info("%s", value)
    value[0] = "changed"
    handler.hold(True)
    log.info("x" * 40)
    log.info("y" * 40)
    assert lines == ["one"]
    handler.hold(False)
    log.info("three")
    assert lines == [
        "one",
        "['two']",
        "2 lines are missing here: too many came while file systems were frozen",
        "three",
    ]
    handler.close()
