"""Wheel and sdist: whole, and all that a clean environment needs."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from scripts.dist import wheel
from scripts.dist.sources import PROJECT, package_files

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Paths of the wheel and the sdist."""
    built, sdist = wheel.build(tmp_path_factory.mktemp("wheel"))
    return built, sdist


def test_wheel_holds_the_packages_and_the_schema(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    prefix = built[0].name.split("-py3")[0] + ".data/data/share/vsrpc/"
    protos = {f"{prefix}{path.relative_to(PROJECT)}" for path in (PROJECT / "proto").rglob("*.proto")}
    assert names == {str(path) for path in package_files("vsrpc", "guest", "host")} | protos


def test_sdist_holds_the_project(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {str(path) for path in package_files("vsrpc", "guest", "host", "proto", "scripts")}
    assert wanted - names == set()
    assert not [name for name in names if "__pycache__" in name]


def test_wheel_works_in_a_clean_environment(built: tuple[Path, Path], tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    programs = tmp_path / "venv" / "bin"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}

    def run(program: str, *arguments: str) -> str:
        command = [str(programs / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(built[0]))
    assert run("vsrpc-host", "--version").startswith("vsrpc-host ")
    assert run("vsrpc-guest", "--version").startswith("vsrpc-guest ")
    assert '"pong"' in run("vsrpc-host", "-s", "local:", "ping")
    assert run("vsrpc-host", "-s", "local:", "exec", "echo yes") == "yes\n"
    descriptors = Path(run("protoc-gen-vsrpc", "--descriptor-set").strip())
    assert tmp_path in descriptors.parents
    assert descriptors.stat().st_size > 0
    assert (tmp_path / "venv/share/vsrpc/proto/google/api/annotations.proto").exists()
    run("python", "-c", "from host.client import VirtioRPCClient")
