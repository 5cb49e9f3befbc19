"""Generated code on every Python and protobuf that it promises; a Python that is not here is a case that says so.

Runtimes are installed once from the package index, as wheels, into a cache (`VSRPC_CACHE`, default ~/.cache/vsrpc).
Each case runs isolated interpreters (-I -S): nothing but the standard library, that protobuf and this repository.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest
from pythons import PYTHONS, interpreter

ROOT = Path(__file__).resolve().parents[2]
PROBE = Path(__file__).with_name("probe_roundtrip.py")
pytestmark = pytest.mark.slow


class Runtime(NamedTuple):
    """A protobuf release, the oldest Python that it has wheels for, and what else it needs."""

    version: str
    oldest_python: tuple[int, int]
    also: tuple[str, ...] = ()


RUNTIMES = (
    Runtime("3.12.4", (3, 8), ("six==1.16.0",)),  # Ubuntu 22.04
    Runtime("3.20.3", (3, 8)),  # the last before upb; still pinned by many
    Runtime("4.21.12", (3, 8)),  # Debian 12 and Ubuntu 24.04, which call it 3.21.12
    Runtime("5.29.5", (3, 8)),  # the last for Python 3.8
    Runtime("6.33.2", (3, 9)),  # the last major for Python 3.9
    Runtime("7.36.2", (3, 10)),  # what the development tools use
)
IMPLEMENTATIONS = ("default", "python")


def installed(runtime: Runtime, python: tuple[int, int]) -> Path:
    """The directory with that protobuf for that Python; installs it the first time."""
    cache = Path(os.environ.get("VSRPC_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "vsrpc"))
    tag = f"cp{python[0]}{python[1]}"
    target = cache.expanduser() / "matrix" / f"protobuf-{runtime.version}-{tag}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as tmp:
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"),
                *("--no-compile", "--only-binary=:all:", f"--python-version={python[0]}.{python[1]}"),
                *("--target", f"{tmp}/site", f"protobuf=={runtime.version}", *runtime.also),
            ],
            check=True,
        )
        try:
            os.rename(f"{tmp}/site", target)
        except OSError:  # another run was faster
            assert target.is_dir()
    return target


@pytest.fixture
def present(python: tuple[int, int], request: pytest.FixtureRequest) -> tuple[int, int]:
    """The Python of the case, if this machine has it: a suite cannot install interpreters."""
    if interpreter(python) is None:
        request.applymarker(pytest.mark.host_feature)
        pytest.skip(f"no Python {python[0]}.{python[1]} on this machine")
    return python


def run(python: tuple[int, int], *arguments: str, implementation: str = "default") -> None:
    """Run an isolated Python and fail with its output when it fails."""
    path = interpreter(python)
    assert path is not None
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PROTOCOL_BUFFERS_")}
    if implementation != "default":
        environment["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"] = implementation
    done = subprocess.run(
        [path, "-I", "-S", "-B", *arguments],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("python", "runtime"),
    [
        pytest.param(python, runtime, id=f"py{python[0]}.{python[1]}-protobuf{runtime.version}")
        for python in PYTHONS
        for runtime in RUNTIMES
        if python >= runtime.oldest_python
    ],
)
def test_generated_code_and_a_call(present: tuple[int, int], runtime: Runtime) -> None:
    path = (str(installed(runtime, present)), str(ROOT), str(ROOT / "tests" / "golden" / "out"))
    for implementation in IMPLEMENTATIONS:
        run(present, str(PROBE), runtime.version, implementation, *path, implementation=implementation)
    run(present, str(PROBE.with_name("probe_call.py")), *path)


@pytest.mark.parametrize("python", [pytest.param(python, id=f"py{python[0]}.{python[1]}") for python in PYTHONS])
def test_tables_need_no_protobuf(present: tuple[int, int]) -> None:
    names = sorted(path.stem for path in (ROOT / "vsrpc" / "v1").glob("*_tables.py"))
    imports = "\n".join(f"import vsrpc.v1.{name}" for name in names)
    run(present, "-c", f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{imports}\nassert 'google' not in sys.modules")


def test_matrix_holds_what_this_run_uses() -> None:
    assert RUNTIMES[-1].version == metadata.version("protobuf")
    assert interpreter(sys.version_info[:2]) == sys.executable
    assert sys.version_info[:2] in PYTHONS
