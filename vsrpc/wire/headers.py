"""The field lines of one message: immutable, ordered, case-insensitive. Knows the syntax of a field, no meaning."""

from __future__ import annotations

from typing import Iterable, Iterator, TypeVar, overload

from .errors import LocalProtocolError, shown
from .grammar import FIELD_NAME, FIELD_VALUE

T = TypeVar("T")


class Headers:
    """Pairs of (lower-case name, value), in the order received; values are Latin-1 text as on the wire.

    Raises LocalProtocolError for a name that is no token or a value with control characters, characters
    beyond U+00FF, or white space at either end (RFC 9110 5.1, 5.5). Equal when the pairs are, in order.
    """

    __slots__ = ("_first", "_items")

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        pairs = []
        for name, value in items:
            # Before lower(), which makes ASCII letters of a few other characters.
            if not FIELD_NAME.fullmatch(name):
                raise LocalProtocolError(f"header name {shown(name)} is not a token: use letters, digits and hyphens")
            if not FIELD_VALUE.fullmatch(value):
                raise LocalProtocolError(
                    f"value {shown(value)} of header {name} cannot be sent: remove control characters, "
                    "white space at its ends and characters beyond Latin-1"
                )
            pairs.append((name.lower(), value))
        self._fill(tuple(pairs))

    def _fill(self, pairs: tuple[tuple[str, str], ...]) -> None:
        self._items = pairs
        self._first = dict(reversed(pairs))

    @classmethod
    def parsed(cls, pairs: Iterable[tuple[str, str]]) -> Headers:
        """For pairs that the parser has already matched: names lower-case, nothing checked again."""
        headers = cls.__new__(cls)
        headers._fill(tuple(pairs))
        return headers

    @overload
    def get(self, name: str) -> str | None: ...
    @overload
    def get(self, name: str, default: T) -> str | T: ...
    def get(self, name: str, default: object = None) -> object:
        """The first value of that name."""
        return self._first.get(name.lower(), default)

    def get_all(self, name: str) -> list[str]:
        """Every value of that name, in order."""
        wanted = name.lower()
        if wanted not in self._first:
            return []
        return [value for key, value in self._items if key == wanted]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._first

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        return self._items == other._items if isinstance(other, Headers) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._items)

    def __repr__(self) -> str:
        return f"Headers({list(self._items)!r})"
