"""A new file for a target that outlives its upload: the next one of the same source goes on with it (vsrpc.partial)."""

from __future__ import annotations

import os
import re

from guest.errors import error
from guest.files.target import Resumable, TargetFile, TargetSpec
from guest.os_errors import printable
from guest.policy.paths import PathPolicy
from vsrpc.partial import open_partial, partial_name, remove_old

_KEY = re.compile(r"[0-9A-Za-z]{8,64}\Z")


class PartialFile(TargetFile):
    """See above; `left` is how many bytes an earlier upload has left.

    Raises what TargetFile raises, INVALID_PARAMS for a key that is none, and BUSY if another daemon writes it.
    """

    def __init__(self, policy: PathPolicy, spec: TargetSpec, key: str) -> None:
        if not _KEY.match(key):
            message = f"resume_key {key[:64]!r} is not 8 to 64 letters and digits"
            raise error("INVALID_PARAMS", message, field="resume_key")
        self.left = 0
        self._key = key
        super().__init__(policy, spec)
        self.resume = Resumable(spec.path, key)

    def cut(self, size: int) -> None:
        """Forget what was left beyond a size; raises RpcError."""
        if self.left > size:
            self.set_size(size)
            self.left = size

    def discard(self) -> None:
        """Let go of it, and remove it unless it is to be kept; does nothing the second time."""
        if self.resume is not None:
            self._temp = ""
        super().discard()

    def _create(self) -> None:
        name = partial_name(self._key, self._name)
        remove_old(self._dirfd, self._name, name)
        try:
            self.fd = open_partial(self._dirfd, name)
        except BlockingIOError:
            shown = printable(self.spec.path)
            message = f"Another upload of the same file is going on: {shown} (wait for it)"
            raise error("BUSY", message, path=shown) from None
        self._temp = name
        self.left = os.fstat(self.fd).st_size
