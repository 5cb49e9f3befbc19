"""How much goes through a port at once, what is lost when it is stuck, and what edges tell."""

from __future__ import annotations

import pytest
from port_driver import (
    FULL,
    HUP,
    IN,
    OUT,
    PATIENCE,
    QUIET,
    PortUnderTest,
    Process,
    hears,
    receive,
    receive_all,
    send_until_full,
    until_taken,
)


def marker_comes_first(port: PortUnderTest, guest: Process) -> None:
    """The next client gets nothing of what was written before it came."""
    client = port.client()
    guest.until(OUT)
    assert guest.write(b"marker") == 6
    assert receive(client, 6) == b"marker"


# -- guest to host


def test_unread_output_goes_with_its_client(port: PortUnderTest) -> None:
    guest = port.process()
    client = port.client()
    guest.until(OUT)
    assert guest.write(b"for client 1") == 12
    client.close()
    guest.until(IN | HUP)
    with pytest.raises(BlockingIOError):
        guest.write(b"nobody")
    marker_comes_first(port, guest)


def test_what_one_write_takes(port: PortUnderTest) -> None:
    guest = port.process()
    client = port.client()
    guest.until(OUT)
    sizes = [[1 << 20], [32769], [32768], [10, 20, 30], [0]]
    assert [guest.writev(*each) for each in sizes] == [32768, 32768, 32768, 60, 0]
    assert receive_all(client) == 3 * 32768 + 60
    assert guest.writev(*[32768] * 32) == 32 * 32768
    assert receive_all(client) == 32 * 32768


@pytest.mark.parametrize(("size", "writes"), [(4096, 172), (32768, FULL)])
def test_what_fits_while_the_client_does_not_read(port: PortUnderTest, size: int, writes: int) -> None:
    port.renew()
    guest = port.process()
    client = port.client()
    guest.until(OUT)
    assert guest.fill(size) == (size * writes, writes)
    assert not guest.poll() & OUT
    assert guest.wait_writable(1) == 0
    with pytest.raises(BlockingIOError):
        guest.write(b"x")
    assert receive_all(client) == size * writes
    guest.until(OUT)


def test_each_small_write_uses_a_descriptor(port: PortUnderTest) -> None:
    port.renew()
    guest = port.process()
    client = port.client()
    guest.until(OUT)
    count = guest.writev(*[1] * 1000)
    assert 128 <= count < 1000
    assert len(receive(client, count)) == count
    guest.until(OUT)


def test_a_full_port_goes_on_when_the_client_reads(port: PortUnderTest) -> None:
    guest = port.process()
    client = port.client()
    guest.until(OUT)
    count, _ = guest.fill(32768)
    receive(client, 1)
    assert guest.wait_writable(1) == 0  # a byte makes no room in a socket
    guest.begin("wait_writable", 60_000)
    receive(client, count - 1)
    assert guest.end() == OUT


def test_a_client_leaves_a_full_port(port: PortUnderTest) -> None:
    guest = port.process()
    client = port.client()
    guest.until(OUT)
    guest.fill(32768)
    guest.begin("wait_writable", 60_000)
    client.close()
    assert guest.end() & (OUT | HUP)  # descriptors come back before the news; both where poll() is between the two
    guest.until(IN | HUP)
    with pytest.raises(BlockingIOError):
        guest.write(b"x")
    marker_comes_first(port, guest)


def test_output_outlives_its_process(port: PortUnderTest) -> None:
    guest = port.process()
    client = port.client()
    guest.until(OUT)
    guest.write(b"parting")
    guest.close()
    assert receive(client, 7) == b"parting"

    guest.open()
    guest.until(OUT)
    count, _ = guest.fill(32768)
    guest.close()
    guest.open()
    with pytest.raises(BlockingIOError):
        guest.write(b"NEW")
    assert len(receive(client, count)) == count
    guest.until(OUT)
    guest.write(b"NEW")
    assert receive(client, 3) == b"NEW"


# -- host to guest


def test_what_one_read_gives(port: PortUnderTest) -> None:
    guest = port.process()
    client = port.client()
    client.sendall(bytes(100_000))
    until_taken(client)
    assert [len(guest.read(1 << 20)) for _ in range(5)] == [4096] * 5
    assert len(guest.read(*[4096] * 16)) == 65536
    guest.expect(100_000 - 5 * 4096 - 65536)
    with pytest.raises(BlockingIOError):
        guest.read()


def test_sends_are_bytes_not_messages(port: PortUnderTest) -> None:
    guest = port.process()
    client = port.client()
    for _ in range(10):
        client.sendall(b"0123456789")
    assert guest.expect(100) == (b"0123456789" * 10)[:64]
    client.sendall(bytes(range(100)))
    until_taken(client)
    assert b"".join(guest.read(size) for size in (30, 30, 4096)) == bytes(range(100))


def test_a_readv_ends_with_a_buffer_that_is_not_filled(port: PortUnderTest) -> None:
    guest = port.process()
    client = port.client()
    for size in (100, 200):
        client.sendall(bytes(size))
        until_taken(client)
    assert [len(guest.read(4096, 4096)) for _ in range(2)] == [100, 200]


