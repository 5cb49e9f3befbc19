"""scripts/check-generated: passes here, and in every kind of clone; finds what is stale, unformatted or broken."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from codegen_driver import ROOT

pytestmark = pytest.mark.slow

ENVIRONMENT = {
    **os.environ,
    "PYTHON": sys.executable,
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    **{f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}
PING = "proto/vsrpc/v1/system.proto"


def run(tree: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=tree, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def check(tree: Path) -> tuple[int, str]:
    done = run(tree, "scripts/check-generated")
    return done.returncode, done.stdout


def git(tree: Path, *arguments: str) -> None:
    done = run(tree, "git", *arguments)
    assert done.returncode == 0, done.stdout


def commit(tree: Path) -> None:
    git(tree, "add", "--all")
    git(tree, "commit", "--quiet", "--allow-empty", "--message=x")


def edit(tree: Path, path: str, old: str, new: str) -> None:
    text = (tree / path).read_text()
    assert old in text
    (tree / path).write_text(text.replace(old, new))


def break_the_schema(tree: Path) -> None:
    """Change a field's type, and generate again, so that only the compatibility check can complain."""
    edit(tree, PING, "double uptime = 2;", "string uptime = 2;")
    done = run(tree, sys.executable, "scripts/generate.py")
    assert done.returncode == 0, done.stdout


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what the script needs, without history."""
    copy = tmp_path / "copy"
    ignore = shutil.ignore_patterns("__pycache__", "vm")
    for name in ("proto", "vsrpc", "scripts"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    return copy


@pytest.fixture
def repository(tree: Path) -> Path:
    """The same with one commit on main."""
    git(tree, "init", "--quiet", "--initial-branch=main")
    (tree / ".gitignore").write_text("__pycache__\n")
    commit(tree)
    return tree


def test_this_tree_is_fresh_and_compatible() -> None:
    status, output = check(ROOT)
    assert status == 0, output


def test_without_git_there_is_nothing_to_compare_with(tree: Path) -> None:
    status, output = check(tree)
    assert status == 0, output
    assert "(no earlier version here)" in output


def test_stale_code_is_shown_with_the_way_out(tree: Path) -> None:
    edit(tree, "vsrpc/v1/shell_tables.py", "/api/v1/shell/exec", "/api/v1/shell/run")
    (tree / "vsrpc" / "v1" / "forgotten_pb2.py").write_text("x = 1\n")
    status, output = check(tree)
    assert status == 1
    assert '-    Route("POST", "/api/v1/shell/run"' in output
    assert "forgotten_pb2.py" in output
    assert output.endswith("run 'make proto' and commit the result\n")


def test_lint(tree: Path) -> None:
    edit(tree, PING, '  // Always "pong".\n', "")
    run(tree, sys.executable, "scripts/generate.py")
    status, output = check(tree)
    assert status != 0
    assert 'Field "message" should have a non-empty comment' in output


def test_format(tree: Path) -> None:
    edit(tree, PING, "double uptime = 2;", "double  uptime = 2;")
    run(tree, sys.executable, "scripts/generate.py")  # its descriptor set holds columns
    status, output = check(tree)
    assert status == 1
    assert output.endswith("run 'buf format proto --exclude-path proto/google --write'\n")


def test_a_break_is_found_before_it_is_committed(repository: Path) -> None:
    assert check(repository)[0] == 0
    break_the_schema(repository)
    status, output = check(repository)
    assert status != 0
    assert 'Field "2" with name "uptime" on message "PingResponse" changed type' in output


def test_a_break_is_found_on_main_and_on_a_branch(repository: Path) -> None:
    git(repository, "checkout", "--quiet", "-b", "topic")
    break_the_schema(repository)
    commit(repository)
    commit(repository)
    assert "changed type" in check(repository)[1]  # two commits ago, but since the merge base
    git(repository, "branch", "--force", "main", "HEAD~1")
    git(repository, "checkout", "--quiet", "main")
    assert "changed type" in check(repository)[1]  # the commit before


def test_a_break_of_the_last_release_is_found(repository: Path) -> None:
    git(repository, "tag", "v1")
    break_the_schema(repository)
    commit(repository)
    commit(repository)
    assert "changed type" in check(repository)[1]
    git(repository, "tag", "v2")
    assert check(repository)[0] == 0  # the break was released


def test_a_shallow_clone_compares_with_what_it_has(repository: Path, tmp_path: Path) -> None:
    break_the_schema(repository)
    commit(repository)
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{repository}", "clone")
    status, output = check(tmp_path / "clone")
    assert status == 0, output
