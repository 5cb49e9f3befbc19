"""What a copy's sources and target name: files here, or `guest:/path`."""

from __future__ import annotations

import os
import posixpath
from typing import NamedTuple

from host.errors import UsageError
from host.names import shown

GUEST = "guest:"
STREAM = "-"


class Place(NamedTuple):
    """A path on one side, absolute."""

    guest: bool
    root: str
    """The directory that it is in."""
    name: str
    """Its name there. "" where what is in `root` is meant, not that itself: the path ends in "." or ".."."""
    given: str
    """As it was given."""
    slash: bool
    """Whether it must be a directory: the path ends in "/"."""

    @property
    def path(self) -> str:
        """All of it."""
        return posixpath.join(self.root, self.name) if self.name else self.root


def place_of(text: str) -> Place:
    """What a source or target names. Raises UsageError."""
    guest = text.startswith(GUEST)
    path = text[len(GUEST) :] if guest else text
    if not path:
        raise UsageError(f"{text!r} names nothing: name a file, or {GUEST}/path for one of the guest")
    if guest and not path.startswith("/"):
        raise UsageError(f"{shown(text)}: a path of the guest is absolute: write {GUEST}/{shown(path)}")
    path = path if guest else os.path.join(os.getcwd(), path)
    bare = "/" + path.strip("/")
    root, name = posixpath.split(bare)
    if name in ("", ".", ".."):
        return Place(guest, root if name == "." else bare, "", text, True)
    return Place(guest, root, name, text, path.endswith("/"))
