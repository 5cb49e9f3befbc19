"""Where an installation by the bundle's install.sh lies, and what of it a release replaces."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass

UNIT = "vsrpc-guest.service"
UPDATE_UNIT = "vsrpc-update.service"

_VERSION = re.compile(r'^__version__ = "([^"]+)"', re.MULTILINE)


@dataclass(frozen=True)
class Layout:
    """Paths below `root`, which is "/" but in tests."""

    root: str = "/"

    def _at(self, path: str) -> str:
        return os.path.join(self.root, path)

    @property
    def current(self) -> str:
        """The link to the release that is installed."""
        return self._at("opt/vsrpc/current")

    @property
    def work(self) -> str:
        """What an update keeps while it is under way, and how the last one ended."""
        return self._at("opt/vsrpc/update")

    @property
    def update_unit(self) -> str:
        """The unit that does an update."""
        return self._at(f"etc/systemd/system/{UPDATE_UNIT}")

    @property
    def replaced(self) -> tuple[str, ...]:
        """The files outside of the releases that an installation writes."""
        return (
            self._at("usr/local/bin/vsrpc-guest"),
            self._at(f"etc/systemd/system/{UNIT}"),
            self._at("etc/systemd/system/vsrpc-jobs.service"),
            self._at("etc/udev/rules.d/60-vsrpc.rules"),
        )


def own_release() -> str:
    """The directory of the release, or tree, that this code belongs to."""
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))


def version_of(release: str) -> str:
    """Version of the release, or unpacked bundle, in a directory. Raises OSError, and ValueError where it has none."""
    with open(os.path.join(release, "vsrpc", "_version.py"), encoding="utf-8") as stream:
        found = _VERSION.search(stream.read())
    if found is None:
        raise ValueError("vsrpc/_version.py names no version")
    return found.group(1)


def command(release: str, *arguments: str) -> list[str]:
    """The command line that runs guest.update from a release, whatever the working directory and environment are."""
    script = f"import sys; sys.path.insert(0, {release!r}); from guest.update.__main__ import main; sys.exit(main())"
    return [sys.executable, "-I", "-c", script, *arguments]
