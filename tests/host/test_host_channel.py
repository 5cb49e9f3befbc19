"""`vsrpc-host channel`, with a virsh that keeps one domain's XML in files and answers as the real one does."""

from __future__ import annotations

import json
import os
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from host.cli.main import main

# dominfo, dumpxml, attach-device and detach-device of the domain "vm1", whose state is in $VIRSH_STATE. $VIRSH_REFUSES
# names a device that it does not attach.
VIRSH = """#!{python}
import os, sys
import xml.etree.ElementTree as ET
words = sys.argv[1:]
here = os.environ["VIRSH_STATE"]
with open(here + "/calls", "a") as calls:
    calls.write(" ".join(word for word in words if not word.endswith(".xml")) + "\\n")
if words[0] == "-c":
    if words[1] != "qemu:///system":
        sys.exit("error: failed to connect to the hypervisor\\nerror: no connection driver available for " + words[1])
    words = words[2:]
verb, domain = words[:2]
if domain != "vm1":
    sys.exit("error: failed to get domain '%s'" % domain)
live, config = here + "/live.xml", here + "/config.xml"
if verb == "dominfo":
    print("Id:             -\\nName:           vm1")
    print("State:          " + ("running" if os.path.exists(live) else "shut off"))
    print("Persistent:     " + ("yes" if os.path.exists(config) else "no"))
elif verb == "dumpxml":
    print(open(live if os.path.exists(live) and "--inactive" not in words else config).read())
else:
    device = ET.parse(words[2]).getroot()
    if device.tag == os.environ.get("VIRSH_REFUSES"):
        sys.exit("error: Failed to attach device\\nerror: internal error: No more available PCI slots")
    for option, path in (("--live", live), ("--config", config)):
        if option in words:
            tree = ET.parse(path)
            devices = tree.find("devices")
            if verb == "attach-device":
                if path == live and device.tag == "channel":
                    ET.SubElement(device, "source", path="/run/vm1-" + device.find("target").get("name"))
                devices.append(device)
            else:
                devices.remove([each for each in devices if each.tag == device.tag][-1])
            tree.write(path)
"""

AGENT = """<channel type='unix'><source mode='bind' path='/run/ga'/>
<target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel>"""
CONTROLLER = "<controller type='virtio-serial' index='0'/>"
SPICE = "<channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>"
PTY = "<channel type='pty'><target type='guestfwd' address='10.0.2.1' port='1'/></channel>"


