"""What the tests of the guest share: a place for files."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest
from path_helpers import visible_directory


@pytest.fixture
def place() -> Iterator[Path]:
    with visible_directory() as path:
        yield path
