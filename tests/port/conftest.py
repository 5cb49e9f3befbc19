"""The port that each test here is about: once a simulated one, once that of the real VM."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest
from port_driver import Agent, PortUnderTest
from port_places import GuestAgentProcess, RealPort, SimulatedPort, local_agent

# Building the image and booting may be part of the first test's time.
VM_SECONDS = 900


@pytest.fixture(
    params=[
        pytest.param("sim", marks=pytest.mark.slow),
        pytest.param("vm", marks=[pytest.mark.vm, pytest.mark.timeout(VM_SECONDS)]),
    ]
)
def port(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PortUnderTest]:
    place: PortUnderTest
    if request.param == "sim":
        place = SimulatedPort(tmp_path, request.getfixturevalue("simulated_guest"))
    else:
        place = RealPort(request.getfixturevalue("vm"), request.getfixturevalue("real_guest"))
    yield place
    place.end()


@pytest.fixture(scope="session")
def simulated_guest() -> Iterator[Agent]:
    with local_agent() as agent:
        yield agent


@pytest.fixture(scope="session")
def real_guest(request: pytest.FixtureRequest) -> Iterator[GuestAgentProcess]:
    guest = GuestAgentProcess(request.getfixturevalue("vm"))
    yield guest
    guest.stop()
