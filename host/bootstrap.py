"""Installing the guest side through a QEMU guest agent: the guest needs no network, only the agent, a shell and Python.

What can be wrong is looked for before anything is written. The bundle goes to a temporary directory of root's, which
is removed whatever happens; one that a killed run has left is removed by the next. The installation itself is the
bundle's install.sh, which goes back if the daemon does not start.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Callable, Mapping

from host.bundle import Bundle
from host.errors import RPCError, UsageError, failure
from host.guest_agent import Completed, GuestAgent

_TEMPORARY = "/var/tmp/vsrpc-bootstrap"
_CHECK_SECONDS, _INSTALL_SECONDS = 60.0, 600.0
_OLDEST_PYTHON = (3, 8)

_PROBE = f"""
rm -rf {_TEMPORARY}.*
PATH=$PATH:/usr/local/bin
echo uid=$(id -u)
echo arch=$(uname -m)
for python in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python3.9 python3.8; do
    version=$($python -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) || continue
    echo python=$version
    $python -c 'import sys; sys.exit(sys.version_info < (3, 8))' && break
done
echo version=$(vsrpc-guest --version 2>/dev/null)
[ "$(command -v vsrpc-guest)" != /usr/bin/vsrpc-guest ] || echo package=yes
[ -w /var/tmp ] || echo read_only=yes
echo free=$(df -Pk /var/tmp | awk 'NR == 2 {{ print $4 }}')
"""

# $1 the temporary directory, $2 the SHA-256, $3 the bundle's directory, $4 the port's name or nothing. It removes the
# temporary directory also where nobody is there any more to ask for that.
_INSTALL = """
trap 'rm -rf "$1"' EXIT
cd "$1" || exit
echo "$2  bundle.tar.gz" | sha256sum -c - >/dev/null || { sha256sum bundle.tar.gz; exit 1; }
tar -xzf bundle.tar.gz && rm bundle.tar.gz || exit
sh "$3/install.sh" ${4:+--port "$4"} 2>&1
"""


@dataclass(frozen=True)
class Installed:
    """What an installation came to."""

    version: str
    previous_version: str
    """Empty where none was installed."""
    changed: bool
    output: str
    """What the installer said."""


def bootstrap(
    agent: GuestAgent,
    bundle: Bundle,
    port: str = "",
    force: bool = False,
    tell: Callable[[str], None] = lambda text: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Installed:
    """Install the bundle in the agent's guest, for the port of that name; "" for the configured one, or the default.

    `force`: also where the same version is installed. Raises RPCError and UsageError; the guest is then as it was.
    """
    _check_agent(agent)
    facts = _facts(agent.run(["/bin/sh", "-c", _PROBE], seconds=_CHECK_SECONDS))
    _check_guest(facts, bundle)
    before = facts.get("version", "").rpartition(" ")[2]
    if before == bundle.version and not force:
        return Installed(before, before, changed=False, output="")
    tell(f"the guest: {facts['arch']}, Python {facts['python']}, vsrpc {before or 'not installed'}")
    tell(f"sending {bundle.path} ({len(bundle.content)} bytes)")
    directory = _said(agent.run(["/bin/mktemp", "-d", f"{_TEMPORARY}.XXXXXXXX"]), "no temporary directory").strip()
    try:
        agent.write(f"{directory}/bundle.tar.gz", bundle.content, progress)
    except BaseException:
        _remove(agent, directory)
        raise
    tell(f"installing version {bundle.version}")
    words = ["/bin/sh", "-c", _INSTALL, "sh", directory, bundle.sha256, bundle.top, port]
    output = _said(agent.run(words, seconds=_INSTALL_SECONDS), "the guest is as it was: the installation failed")
    return Installed(bundle.version, before, changed=True, output=output.strip())


def _check_agent(agent: GuestAgent) -> None:
    disabled = agent.disabled()
    if disabled:
        message = f"the guest agent's configuration disables {', '.join(disabled)}"
        cure = (
            "in the guest, take them from BLACKLIST_RPC or FILTER_RPC_ARGS in /etc/sysconfig/qemu-ga, or block-rpcs in "
        )
        cure += "/etc/qemu/qemu-ga.conf, and restart qemu-guest-agent"
        raise failure("PERMISSION_DENIED", f"{message}: {cure}; or install in the disk image, or by scripts/deploy.sh")


def _facts(done: Completed) -> dict[str, str]:
    return dict(line.partition("=")[::2] for line in done.output.splitlines())


def _check_guest(facts: Mapping[str, str], bundle: Bundle) -> None:
    """Raises RPCError for what would fail later."""
    if facts.get("uid") != "0":
        message = f"the guest agent does not run as root (uid {facts.get('uid') or 'not known'})"
        raise failure("PERMISSION_DENIED", f"{message}: it cannot install a daemon")
    version = facts.get("python", "")
    if not version or tuple(map(int, version.split("."))) < _OLDEST_PYTHON:
        found = f"its python3 is version {version}" if version else "it has no python3"
        raise failure("NOT_SUPPORTED", f"the guest needs Python 3.8 or newer, and {found}: install one, also beside it")
    if "package" in facts:
        message = "the guest has vsrpc-guest as a package (/usr/bin/vsrpc-guest)"
        raise failure("NOT_SUPPORTED", f"{message}: upgrade that, or remove it first")
    if "read_only" in facts:
        message = "/var/tmp of the guest cannot be written, its file system is mounted read-only"
        raise failure("PERMISSION_DENIED", f"{message}: remount it, or install in the disk image")
    free, needed = facts.get("free", ""), len(bundle.content) + 2 * bundle.unpacked
    if free.isdigit() and int(free) * 1024 < needed:
        message = f"/var/tmp of the guest has {free} KiB free, and {needed // 1024 + 1} KiB are needed"
        raise failure("NO_SPACE", f"{message}: make room there")


def _said(done: Completed, what: str) -> str:
    if done.code:
        said = " ".join((done.output + " " + done.errors).split()) or f"exit code {done.code}"
        raise failure("CMD_EXEC_FAILED", f"{what}: {said}")
    return done.output


def _remove(agent: GuestAgent, directory: str) -> None:
    """Leave nothing in the guest; where even that fails, the next run does it."""
    with contextlib.suppress(RPCError, UsageError):
        agent.recover()
        agent.run(["/bin/rm", "-rf", directory])
