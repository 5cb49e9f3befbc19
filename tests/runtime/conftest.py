"""What the tests of the runtime share: a world that is closed after the test."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Callable, Iterator

import pytest
from runtime_threads import descriptors, eventually
from runtime_world import Gate, World

# The generated code of the generator's own test schema: its messages have every kind of field.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "golden" / "out"))


@pytest.fixture
def make_world() -> Iterator[Callable[..., World]]:
    """Makes worlds, and closes them; no descriptor may be left of them."""
    before = descriptors()
    worlds: list[World] = []

    def make(*arguments: object, **options: object) -> World:
        worlds.append(World(*arguments, **options))  # type: ignore[arg-type]
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()
    eventually(lambda: descriptors() <= before, f"only {before} are open again")


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()


@pytest.fixture
def gate(make_world: Callable[..., World]) -> Iterator[Gate]:  # opened before the worlds are closed
    gate = Gate()
    yield gate
    gate.open()
