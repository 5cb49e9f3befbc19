"""Tests of the real VM: all in this directory are marked, and have the time that an image and a boot need."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Iterator

import pytest
from vm_tools import CONFIG, sh

if TYPE_CHECKING:
    from scripts.vm import VM

# Building the image is part of the first test's time; a boot under emulation takes up to a minute on a busy machine.
SECONDS = 900


@pytest.fixture
def configured(vm: VM) -> Iterator[VM]:
    """A VM whose daemon's configuration a test may change."""
    before = vm.ga.read_file(CONFIG)
    yield vm
    vm.ga.write_file(CONFIG, before)
    sh(vm, "systemctl restart vsrpc-guest")
    vm.wait_daemon()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies here, so that no test can forget it."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.vm)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(SECONDS))
