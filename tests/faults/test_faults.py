"""Cycles of faults at the simulated port and at the VM's; `make soak` makes as many as one likes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fault_cycles import KINDS
from fault_places import SimulatedPlace, VMPlace
from soak import KILLS, KILLS_WITH_WORK_LEFT, WEIGHTS, soak, text

if TYPE_CHECKING:
    from scripts.vm import VM


def test_every_fault_has_its_weight() -> None:
    assert set(WEIGHTS) == set(KINDS)
    assert {*KILLS, *KILLS_WITH_WORK_LEFT} <= set(KINDS)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_faults_at_the_simulated_port(tmp_path: Path, seed: int) -> None:
    with SimulatedPlace(tmp_path) as place:
        outcome = soak(place, 200, seed, WEIGHTS)
    report = text(outcome, 0)
    print(report)
    assert not outcome.report.wrong, report


@pytest.mark.vm
@pytest.mark.timeout(900)
def test_faults_at_the_port_of_a_vm(vm: VM) -> None:
    with VMPlace(vm) as place:
        outcome = soak(place, 50, 3, WEIGHTS)
    report = text(outcome, 0)
    print(report)
    assert not outcome.report.wrong, report
