"""Control groups where the kernel offers less than the VM's, with files in their place; tests/vm has the real ones."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from guest.jobs import cgroup
from guest.jobs.cgroup import Cgroup, Cgroups, ResourceLimits
from vsrpc.errors import RpcError


def group(path: Path) -> Cgroup:
    """One of files."""
    for name, content in (("cgroup.controllers", "cpu pids\n"), ("cgroup.subtree_control", "")):
        (path.parent / name).write_text(content)
    (path.parent / "keeper").mkdir(exist_ok=True)
    (path.parent / "keeper" / "cgroup.procs").touch()
    return Cgroup(Cgroups(path.parent), path, ResourceLimits(memory=1 << 20))


def test_a_kernel_without_cgroup_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "group"
    path.mkdir()
    monkeypatch.setattr(cgroup, "_KILL_TIME", 0.1)  # the file goes on listing them
    with subprocess.Popen(["sleep", "600"]) as one, subprocess.Popen(["sleep", "600"]) as other:
        (path / "cgroup.procs").write_text(f"{one.pid}\n{other.pid}\n")
        group(path).kill()
        assert [one.wait(), other.wait()] == [-9, -9]


def test_a_group_that_is_gone_has_nothing_to_kill(tmp_path: Path) -> None:
    group(tmp_path / "gone").kill()
    assert not group(tmp_path / "gone").out_of_memory
    assert group(tmp_path / "gone").remove()


def test_a_controller_that_is_not_there(tmp_path: Path) -> None:
    group(tmp_path / "any")
    groups = Cgroups(tmp_path)
    with pytest.raises(RpcError, match="controller 'memory' is not there"):
        groups.make("1", ResourceLimits(memory=1 << 20))
    groups.make("1", ResourceLimits())  # the first attempt left nothing


def test_no_group_was_handed_over() -> None:
    with pytest.raises(OSError):  # why, differs with what runs the tests
        Cgroups.delegated()
