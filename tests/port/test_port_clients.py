"""Who is at the other end of a port: clients that come, leave, follow one another and wait for their turn."""

from __future__ import annotations

import base64
import errno
import socket

import pytest
from port_driver import (
    HUP,
    IN,
    OUT,
    PATIENCE,
    QUIET,
    PortUnderTest,
    hears,
    receive,
    send_until_full,
    until_taken,
)

MANY = 100_000  # bytes: more than QEMU reads at once


def test_no_client_has_ever_connected(port: PortUnderTest) -> None:
    guest = port.process()
    assert guest.poll() == IN | HUP
    assert [guest.read(), guest.read()] == [b"", b""]
    with pytest.raises(BlockingIOError):
        guest.write(b"hello")
    assert guest.wait_writable(10_000) == HUP


def test_a_silent_client(port: PortUnderTest) -> None:
    guest = port.process()
    client = port.client()
    guest.until(OUT)
    with pytest.raises(BlockingIOError):
        guest.read()
    assert guest.wait_writable(10_000) == OUT
    assert guest.write(b"hello") == 5
    assert receive(client, 5) == b"hello"


def test_an_idle_client_leaves_and_another_comes(port: PortUnderTest) -> None:
    guest = port.process()
    client = port.client()
    guest.until(OUT)
    client.close()
    guest.until(IN | HUP)
    assert [guest.read() for _ in range(3)] == [b"", b"", b""]
    port.client()
    guest.until(OUT)


def test_data_may_come_before_the_news_of_the_client(port: PortUnderTest) -> None:
    guest = port.process()
    for _ in range(300):  # how often it does differs with the machine
        guest.begin("first", PATIENCE)
        client = port.client()
        client.sendall(b"first")
        flags, data = guest.end()
        assert base64.b64decode(data) == b"first"
        if flags == IN | HUP:
            break
        client.close()
        guest.until(IN | HUP)
    else:
        pytest.fail("data never came first")


@pytest.mark.parametrize("count", [10, 4096])
def test_last_words_that_qemu_reads_at_once(port: PortUnderTest, count: int) -> None:
    guest = port.process()
    for _ in range(5):
        client = port.client()
        client.sendall(bytes(count))
        client.close()
        assert len(guest.expect(count)) == min(count, 64)
        guest.until(IN | HUP)


def test_longer_last_words_are_cut(port: PortUnderTest) -> None:
    guest = port.process()
    counts = []
    for _ in range(10):
        client = port.client()
        client.sendall(bytes(MANY))
        client.close()
        guest.expect(4096)
        counts.append(4096 + guest.drain(quiet=0.05, patient=True).length)
        guest.until(IN | HUP)
    assert min(counts) < MANY


def test_what_waits_in_the_socket_goes_with_its_client(port: PortUnderTest) -> None:
    guest = port.process()
    client = port.client()
    sent = send_until_full(client, 65536)
    client.close()
    drained = guest.drain()
    assert drained.why == "no client"
    assert 400_000 < drained.length <= 128 * 4096
    assert drained.length < sent
    assert drained.reads <= 128


def test_a_client_that_waits_for_an_answer_is_heard_whole(port: PortUnderTest) -> None:
    guest = port.process()
    client = port.client()
    client.sendall(bytes(MANY))
    guest.expect(MANY)
    guest.until(OUT)
    guest.write(b"!")
    assert receive(client, 1) == b"!"
    client.close()


def test_sent_before_the_guest_opens_the_port(port: PortUnderTest) -> None:
    client = port.client()
    client.sendall(b"early")
    guest = port.process()
    assert guest.expect(5) == b"early"

    guest.close()
    assert not hears(client, QUIET)  # not even an end
    sent = send_until_full(client, 65536)
    assert 200_000 < sent < 300_000
    guest.open()
    assert guest.drain().length == sent

    guest.close()
    client.sendall(b"sent while closed, then left")
    client.close()
    guest.open()
    assert guest.drain().length == 0