class World:
    """The domain, and the command line on it."""

    def __init__(self, path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.path = path
        self._capfd = capfd

    def domain(self, live: str | None, config: str | None) -> None:
        for name, devices in (("live", live), ("config", config)):
            if devices is not None:
                (self.path / f"{name}.xml").write_text(f"<domain><devices>{devices}</devices></domain>")

    def run(self, *argv: str) -> tuple[int, str, str]:
        code = main(["channel", *argv])
        return (code, *self._capfd.readouterr())

    def ports(self, which: str) -> list[str]:
        found = ElementTree.parse(self.path / f"{which}.xml").iterfind("./devices/channel/target")
        return [each.get("name", "") for each in found]

    def controllers(self, which: str) -> int:
        return len(ElementTree.parse(self.path / f"{which}.xml").findall("./devices/controller"))

    def attached(self) -> list[str]:
        return [line for line in (self.path / "calls").read_text().splitlines() if "-device" in line]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> World:
    (tmp_path / "virsh").write_text(VIRSH.format(python=sys.executable))
    (tmp_path / "virsh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("VIRSH_STATE", str(tmp_path))
    return World(tmp_path, capfd)


def test_the_xml_is_printed(world: World) -> None:
    world.domain(CONTROLLER + AGENT, CONTROLLER + AGENT)
    code, out, err = world.run("add", "vm1")
    assert (code, err) == (0, "")
    device = ElementTree.fromstring(out)
    target = device.find("target")
    assert target is not None
    assert (device.tag, device.get("type"), target.attrib) == (
        "channel",
        "unix",
        {"type": "virtio", "name": "test.vserial.0"},
    )
    code, out, _ = world.run("add", "vm1", "--name", "my.port", "--own-controller")
    devices = ElementTree.fromstring(f"<devices>{out}</devices>")
    address = devices.find("channel/address")
    assert [(each.tag, each.get("index")) for each in devices] == [("controller", "1"), ("channel", None)]
    assert address is not None
    assert (address.get("type"), address.get("controller")) == ("virtio-serial", "1")
    assert not (world.path / "calls").read_text().count("attach")


@pytest.mark.parametrize(
    ("live", "config", "options", "calls", "live_has", "config_has"),
    [
        (CONTROLLER, CONTROLLER, [], ["--live --config"], True, True),
        (CONTROLLER, CONTROLLER, ["--live"], ["--live"], True, False),
        (None, CONTROLLER, [], ["--config"], False, True),
        (CONTROLLER, None, [], ["--live"], True, False),
        # Without a controller, or with one wanted for the port alone, that comes first.
        (AGENT, AGENT, [], ["--live --config"] * 2, True, True),
        (CONTROLLER, CONTROLLER, ["--own-controller"], ["--live --config"] * 2, True, True),
    ],
)
def test_it_is_applied(
    world: World,
    live: str | None,
    config: str | None,
    options: list[str],
    calls: list[str],
    live_has: bool,
    config_has: bool,
) -> None:
    world.domain(live, config)
    code, out, err = world.run("add", "vm1", "--apply", *options)
    assert (code, err) == (0, ""), err
    assert world.attached() == [f"attach-device vm1 {each}" for each in calls]
    for name, there, has in (("live", live, live_has), ("config", config, config_has)):
        if there is not None:
            assert ("test.vserial.0" in world.ports(name)) is has
    assert out.splitlines()[-1] == (
        "socket: /run/vm1-test.vserial.0" if live_has else "its socket is made when vm1 starts next"
    )
    # Once more: nothing is left to do.
    before = len(world.attached())
    code, out, _ = world.run("add", "vm1", "--apply", *options)
    assert (code, len(world.attached()), "has the channel test.vserial.0 already" in out) == (0, before, True)


def test_what_lacks_it_gets_it(world: World) -> None:
    world.domain(CONTROLLER, CONTROLLER)
    assert world.run("add", "vm1", "--apply", "--live")[0] == 0
    code, out, _ = world.run("add", "vm1", "--apply")
    assert (code, out.splitlines()[0]) == (0, "added test.vserial.0 to its configuration")
    assert world.attached()[-1] == "attach-device vm1 --config"
    code, out, err = world.run("add", "vm1")
    assert (code, out, "already: nothing to add" in err) == (0, "", True)


def test_a_failure_leaves_the_domain_as_it_was(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.domain(CONTROLLER, CONTROLLER)
    monkeypatch.setenv("VIRSH_REFUSES", "channel")
    code, out, err = world.run("add", "vm1", "--apply", "--own-controller")
    assert (code, out, "No more available PCI slots" in err, err.count("\n")) == (5, "", True, 1), err
    for name in ("live", "config"):
        assert (world.controllers(name), world.ports(name)) == (1, [])


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["add", "vm1", "--name", "org.qemu.guest_agent.0"], 2, "keeps such names for its own programs"),
        (["add", "vm1", "--name", "com.redhat.spice.0"], 2, "keeps such names"),
        (["add", "vm1", "--name", "a'b"], 2, 'port name "a\'b": use letters'),
        (["add", "vm1", "--name", ""], 2, "port name ''"),
        (["add", "vm1", "--name", "x" * 65], 2, "at most 64"),
        (["add", "vm2"], 2, "no such domain: vm2"),
        (["list", "vm2"], 2, "no such domain: vm2"),
        (["add", "--", "-x"], 2, "'-x' is no domain's name"),
        (["add", "vm1", "--connect", "x:///"], 3, "virsh does not reach libvirt: failed to connect"),
        (["add", "vm1", "--live"], 2, "--live says where --apply adds"),
        (["list", "vm1", "--apply"], 2, "--apply belongs to channel add"),
        (["socket", "vm1", "--own-controller"], 2, "--own-controller belongs to channel add"),
        (["socket", "vm1", "--name", "none"], 2, "vm1 has no channel none (it has: org.qemu.guest_agent.0)"),
        (["socket", "vm1", "--name", "a"], 2, "channel add vm1 --apply"),
        (["frobnicate", "vm1"], 2, "invalid choice"),
        (["add"], 2, "DOMAIN"),
    ],
)
def test_bad_input(world: World, argv: list[str], code: int, message: str) -> None:
    world.domain(CONTROLLER + AGENT, CONTROLLER + AGENT)
    done, out, err = world.run(*argv)
    assert (done, out, message in err, err.count("\n")) == (code, "", True, 1), err


def test_a_domain_that_is_off(world: World) -> None:
    channel = "<channel type='unix'><target type='virtio' name='test.vserial.0'/></channel>"
    world.domain(None, CONTROLLER + channel)
    code, _, err = world.run("add", "vm1", "--apply", "--live")
    assert (code, "vm1 does not run" in err) == (2, True)
    code, _, err = world.run("socket", "vm1")
    assert (code, "no socket while the domain is shut off" in err) == (3, True)


def test_without_virsh(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    code, _, err = world.run("list", "vm1")
    assert (code, "virsh is not installed here" in err) == (2, True)


def test_ports_and_sockets_are_found(world: World) -> None:
    channel = (
        "<channel type='unix'><source mode='bind' path='/run/1-vm1/test.vserial.0'/>"
        "<target type='virtio' name='test.vserial.0' state='disconnected'/></channel>"
    )
    world.domain(CONTROLLER + AGENT + SPICE + PTY + channel, None)
    code, out, _ = world.run("list", "vm1", "--connect", "qemu:///system")
    assert (code, out.splitlines()) == (
        0,
        [
            "org.qemu.guest_agent.0\tconnected\t/run/ga",
            "com.redhat.spice.0\t-\t-",
            "test.vserial.0\tdisconnected\t/run/1-vm1/test.vserial.0",
        ],
    )
    assert world.run("socket", "vm1") == (0, "/run/1-vm1/test.vserial.0\n", "")
    assert json.loads(world.run("list", "vm1", "-r")[1])["data"]["channels"][1]["name"] == "com.redhat.spice.0"
    assert json.loads(world.run("socket", "vm1", "-r")[1])["data"] == {"socket": "/run/1-vm1/test.vserial.0"}
    code, out, _ = world.run("add", "vm1", "--apply", "-r")
    assert json.loads(out)["data"] == {
        "name": "test.vserial.0",
        "live": False,
        "config": False,
        "socket": "/run/1-vm1/test.vserial.0",
    }
