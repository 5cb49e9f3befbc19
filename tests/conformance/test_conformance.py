"""The official Connect conformance suite against our runtime, as server and as client.

What is tested, and why not more, is in server.yaml and client.yaml. The suite is built from go.mod, once.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import conformance_schema
import pytest
from peer_tools import cache_dir, tool

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(1200)]

HERE = Path(__file__).resolve().parent

# A configuration that selects next to nothing would pass.
FEWEST_CASES = 150


@pytest.fixture(scope="module")
def suite() -> Path:
    """The folder with the suite's runner, and with its schema below proto/."""
    go = tool("go")
    digest = hashlib.sha256((HERE / "go.mod").read_bytes() + (HERE / "go.sum").read_bytes()).hexdigest()[:16]
    target = cache_dir("conformance") / digest
    if target.is_dir():
        return target
    with tempfile.TemporaryDirectory(dir=target.parent) as tmp:
        subprocess.run(
            [go, "build", "-o", f"{tmp}/suite/", "connectrpc.com/conformance/cmd/connectconformance"],
            cwd=HERE,
            check=True,
        )
        module = subprocess.run(
            [go, "list", "-m", "-f", "{{.Dir}}", "connectrpc.com/conformance"],
            cwd=HERE,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout.strip()
        shutil.copytree(f"{module}/proto", f"{tmp}/suite/proto")
        # The files of the module cache are read-only, and so are the folders that copytree made from it.
        for folder in Path(tmp, "suite").rglob("*"):
            if folder.is_dir():
                folder.chmod(0o755)
        try:
            os.rename(f"{tmp}/suite", target)
        except OSError:  # another run was faster
            assert target.is_dir()
    return target


@pytest.fixture(scope="module")
def generated(suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite's schema as our generator writes it."""
    out = tmp_path_factory.mktemp("generated")
    conformance_schema.generate(suite / "proto", out)
    return out


@pytest.mark.parametrize("role", ["server", "client"])
def test_conformance(role: str, suite: Path, generated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended = subprocess.run(
        [
            *(str(suite / "connectconformance"), "-v", "--mode", role, "--conf", str(HERE / f"{role}.yaml"), "--"),
            *(sys.executable, str(HERE / f"conformance_{role}.py")),
        ],
        env={**os.environ, "PYTHONPATH": f"{conformance_schema.ROOT}{os.pathsep}{generated}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    with capsys.disabled():
        print(f"\nConnect conformance, {role}:", " ".join(ended.stdout.splitlines()[-2:]))
    assert ended.returncode == 0, ended.stdout
    summary = re.search(r"^(\d+) passed, 0 failed$", ended.stdout, re.MULTILINE)
    assert summary is not None, ended.stdout
    assert int(summary.group(1)) >= FEWEST_CASES
