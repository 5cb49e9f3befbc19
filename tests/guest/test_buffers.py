"""The pool of buffers for chunks: used again, and never more than it may keep."""

from __future__ import annotations

import pytest

from guest.files.buffers import BufferPool

MIB = 1 << 20


def test_a_buffer_is_used_again() -> None:
    pool = BufferPool()
    buffer = pool.take(2 * MIB)
    pool.give(buffer)
    pool.take(10)  # small ones are no matter of the pool
    pool.give(bytearray(10))
    assert pool.take(2 * MIB) is buffer
    assert pool.take(2 * MIB) is not buffer


@pytest.mark.parametrize(
    ("size", "kept"), [(MIB, 8), (2 * MIB, 4), (3 * MIB, 2), (5 * MIB, 1), (6 * MIB, 0), (1000, 0)]
)
def test_so_many_bytes_are_kept_at_most(size: int, kept: int) -> None:
    pool = BufferPool()
    buffers = [bytearray(size) for _ in range(10)]
    for buffer in buffers:
        pool.give(buffer)
    again = [pool.take(size) for _ in range(10)]
    assert sum(any(each is buffer for buffer in buffers) for each in again) == kept


@pytest.mark.parametrize("clear", [lambda pool: pool.take(3 * MIB), lambda pool: pool.clear()])
def test_those_of_another_size_are_let_go_of_first(clear: object) -> None:
    pool = BufferPool()
    buffer = bytearray(2 * MIB)
    pool.give(buffer)
    assert callable(clear)
    clear(pool)
    assert pool.take(2 * MIB) is not buffer
