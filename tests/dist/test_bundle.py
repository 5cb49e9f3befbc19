"""The guest bundle's content, and that it serves on every Python that it promises, with nothing but itself."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Iterator

import pytest
from pythons import PYTHONS, interpreter

from host.client import VirtioRPCClient
from scripts.dist import bundle, deb
from scripts.dist.cli import write_sums

pytestmark = pytest.mark.slow

# As the launcher that install.sh writes.
SERVE = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/vendor"]
from guest.__main__ import main
print("ready", flush=True)
sys.exit(main(["--listen", sys.argv[2], "--config", sys.argv[1] + "/guest/config.yaml", "--exit-with-stdin"]))
"""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an unpacked bundle."""
    directory = tmp_path_factory.mktemp("bundle")
    subprocess.run(["tar", "-xzf", str(bundle.build(directory)), "-C", str(directory)], check=True)
    (top,) = (path for path in directory.iterdir() if path.is_dir())
    return top


def test_every_file_is_listed_with_its_digest_and_none_is_compiled(unpacked: Path) -> None:
    lines = (unpacked / "SHA256SUMS").read_text().splitlines()
    listed = {name: digest for digest, name in (line.split("  ") for line in lines)}
    files = {str(path.relative_to(unpacked)): path for path in unpacked.rglob("*") if path.is_file()}
    assert listed == {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items() if name != "SHA256SUMS"
    }
    assert {path.suffix for path in files.values()} & {".so", ".pyc", ".pyd"} == set()
    assert os.access(files["install.sh"], os.X_OK)
    licences = {name.split("/")[1].partition("-")[0].lower() for name in files if "dist-info" in name}
    assert licences == {"protobuf", "pyyaml"}


def test_the_same_sources_make_the_same_artefacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        bundle.build(tmp_path / name)
        deb.build(tmp_path / name)
        write_sums(tmp_path / name)
    assert (tmp_path / "first/SHA256SUMS").read_text() == (tmp_path / "second/SHA256SUMS").read_text()
    assert len((tmp_path / "first/SHA256SUMS").read_text().splitlines()) == 3


@pytest.fixture
def present(python: tuple[int, int], request: pytest.FixtureRequest) -> str:
    """The Python of the case, if this machine has it."""
    path = interpreter(python)
    if path is None:
        request.applymarker(pytest.mark.host_feature)
        pytest.skip(f"no Python {python[0]}.{python[1]} on this machine")
    return path


@pytest.fixture
def target() -> Iterator[str]:
    """An address with a short path."""
    with tempfile.TemporaryDirectory(prefix="vsrpc-") as directory:
        yield f"unix:{directory}/s"


@pytest.mark.parametrize("python", [pytest.param(python, id=f"py{python[0]}.{python[1]}") for python in PYTHONS])
def test_serves_with_nothing_but_itself(present: str, python: tuple[int, int], unpacked: Path, target: str) -> None:
    command = [present, "-IS", "-B", "-W", "error", "-c", SERVE, str(unpacked), target]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr) as daemon:
        assert daemon.stdin is not None
        assert daemon.stdout is not None
        try:
            assert daemon.stdout.readline() == b"ready\n"
            subprocess.run(
                [sys.executable, "-m", "host", "-s", target, "wait", "--timeout", "60"], check=True, capture_output=True
            )
            with VirtioRPCClient(target) as client:
                assert client.get_system_info()["data"]["python_version"].startswith(f"{python[0]}.{python[1]}.")
                assert client.get_system_status()["data"]["process_count"] > 0
                assert client.exec_command("echo a | grep a")["data"]["stdout"] == "a\n"
                assert client.get_file_info("/etc/hosts")["data"]["type"] == "file"
        finally:
            daemon.stdin.close()
            assert daemon.wait(30) == 0
