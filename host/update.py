"""Replacing a guest's daemon through its own port: send the bundle, then reach the new daemon or see the old one again.

The guest decides, not this program: it goes back by itself unless somebody reaches its new daemon in time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Callable

from host.bundle import Bundle
from host.client import VirtioRPCClient
from host.errors import RPCError, failure
from vsrpc.deadline import Deadline

_INSTALL_SECONDS = 360.0  # the guest gives its installer 300
_POLL = 0.5
_CALL_SECONDS = 10.0

_ABSENT = ("ENDPOINT_NOT_FOUND", "METHOD_NOT_ALLOWED")
_RUNNING, _CONFIRMED = "UPDATE_STATE_RUNNING", "UPDATE_STATE_CONFIRMED"


@dataclass(frozen=True)
class Updated:
    """What an update came to."""

    previous_version: str
    version: str
    """Of the daemon that runs now."""
    changed: bool


def update(
    client: VirtioRPCClient,
    bundle: Bundle,
    confirm_within: float,
    force: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> Updated:
    """Replace the guest's daemon by the bundle's; `confirm_within` is how long, in seconds, the guest waits to be told
    that its new daemon can be reached. `force`: also by one of the same version.

    Raises RPCError: also where the guest went back to its previous release (UNIT_FAILED), which then serves.
    """
    client.connect()
    peer = client.channel.beginning.peer
    agent = peer.agent if peer is not None else ""
    if agent == f"vsrpc-guest/{bundle.version}" and not force:
        return Updated(bundle.version, bundle.version, changed=False)
    tell(f"sending {bundle.path} ({len(bundle.content)} bytes) to {agent}")
    try:
        begun = client.begin_update(bundle.content, bundle.sha256, confirm_within)["data"]
    except RPCError as error:
        if error.reason in _ABSENT:
            message = (
                f"this guest ({agent}) is too old to update itself: use vsrpc-host bootstrap, or scripts/deploy.sh"
            )
            raise failure("NOT_SUPPORTED", message) from error
        raise
    tell(f"the guest installs {begun['version']}, and goes back to {begun['previous_version']} if that does not work")
    ended = _follow(client, begun["update_id"], Deadline(_INSTALL_SECONDS + 2 * confirm_within))
    if ended["state"] != _CONFIRMED:
        message = f"version {begun['version']} was rolled back, {ended['version']} serves again: {ended['message']}"
        raise failure("UNIT_FAILED", message)
    return Updated(begun["previous_version"], ended["version"], changed=True)


def _follow(client: VirtioRPCClient, update_id: str, deadline: Deadline) -> dict[str, Any]:
    """Ask until it has ended, whichever daemon answers."""
    last = ""
    while not deadline.expired:
        try:
            reply: dict[str, Any] = client.confirm_update(update_id, _CALL_SECONDS)["data"]
            if reply["state"] != _RUNNING:
                return reply
            last = f"the guest says: {reply['message']}"
        except RPCError as error:
            # Whatever is wrong with the new daemon, the guest goes back, and tells so then.
            if error.reason == "SESSION_NOT_FOUND":
                raise
            last = error.message
        time.sleep(_POLL)
    message = f"the update has not ended; last: {last}"
    raise failure("OUTCOME_UNKNOWN", f"{message} (the guest goes back by itself if it was not confirmed; look at it)")
