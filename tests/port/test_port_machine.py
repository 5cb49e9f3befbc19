"""What becomes of a port when it is unplugged, and when the guest is paused or reset."""

from __future__ import annotations

import errno
import socket
from contextlib import contextmanager
from typing import Callable, Iterator

import pytest
from port_driver import (
    FULL,
    HUP,
    IN,
    OUT,
    QUIET,
    PortUnderTest,
    hears,
    receive,
    receive_all,
    send_until_full,
    until_taken,
)


def number(call: Callable[[], object]) -> int | None:
    """The errno that the call fails with."""
    with pytest.raises(OSError) as failure:
        call()
    return failure.value.errno


@contextmanager
def paused_without(port: PortUnderTest, client: socket.socket) -> Iterator[None]:
    """The guest is paused, and the client has left since then."""
    port.pause()
    try:
        client.close()
        port.until_served(False)
        yield
    finally:
        port.resume()


def test_unplugged_under_an_open_file(port: PortUnderTest) -> None:
    guest = port.process()
    client = port.client()
    guest.until(OUT)
    guest.watch()
    guest.begin("edge", 30)
    port.unplug()
    try:
        assert guest.end()
        assert [number(guest.read), number(lambda: guest.write(b"x"))] == [errno.ENODEV] * 2
        assert guest.poll() == guest.wait_writable(10_000) == HUP
        assert number(port.new_process().open) == errno.ENOENT
        client.sendall(b"sent while unplugged")
        assert not hears(client, QUIET)  # not even an end
    finally:
        port.replug()
    assert [number(guest.read), number(lambda: guest.write(b"x"))] == [errno.ENODEV] * 2

    new = port.process()
    assert new.expect(20) == b"sent while unplugged"
    new.until(OUT)
    new.write(b"hello again")
    assert receive(client, 11) == b"hello again"


def test_unplugging_takes_what_was_not_read(port: PortUnderTest) -> None:
    """Also what the socket still holds, if the guest had the port open."""
    guest = port.process()
    client = port.client()
    assert send_until_full(client, 65536) > 128 * 4096
    port.unplug()
    until_taken(client)
    port.replug()
    guest.close()
    guest.open()
    client.sendall(b"the next message")
    assert guest.expect(16) == b"the next message"


def test_unplugging_a_closed_port_takes_nothing(port: PortUnderTest) -> None:
    client = port.client()
    client.sendall(b"hello")
    port.unplug()
    port.replug()
    assert port.process().expect(5) == b"hello"


def test_a_client_that_leaves_while_the_port_is_unplugged(port: PortUnderTest) -> None:
    guest = port.process()
    client = port.client()
    guest.until(OUT)
    port.unplug()
    client.close()
    port.replug()
    guest.close()
    guest.open()
    guest.until(IN | HUP)
    port.client().sendall(b"hello")
    assert guest.expect(5) == b"hello"


def test_a_client_that_is_replaced_in_a_pause_was_never_away(port: PortUnderTest) -> None:
    guest = port.process()
    first = port.client()
    guest.until(OUT)
    with paused_without(port, first):
        second = port.client()
        port.until_served(True)
    second.sendall(b"hello")
    assert guest.expect(5) == b"hello"
    assert guest.poll() == OUT
    guest.write(b"hello yourself")
    assert receive(second, 14) == b"hello yourself"


def test_a_client_that_leaves_a_full_port_in_a_pause_makes_the_next_one_deaf(port: PortUnderTest) -> None:
    port.renew()
    guest = port.process()
    client = port.client()
    guest.until(OUT)
    guest.fill(32768)
    with paused_without(port, client):
        pass
    deaf = port.client()
    deaf.sendall(b"do you hear me?")
    assert guest.expect(15) == b"do you hear me?"
    assert guest.poll() == 0
    assert not hears(deaf, QUIET)

    deaf.close()
    guest.until(IN | HUP)
    client = port.client()
    guest.until(OUT)
    guest.write(b"hello")
    assert receive(client, 5) == b"hello"


def test_a_client_that_leaves_in_a_pause_is_not_missed_until_the_next_but_one(port: PortUnderTest) -> None:
    """Also without output that is stuck: what the guest writes then, to nobody, gets stuck."""
    guest = port.process()
    client = port.client()
    guest.until(OUT)
    with paused_without(port, client):
        pass
    assert guest.poll() == OUT
    assert guest.write(b"are you there?") == 14
    deaf = port.client()
    deaf.sendall(b"here I am")
    assert guest.expect(9) == b"here I am"
    guest.write(b"hello")
    assert not hears(deaf, QUIET)
    deaf.close()
    guest.until(IN | HUP)
    client = port.client()
    guest.until(OUT)
    guest.write(b"hello")
    assert receive(client, 5) == b"hello"


def test_reset_with_a_client_connected(port: PortUnderTest) -> None:
    port.renew()
    guest = port.process()
    client = port.client()
    guest.until(OUT)
    guest.fill(32768)
    sent = send_until_full(client, 65536)
    port.reset()
    assert receive_all(client) == 7 * 32768  # what the socket had; the rest was in the guest's memory

    guest = port.process()
    kept = guest.drain()
    assert kept.why == "silence"
    assert 0 < kept.length < sent - 400_000  # what QEMU had not read
    guest.until(OUT)
    guest.write(b"of the new boot")
    assert receive(client, 15) == b"of the new boot"
    assert guest.fill(32768)[1] == FULL  # no descriptor is lost any more
    assert receive_all(client) == FULL * 32768
