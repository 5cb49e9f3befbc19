"""install.sh of the guest bundle in a system that is this one, but for the places it writes to: what it does without
systemd, and that it changes nothing where something does not fit. With systemd it is tested on the VM.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable

import pytest

from scripts.dist import bundle
from vsrpc._version import __version__

pytestmark = pytest.mark.slow

CONFIG = "/etc/vsrpc/guest.yaml"
PYTHON = shutil.which("python3", path="/usr/bin") or os.path.realpath(sys.executable)
# /etc and /usr/local/bin hold what programs need, so they are copied; in /run is what shows that systemd runs.
NAMESPACE = f"""
mount -t tmpfs none /run
mount -t tmpfs -o mode=700 none "$TOP/private"
for directory in /etc /usr/local/bin; do
    mkdir -p "$TOP/private$directory"
    cp -a "$directory/." "$TOP/private$directory" 2>/dev/null || true
    mount --bind "$TOP/private$directory" "$directory"
done
mount -t tmpfs none /opt
export PYTHON=${{PYTHON:-{PYTHON}}}
cd "$TOP"
"""
INSTALL = "sh bundle/install.sh"
SUMS = "cd bundle && sed -i /__main__.py/d SHA256SUMS && sha256sum guest/__main__.py >>SHA256SUMS && cd .."

Run = Callable[[str], "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of the bundle."""
    return bundle.build(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def run(archive: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Run:
    """Runs a script as root of that system, with the bundle in ./bundle."""
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    if subprocess.run([*unshare, "mount", "-t", "tmpfs", "none", "/opt"], capture_output=True).returncode:
        request.applymarker(pytest.mark.host_feature)
        pytest.skip("this host lets nobody mount, not even in a namespace")
    for directory in ("private", "bundle"):
        (tmp_path / directory).mkdir()
    unpack = ["tar", "-xzf", str(archive), "-C", str(tmp_path / "bundle"), "--strip-components=1"]
    subprocess.run(unpack, check=True)

    def in_namespace(script: str) -> subprocess.CompletedProcess[str]:
        command = [*unshare, "sh", "-euc", NAMESPACE + script]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TOP": str(tmp_path)})

    return in_namespace


def test_installs_upgrades_and_removes_itself(run: Run) -> None:
    script = (
        f"{INSTALL} --port a.b; vsrpc-guest --version; echo '# mine' >>{CONFIG}; readlink /opt/vsrpc/current >first;"
        f"sed -i 's/^__version__.*/__version__ = \"99.0\"/' bundle/vsrpc/_version.py; sed -i /_version.py/d bundle/SHA256SUMS;"
        f"{INSTALL} --port c.d; vsrpc-guest --version; grep -e /dev/ -e mine {CONFIG}; ls /opt/vsrpc/releases | wc -l;"
        f"test -d /opt/vsrpc/$(cat first); {INSTALL} >/dev/null; ls /opt/vsrpc/releases | wc -l; vsrpc-guest --version;"
        "sh /opt/vsrpc/current/uninstall.sh; ls /opt; find /etc /usr/local/bin -name '*vsrpc*'"
    )
    done = run(script)
    assert done.returncode == 0, done.stderr
    start = "no systemd runs here. Start it now with\n  setsid /usr/local/bin/vsrpc-guest --config /etc/vsrpc/guest.yaml"
    assert done.stdout.count(start) == 2
    versions = [line for line in done.stdout.splitlines() if line.startswith("vsrpc-guest ")]
    assert versions == [f"vsrpc-guest {__version__}", "vsrpc-guest 99.0", "vsrpc-guest 99.0"]
    assert "  path: /dev/virtio-ports/a.b\n# mine\n2\n" in done.stdout  # and the release before, which may still run
    assert "names the port /dev/virtio-ports/a.b, not c.d; set device.path in it" in done.stderr
    assert done.stdout.endswith("vsrpc guest daemon removed; /etc/vsrpc is kept\n/etc/vsrpc\n")


def test_daemon_installed_without_systemd_serves(run: Run) -> None:
    serve = "vsrpc-guest --listen unix:$TOP/s --config /etc/vsrpc/guest.yaml --exit-with-stdin"
    call = f"env PYTHONPATH={Path.cwd()} {shlex.quote(sys.executable)} -m host -s unix:$TOP/s wait --timeout 60"
    done = run(f"{INSTALL} >/dev/null; ({call} >&2; echo) | {serve}")
    assert done.returncode == 0, done.stderr
    assert '"pong"' in done.stderr


@pytest.mark.parametrize(
    ("before", "command", "message"),
    [
        ("rm bundle/vendor/yaml/nodes.py", INSTALL, "vendor/yaml/nodes.py: FAILED open or read"),
        ("echo >>bundle/guest/config.py", INSTALL, "guest/config.py: FAILED"),
        ("rm bundle/SHA256SUMS", INSTALL, "SHA256SUMS is missing"),
        ("truncate -s 9000 bundle/install.sh", INSTALL, "yntax error"),
        ("sed -i 's/^import argparse/import nowhere/' bundle/guest/__main__.py", INSTALL, "guest/__main__.py: FAILED"),
        (
            f"sed -i 's/^import argparse/import nowhere/' bundle/guest/__main__.py; {SUMS}",
            INSTALL,
            "No module named 'nowhere'",
        ),
        (f"echo '(' >>bundle/guest/__main__.py; {SUMS}", INSTALL, "cannot compile the sources"),
        (f"mkdir /etc/vsrpc; echo frob: 1 >{CONFIG}", INSTALL, "does not accept the configuration: /etc/vsrpc/guest.yaml"),
        ("mount -o remount,ro /opt", INSTALL, "/opt cannot be written, is its file system read-only?"),
        ("mount -o remount,size=1m /opt", INSTALL, "/opt has 1024 KiB free"),
        ("touch /opt/vsrpc", INSTALL, "/opt/vsrpc is not a directory"),
        ("true", "PYTHON=/nowhere/python3 " + INSTALL, "no /nowhere/python3 there"),
        (
            "printf '#!/bin/sh\\ncase $3 in *exit*) exit 1; esac; echo 3.6.9' >old; chmod +x old",
            "PYTHON=$TOP/old " + INSTALL,
            "/old is 3.6.9",
        ),
        ("true", INSTALL + " --root /nowhere", "--root /nowhere: no such directory"),
        ("true", INSTALL + " --port ''", "port name ''"),
        ("true", INSTALL + " --port 'a b'", "port name 'a b'"),
        ("true", INSTALL + " --port", "--port needs a value"),
        ("true", INSTALL + " --frobnicate", "unknown argument: --frobnicate"),
        ("mkdir bin; printf '#!/bin/sh\\necho 1000' >bin/id; chmod +x bin/id", "PATH=$TOP/bin:$PATH " + INSTALL, "uid 1000"),
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(run: Run, before: str, command: str, message: str) -> None:
    look = f"{{ find /opt /etc /usr/local/bin -name '*vsrpc*'; cat {CONFIG} 2>/dev/null || true; }}"
    done = run(f"{before}; {look} >first; {command} || echo failed $?; {look} | diff first -")
    assert done.returncode == 0, done.stdout
    assert done.stdout in ("failed 1\n", "failed 2\n")
    assert message in done.stderr
