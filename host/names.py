"""Names of files, which are bytes: as requests and replies have them, and as people see them.

In Python they are text, in which bytes that are no UTF-8 are surrogates (os.fsdecode).
"""

from __future__ import annotations

import base64
import os
from typing import Any, Mapping


def path_fields(path: str, field: str = "path") -> dict[str, Any]:
    """The fields of a request that give a path: as text if it is, else as bytes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return {f"{field}_bytes": os.fsencode(path)}
    return {field: path}


def name_of(data: Mapping[str, Any], field: str = "name") -> str:
    """A name in a reply: bytes, or in JSON text, which is exact only where it is text."""
    value = data.get(field, b"")
    if isinstance(value, str):
        exact = data.get(f"{field}_base64")
        return os.fsdecode(base64.b64decode(exact)) if exact else value
    return os.fsdecode(bytes(value))


def raw(data: Mapping[str, Any], field: str) -> bytes:
    """A bytes field of a reply that is no name: bytes, or base64 in JSON."""
    value = data.get(field, b"")
    return base64.b64decode(value) if isinstance(value, str) else bytes(value)


def shown(name: str) -> str:
    """A name as messages show it: bytes that are no UTF-8 and control characters are escaped."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
