"""The guest bundle and the Debian packages on a real guest: installed, upgraded, refused, rolled back, removed."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Iterator

import pytest
from vm_tools import cli, sh

from scripts.dist import bundle, deb
from scripts.vm import payload

if TYPE_CHECKING:
    from scripts.vm import VM

PORT = "/dev/virtio-ports/test.vserial.0"
BUNDLE, COPY = "/root/bundle", "/root/copy"
FIND = "find / -xdev -path /root -prune -o -path /var/log -prune -o -name '*vsrpc*' -print"
TEMPORARY = f"{BUNDLE} {BUNDLE}.tar.gz {COPY} /root/*.deb"
CONFIG = "/etc/vsrpc/guest.yaml"
PYTHON = "/usr/lib/python3/dist-packages"


@pytest.fixture(scope="module")
def unpacked(vm: VM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VM]:
    """The VM with the bundle unpacked in it, where Python has no packages; the guest side is back at the end."""
    archive = bundle.build(tmp_path_factory.mktemp("bundle"))
    vm.ga.write_file(f"{BUNDLE}.tar.gz", archive.read_bytes())
    sh(vm, f"mkdir {BUNDLE} && tar -xzf {BUNDLE}.tar.gz -C {BUNDLE} --strip-components=1")
    before = sh(vm, f"cat {CONFIG}")
    yield vm
    sh(vm, f"dpkg -P vsrpc-guest vsrpc-host 2>/dev/null; rm -rf {TEMPORARY}; mkdir -p /etc/vsrpc")
    vm.ga.write_file(CONFIG, before.encode())
    payload.install(vm.ga, payload.collect())
    vm.wait_daemon()


@pytest.fixture
def without_packages(unpacked: VM) -> Iterator[None]:
    """A guest without python3-protobuf and python3-yaml."""
    sh(unpacked, f"mount -t tmpfs none {PYTHON} && ! python3 -c 'import yaml' 2>/dev/null")
    yield
    sh(unpacked, f"umount {PYTHON}")


def test_bundle_installs_upgrades_and_goes_back(unpacked: VM, without_packages: None) -> None:
    vm = unpacked
    source_release = sh(vm, "readlink /opt/vsrpc/current")
    assert f"running on port {PORT}" in sh(vm, f"{BUNDLE}/install.sh")
    release = sh(vm, "readlink /opt/vsrpc/current")
    assert release != source_release
    # Nothing but its own: no package of the guest, and nothing that a variable of the environment names.
    pid = sh(vm, "systemctl show --value -p MainPID vsrpc-guest").strip()
    assert "\0-IS\0" in sh(vm, f"cat /proc/{pid}/cmdline")
    assert cli(vm, "ping").returncode == 0
    assert cli(vm, "exec", "echo yes").stdout == "yes\n"

    # A release that starts and does not serve; the installer runs as the daemon's child, which the restart would kill.
    edit = 's/^    log = logging.getLogger("guest")$/&\\n    sys.exit(3)/'
    broken = f"sed -i '{edit}' guest/__main__.py && sed -i /__main__.py/d SHA256SUMS"
    sh(vm, f"cp -r {BUNDLE} {COPY} && cd {COPY} && {broken} && sha256sum guest/__main__.py >>SHA256SUMS")
    cgroup = "/sys/fs/cgroup/system.slice/vsrpc-guest.service/cgroup.procs"
    done = vm.ga.exec(["/bin/sh", "-c", f"echo $$ >{cgroup} && exec {COPY}/install.sh"], timeout=240)
    assert done.rc != 0
    assert "does not serve" in done.stderr.decode()
    assert "the previous one is back" in done.stderr.decode()
    assert sh(vm, "readlink /opt/vsrpc/current") == release
    assert sh(vm, "ls -A /opt/vsrpc").split() == ["current", "releases"]
    vm.wait_daemon()
    assert cli(vm, "ping").returncode == 0


@pytest.fixture(scope="module")
def packages(unpacked: VM, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    """Paths in the VM: an old vsrpc-guest package, with another default configuration, the present one, vsrpc-host."""
    directory = tmp_path_factory.mktemp("deb")
    new, host = deb.build(directory)
    tree = directory / "old"
    subprocess.run(["dpkg-deb", "--raw-extract", str(new), str(tree)], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(control.read_text().replace(f"Version: {deb.debian_version()}", "Version: 0.0.1"))
    with (tree / CONFIG[1:]).open("a") as stream:
        stream.write("# of the old version\n")
    old = directory / "old.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", str(tree), str(old)], check=True)
    for path in (old, new, host):
        unpacked.ga.write_file(f"/root/{path.name}", path.read_bytes())
    return f"/root/{old.name}", f"/root/{new.name}", f"/root/{host.name}"


def test_debian_package_is_installed_upgraded_and_purged(unpacked: VM, packages: tuple[str, str, str]) -> None:
    vm = unpacked
    old, new, host = packages
    done = vm.ga.exec(["/usr/bin/dpkg", "-i", new])
    assert done.rc == 1
    assert "sh /opt/vsrpc/current/uninstall.sh" in done.stderr.decode()
    sh(vm, "sh /opt/vsrpc/current/uninstall.sh")
    assert sh(vm, "systemctl show --value -p LoadState vsrpc-guest") == "not-found\n"
    assert sh(vm, FIND) == "/etc/vsrpc\n"
    sh(vm, f"rm -r /etc/vsrpc; dpkg -i {old}")
    vm.wait_daemon()
    assert cli(vm, "ping").returncode == 0

    # An upgrade restarts the daemon and keeps what was changed.
    sh(vm, f"echo '# mine' >>{CONFIG}")
    pid = sh(vm, "systemctl show --value -p MainPID vsrpc-guest")
    sh(vm, f"dpkg --force-confold -i {new}")
    assert sh(vm, "systemctl show --value -p MainPID vsrpc-guest") != pid
    assert sh(vm, f"tail -n 1 {CONFIG}") == "# mine\n"
    vm.wait_daemon()
    assert cli(vm, "ping").returncode == 0
    changed = sh(vm, "dpkg --verify vsrpc-guest | grep -v '^missing'")  # this image keeps no documentation
    assert changed.split() == ["??5??????", "c", CONFIG]

    vm.unplug_port()
    sh(vm, f"while test -e {PORT}; do sleep 0.1; done; systemctl stop vsrpc-guest")
    vm.replug_port()
    vm.wait_daemon()

    # Beside it, the host's.
    assert '"pong"' in sh(vm, f"dpkg -i {host} >/dev/null && vsrpc-host -s local: ping")
    assert sh(vm, 'test -s "$(protoc-gen-vsrpc --descriptor-set)" && vsrpc-host --version').startswith("vsrpc-host ")
    assert sh(vm, "dpkg -P vsrpc-host >/dev/null; ls /etc/vsrpc").split() == ["guest.yaml", "guest.yaml.dpkg-dist"]

    sh(vm, "dpkg -r vsrpc-guest")
    assert sh(vm, "systemctl show --value -p LoadState -p ActiveState vsrpc-guest").split() == ["not-found", "inactive"]
    assert sh(vm, f"tail -n 1 {CONFIG}") == "# mine\n"
    sh(vm, "dpkg -P vsrpc-guest")
    assert sh(vm, FIND) == ""
