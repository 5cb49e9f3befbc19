"""A virtio-serial port without a VM, for tests: as unkind as the real one, and as fast as tests want it.

The simulator plays QEMU and the guest's kernel. Host clients connect to its UNIX stream socket as to QEMU's; a guest
process opens the port with open_port() from wherever it runs, so that it may be killed like any other:

    with Simulator(directory) as simulator:         # a thread; process=True: a process of its own
        client.connect(simulator.host_path)         # a plain socket
        port = open_port(simulator.guest_path)      # a SerialPort of vsrpc.transports.serial_port
        simulator.unplug()                          # and replug, pause, resume, reset, boot, rebind
        simulator.state().lost_descriptors

tests/port holds it to the real port, fact by fact. Where the two differ, the simulator is wrong.

    options.py   the sizes of the port, and what a test can set
    loop.py      descriptors and what to call when they are ready
    driver.py    the port as the guest's driver has it    (Linux drivers/char/virtio_console.c)
    qemu.py      the port as QEMU has it                  (QEMU chardev/char-socket.c, hw/char/virtio-*.c)
    guest.py     the system calls of guest processes, served over a socket; client.py is their other end
    machine.py   all of these in one thread, and what a test does to them
    simulator.py what a test holds
    daemon.py    the real guest daemon on a simulated port, as a program
"""

from __future__ import annotations

from portsim.client import SimulatedPort, open_port
from portsim.options import Options
from portsim.simulator import Simulator, State

__all__ = ["Options", "SimulatedPort", "Simulator", "State", "open_port"]
