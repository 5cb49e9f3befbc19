"""What the tests of servicers share: a call's context, errors by reason, and work as an ordinary user."""

from __future__ import annotations

import contextlib
import os
from typing import Any, Callable, Iterator

import pytest

from vsrpc.context import ServicerContext
from vsrpc.deadline import Deadline
from vsrpc.errors import RpcError

NOBODY = 65534


def context(seconds: float = 30.0) -> ServicerContext:
    """A call that may take so long."""
    return ServicerContext("/test", "1", Deadline(seconds))


def refused(reason: str, call: Callable[..., Any], *args: Any) -> RpcError:
    """Call, which must fail with this reason; returns the error."""
    with pytest.raises(RpcError) as caught:
        call(*args)
    assert caught.value.reason == reason, caught.value
    return caught.value


@contextlib.contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Let the system treat this process as one without privileges, also when the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