def test_a_replaced_client_leaves_no_boundary(port: PortUnderTest) -> None:
    guest = port.process()
    for number in range(20):
        first = port.client()
        first.sendall(b"A%d" % number)
        until_taken(first)
        first.close()
        second = port.client()
        second.sendall(b"B%d" % number)
        until_taken(second)
        both = b"A%dB%d" % (number, number)
        drained = guest.drain(len(both))
        assert (drained.head, drained.why) == (both, "count")  # no read gave 0
        second.close()
        guest.until(IN | HUP)


def test_an_answer_reaches_whoever_is_the_client_by_then(port: PortUnderTest) -> None:
    guest = port.process()
    first = port.client()
    first.sendall(b"request")
    assert guest.expect(7) == b"request"
    first.close()
    second = port.client()
    second.sendall(b"?")
    assert guest.expect(1) == b"?"
    guest.write_to_next(b"answer")
    assert receive(second, 6) == b"answer"


def test_one_client_is_served_and_two_wait(port: PortUnderTest) -> None:
    guest = port.process()
    first = port.client()
    guest.until(OUT)
    second = port.client()
    first.sendall(b"from 1")
    second.sendall(b"from 2")
    assert guest.drain().head == b"from 1"
    guest.write(b"to whom?")
    assert receive(first, 8) == b"to whom?"
    assert not hears(second, QUIET)
    assert [port.try_client() for _ in range(2)] == [True, False]
    first.close()
    assert guest.expect(6) == b"from 2"
    guest.write_to_next(b"to 2")
    assert receive(second, 4) == b"to 2"


def test_a_waiting_client_is_heard_although_it_has_left(port: PortUnderTest) -> None:
    guest = port.process()
    first = port.client()
    guest.until(OUT)
    zombie = port.client()
    zombie.sendall(b"carry this out")
    zombie.close()
    with pytest.raises(BlockingIOError):
        guest.read()
    first.close()
    assert guest.expect(14) == b"carry this out"
    guest.until(IN | HUP)


def test_half_a_close_is_a_whole_one(port: PortUnderTest) -> None:
    guest = port.process()
    client = port.client()
    client.sendall(b"request")
    client.shutdown(socket.SHUT_WR)
    assert guest.expect(7) == b"request"
    guest.until(IN | HUP)
    with pytest.raises(BlockingIOError):
        guest.write(b"answer")
    assert client.recv(10) == b""


# -- the guest's side


def test_a_second_open(port: PortUnderTest) -> None:
    guest, other = port.process(), port.new_process()
    with pytest.raises(OSError, match="busy") as refusal:
        other.open()
    assert refusal.value.errno == errno.EBUSY
    guest.close()
    other.open()
    with pytest.raises(OSError, match="busy"):
        guest.open()
    other.kill()
    guest.open()


def test_a_killed_reader_takes_what_was_delivered_with_it(port: PortUnderTest) -> None:
    old = port.process()
    client = port.client()
    client.sendall(b"0123456789" * 10)
    until_taken(client)
    assert old.read(40) == b"0123456789" * 4
    old.kill()
    new = port.process()
    with pytest.raises(BlockingIOError):
        new.read()
    client.sendall(b"the next message")
    assert new.expect(16) == b"the next message"


def test_a_reader_killed_in_a_long_message(port: PortUnderTest) -> None:
    """The next process begins in the middle of it: what was queued is lost, what waits in the socket is not."""
    old = port.process()
    client = port.client()
    sent = send_until_full(client, 65536)
    assert len(old.read(4096)) == 4096
    old.kill()
    drained = port.process().drain()
    assert drained.why == "silence"
    assert 0 < drained.length < sent - 400_000


def test_a_killed_writer_leaves_half_a_message(port: PortUnderTest) -> None:
    old = port.process()
    client = port.client()
    old.until(OUT)
    old.write(b"HALF A MESS")
    old.kill()
    port.process().write(b"NEW MESSAGE")
    assert receive(client, 22) == b"HALF A MESSNEW MESSAGE"
