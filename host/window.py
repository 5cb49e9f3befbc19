"""Calls for the chunks of one file, several of which are under way at a time, in the order of the file."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from host.backend import Reply, Started

MAX_BYTES = 4 * 1024 * 1024
"""Bytes under way: what hides the time that a call takes beside its bytes. More only makes other calls wait longer."""

MAX_CALLS = 16


@dataclass(frozen=True)
class Piece:
    """A part of the file, and the call that moves it."""

    offset: int
    size: int
    pending: Started


class Window:
    """The pieces under way, oldest first. As a context manager it gives up what is left."""

    def __init__(self, max_calls: int = MAX_CALLS) -> None:
        self._max_calls = max_calls
        self._pieces: deque[Piece] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._pieces)

    def has_room(self, size: int) -> bool:
        """Whether a piece of that size may be added: always if nothing is under way."""
        return not self._pieces or (self._bytes + size <= MAX_BYTES and len(self._pieces) < self._max_calls)

    def add(self, piece: Piece) -> None:
        """One more is under way."""
        self._pieces.append(piece)
        self._bytes += piece.size

    def add_first(self, piece: Piece) -> None:
        """One more is under way, and comes before all others in the file."""
        self._pieces.appendleft(piece)
        self._bytes += piece.size

    def take(self) -> tuple[Piece, Reply]:
        """The oldest piece, once its reply is there. Raises RPCError."""
        piece = self._pieces.popleft()
        self._bytes -= piece.size
        try:
            return piece, piece.pending.result()
        except BaseException:
            piece.pending.cancel()  # does nothing unless the wait was interrupted, by Ctrl-C say
            raise

    def cancel(self) -> None:
        """Give up all that is under way."""
        while self._pieces:
            self._pieces.popleft().pending.cancel()
        self._bytes = 0

    def __enter__(self) -> Window:
        return self

    def __exit__(self, *exception: object) -> None:
        self.cancel()