@pytest.mark.parametrize(
    ("size", "least", "most"), [(65536, 500_000, 850_000), (100, 128 * 100, 600_000), (1, 128, 50_000)]
)
def test_what_fits_while_the_guest_does_not_read(port: PortUnderTest, size: int, least: int, most: int) -> None:
    guest = port.process()
    client = port.client()
    sent = send_until_full(client, size)
    assert least <= sent <= most
    drained = guest.drain()
    assert (drained.length, drained.why) == (sent, "silence")


# -- edges


def test_edges(port: PortUnderTest) -> None:
    guest = port.process()
    guest.watch()
    assert not guest.edge(0)

    client = port.client()
    guest.until(OUT)
    assert not guest.edge(QUIET)  # a client that is silent is no news to who waits for input

    for _ in range(2):  # the second time with data unread
        guest.begin("edge", 30)
        client.sendall(b"data")
        assert guest.end()
        until_taken(client)
        guest.edge(0)
    assert guest.expect(8) == b"datadata"
    assert not guest.edge(0)

    guest.begin("edge", 30)
    client.close()
    assert guest.end()
    guest.until(IN | HUP)
    assert not guest.edge(QUIET)  # although poll() says HUP all the time

    guest.begin("edge", 30)
    port.client().sendall(b"data")
    assert guest.end()


# -- the slot leak


def capacity(port: PortUnderTest, guest: Process) -> int:
    """Writes of 32 KiB that fit, seen by a client that reads all, which costs nothing."""
    client = port.client()
    guest.until(OUT)
    count, writes = guest.fill(32768)
    assert receive_all(client) == count
    client.close()
    guest.until(IN | HUP)
    return writes


def test_each_client_that_leaves_a_full_port_costs_a_descriptor(port: PortUnderTest) -> None:
    port.renew()
    guest = port.process()
    for lost in range(5):
        client = port.client()
        guest.until(OUT)
        assert guest.fill(32768)[1] == FULL - lost
        client.close()
        guest.until(IN | HUP)
    assert capacity(port, guest) == FULL - 5
    guest.close()
    assert capacity(port, guest.open()) == FULL - 5


def test_a_client_that_reads_may_cost_a_descriptor_too(port: PortUnderTest) -> None:
    """If the guest is just writing when it leaves: the write meets the broken socket before QEMU sees the hang-up."""
    port.renew()
    guest = port.process()
    for _ in range(30):  # a real port loses some 15 descriptors
        client = port.client()
        guest.until(OUT)
        guest.begin("stream", 4096, PATIENCE)
        for _ in range(20):
            client.recv(1 << 20)
        client.close()
        guest.end()
        guest.until(IN | HUP)
    assert capacity(port, guest) < FULL


def test_a_client_that_leaves_a_guest_that_does_not_read_can_make_the_next_one_deaf(port: PortUnderTest) -> None:
    """If the guest is just writing: with no room for input, it is the write that finds the socket broken, and the port
    is throttled after that client's end, not before."""
    guest = port.process()
    for _ in range(50):  # on a real port each second time or so
        client = port.client()
        guest.until(OUT)
        assert send_until_full(client, 65536) > 400_000
        guest.begin("stream", 8, PATIENCE)
        client.recv(100)
        client.close()
        guest.end()
        client = port.client()
        guest.drain(quiet=0.01, patient=True)
        guest.until(OUT)
        assert guest.write(b"hello") == 5
        deaf = not hears(client, QUIET)
        client.close()
        guest.until(IN | HUP)
        if deaf:
            break
    else:
        pytest.fail("no client was deaf")
    marker_comes_first(port, guest)


def test_lost_descriptors_come_back_only_with_a_new_port_number(port: PortUnderTest) -> None:
    port.renew()
    guest = port.process()
    client = port.client()
    guest.until(OUT)
    assert guest.fill(32768)[1] == FULL
    client.close()
    guest.until(IN | HUP)
    for number_is_new, writes in ((False, FULL - 1), (True, FULL)):
        port.unplug()
        port.replug(number_is_new)
        guest.close()
        assert capacity(port, guest.open()) == writes


def test_unplugging_a_full_port_costs_a_descriptor(port: PortUnderTest) -> None:
    port.renew()
    guest = port.process()
    client = port.client()
    guest.until(OUT)
    guest.fill(32768)
    port.unplug()
    port.replug()
    guest.close()
    guest.open()
    assert receive_all(client) == 7 * 32768  # what the socket had
    client.close()
    guest.until(IN | HUP)
    assert capacity(port, guest) == FULL - 1


def test_without_descriptors_the_guest_is_mute_and_hears(port: PortUnderTest) -> None:
    port.renew()
    guest = port.process()
    for _ in range(140):
        client = port.client()
        if guest.until_client() & OUT:
            guest.fill(32768)
        client.close()
        guest.until(IN | HUP)
    for _ in range(2):
        client = port.client()
        assert guest.until_client() == 0
        with pytest.raises(BlockingIOError):
            guest.write(b"anybody?")
        client.sendall(b"other way?")
        assert guest.expect(10) == b"other way?"
        client.close()
        guest.until(IN | HUP)
        guest.close()
        guest.open()
    guest.close()
    port.renew()
    guest.open()
    marker_comes_first(port, guest)
