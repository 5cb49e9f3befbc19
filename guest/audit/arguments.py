"""What the audit log shows of a request: its fields by name, without secrets, in bounded size.

Of bytes only the size is shown, unless they are a file's name; of `env` only the names; of a session's id only the
beginning, which tells one from the other but is no key to it; nothing of a field whose name says that it is a secret.
Commands are shown without the secrets that guest.audit.redact finds. Long texts are cut and tell their length, long
lists tell theirs.
"""

from __future__ import annotations

import json
import math
from typing import Any, Callable

from guest.audit.redact import HIDDEN, hide_in_line, hide_in_words, is_secret_name
from vsrpc.fields import is_bytes, is_enum, is_map, is_repeated, map_value

LONGEST = 2048
"""Bytes of JSON of one text."""

_ALL = 8192  # bytes of JSON of all texts; those that come after have _SHORTEST each
_SHORTEST = 64
_MOST = 64  # items of a list or map
_NAMES = frozenset(("name", "names", "path_bytes", "target", "target_bytes"))  # of files, which are bytes
_DEEPEST = 4  # messages in messages
_ID_SHOWN = 8  # characters of a session's id


def shown(text: str, longest: int = LONGEST, whole: int | None = None) -> str:
    """A text as lines of the log may hold it: cut, with its length, and without what is no Unicode.

    `whole`: the length of the text of which this is the beginning.
    """
    text = text.encode("utf-8", "backslashreplace").decode()
    kept = text[:longest]
    while len(json.dumps(kept)) - 2 > longest:
        kept = kept[: len(kept) * longest // len(json.dumps(kept))]
    if len(kept) == len(text) and (whole is None or whole <= LONGEST):
        return text
    return f"{kept}... ({whole or len(text)} characters)"


def arguments(message: Any, content_size: int = 0) -> dict[str, Any]:
    """The fields of a request that are set. `content_size`: bytes of the content that stands beside it."""
    fields = _Arguments().of(message, 0)
    if content_size:
        fields["content"] = {"size": content_size}
    return fields


class _Arguments:
    """One request's, with what is left of the room for its texts."""

    def __init__(self) -> None:
        self._left = _ALL

    def of(self, message: Any, depth: int) -> dict[str, Any]:
        return {field.name: self._field(field, value, depth) for field, value in message.ListFields()}

    def _field(self, field: Any, value: Any, depth: int) -> Any:
        if is_secret_name(field.name):
            return HIDDEN
        if is_map(field):
            return self._map(field, value, depth)
        if is_repeated(field):
            if field.name == "argv":
                cut = [item[:LONGEST] for item in value[:_MOST]]
                items = [self._text(new, len(old)) for new, old in zip(hide_in_words(cut), value)]
            else:
                items = [self._value(field, item, depth) for item in value[:_MOST]]
            return items if len(value) <= _MOST else [*items, f"... ({len(value)} in all)"]
        return self._value(field, value, depth)

    def _map(self, field: Any, value: Any, depth: int) -> dict[str, Any]:
        hidden = field.name == "env"
        items: dict[str, Any] = {}
        for key in sorted(value)[:_MOST]:
            hide = hidden or is_secret_name(str(key))
            items[self._text(str(key))] = HIDDEN if hide else self._value(map_value(field), value[key], depth)
        if len(value) > _MOST:
            items["..."] = f"({len(value)} in all)"
        return items

    def _value(self, field: Any, value: Any, depth: int) -> Any:
        if is_bytes(field):
            if field.name in _NAMES:
                return self._text(value[:LONGEST].decode("utf-8", "backslashreplace"), len(value))
            return {"size": len(value)}
        if field.message_type is not None:
            return self.of(value, depth + 1) if depth < _DEEPEST else {"size": value.ByteSize()}
        if is_enum(field):
            known = field.enum_type.values_by_number.get(value)
            return value if known is None else known.name
        if isinstance(value, str):
            if field.name == "session_id":
                return self._text(value[:_ID_SHOWN])
            hide: Callable[[str], str] = hide_in_line if field.name == "command" else str
            return self._text(hide(value[:LONGEST]), len(value))
        if isinstance(value, float) and not math.isfinite(value):
            return str(value)
        return value

    def _text(self, text: str, whole: int | None = None) -> str:
        result = shown(text, min(LONGEST, max(_SHORTEST, self._left)), whole)
        self._left -= len(json.dumps(result))
        return result
