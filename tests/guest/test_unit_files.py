"""systemd's unit files, as far as they can be judged without systemd."""

from __future__ import annotations

from pathlib import Path

import guest

UNITS = Path(guest.__file__).parent / "systemd"


def limits(name: str) -> list[str]:
    """What a unit keeps from its processes."""
    lines = (UNITS / name).read_text().splitlines()
    kinds = ("Capability", "Restrict", "Lock", "SystemCall")
    return [line for line in lines if line.startswith(kinds)]


def test_jobs_have_the_limits_that_commands_have() -> None:
    assert len(limits("vsrpc-guest.service")) > 5
    assert limits("vsrpc-jobs.service") == limits("vsrpc-guest.service")
