"""Control groups where the kernel offers less than the VM's, with files in their place; tests/vm has the real ones."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from guest.jobs import cgroup
from guest.jobs.cgroup import Cgroup, Cgroups, ResourceLimits
from vsrpc.errors import RpcError


def test_a_kernel_without_cgroup_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "_KILL_TIME", 0.1)  # the file goes on listing them
    with subprocess.Popen(["sleep", "600"]) as one, subprocess.Popen(["sleep", "600"]) as other:
        (tmp_path / "cgroup.procs").write_text(f"{one.pid}\n{other.pid}\n")
        Cgroup(tmp_path, tmp_path).kill()
        assert [one.wait(), other.wait()] == [-9, -9]


def test_a_controller_that_is_not_there(tmp_path: Path) -> None:
    for name, content in (("cgroup.controllers", "cpu pids\n"), ("cgroup.subtree_control", "")):
        (tmp_path / name).write_text(content)
    (tmp_path / "keeper").mkdir()
    (tmp_path / "keeper" / "cgroup.procs").touch()
    groups = Cgroups(tmp_path)
    with pytest.raises(RpcError, match="controller 'memory' is not there"):
        groups.make("1", ResourceLimits(memory=1 << 20))
    groups.make("1", ResourceLimits())  # the first attempt left nothing


def test_no_group_was_handed_over() -> None:
    assert Cgroups.delegated() is None  # of whatever runs the tests
