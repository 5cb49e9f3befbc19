"""How an update stands, on disk: what is left of it when a process, or the guest, ends in its middle.

The release before and the one after meet in these files, each with its own code: what is there must keep its meaning,
and what one does not know it leaves alone.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields

READY, INSTALLING, CHECKING = "ready", "installing", "checking"
CONFIRMED, ROLLED_BACK = "confirmed", "rolled back"

ENDED = (CONFIRMED, ROLLED_BACK)


@dataclass
class State:
    """An update. Its phase goes READY, INSTALLING, CHECKING, CONFIRMED, or ends ROLLED_BACK."""

    update_id: str
    bundle: str
    """The directory of the unpacked bundle, below `new`."""
    version: str
    """Version of the release in it."""
    confirm_within: float
    """Seconds in CHECKING within which ConfirmUpdate must come."""
    phase: str = READY
    message: str = ""
    """Why it was rolled back."""


def load(work: str) -> State | None:
    """The last update; None where there was none. Raises ValueError for a file that is none of ours, and OSError."""
    try:
        with open(os.path.join(work, "state.json"), encoding="utf-8") as stream:
            content = json.load(stream)
    except FileNotFoundError:
        return None
    known = {each.name for each in fields(State)}
    try:
        return State(**{name: value for name, value in content.items() if name in known})
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{work}/state.json: {error}") from None


def save(work: str, state: State) -> None:
    """Replace the file whole."""
    path = os.path.join(work, "state.json")
    with open(path + ".new", "w", encoding="utf-8") as stream:
        json.dump(asdict(state), stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(path + ".new", path)


def decide(work: str, verdict: str) -> str:
    """End the phase CHECKING by CONFIRMED or ROLLED_BACK: whoever comes first decides. Returns what is decided."""
    path = os.path.join(work, "verdict")
    try:
        os.symlink(verdict, path)  # made with its content, or not at all
    except FileExistsError:
        pass
    return os.readlink(path)


def decided(work: str) -> str:
    """What is decided; "" where nothing is yet."""
    try:
        return os.readlink(os.path.join(work, "verdict"))
    except FileNotFoundError:
        return ""
