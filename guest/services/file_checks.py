"""Checks of requests that the parts of the File service share."""

from __future__ import annotations

from guest.errors import error
from vsrpc.v1 import file_pb2 as pb


def known_checksum(value: int) -> None:
    """Raise INVALID_PARAMS for another one."""
    if value not in pb.Checksum.values():
        known = ", ".join(f"{name} ({number})" for name, number in pb.Checksum.items())
        raise error("INVALID_PARAMS", f"checksum {value} is unknown: give one of {known}", field="checksum")


def not_negative(field: str, value: int) -> None:
    """Raise INVALID_PARAMS for a number below 0."""
    if value < 0:
        raise error("INVALID_PARAMS", f"{field} is {value}: give 0 or more", field=field)
