"""An open virtio-serial port in the guest: the four things that the kernel lets one do with it.

SerialPort is what serial.py needs of a port, and open_port() the real one. A test may give the listener another
`open_port`, whose ports behave like the kernel's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
from typing import Protocol, Sequence

# virtio_console.c, port_fops_write: one write takes at most 32 KiB, in one descriptor of 128. writev() makes one of
# each slice; 32 of them gain all that there is to gain.
WRITE_SLICE = 32768
MAX_WRITE_SLICES = 32
DESCRIPTORS = 128

# virtio_console.c: one buffer of the receive queue is a page; more than 64 a call gain nothing more.
READ_SLICE = 4096
MAX_READ_SLICES = 64


_MEMORY = "/run/vsrpc-guest"  # a file system that a reboot empties
_LINKS = "/dev/virtio-ports"
_DEVICES = "/dev"
_PORTS = "/sys/class/virtio-ports"
_DRIVER = "/sys/bus/virtio/drivers/virtio_console"


class SerialPort(Protocol):
    """An open port. One thread reads and another writes; it is closed when nobody uses it any more."""

    def fileno(self) -> int:
        """A descriptor on which an edge-triggered epoll sees an event (EPOLLIN or EPOLLHUP) whenever something changes:
        data or a client came, or the client left, or the port was unplugged."""

    def read_into(self, buffers: Sequence[memoryview]) -> int:
        """Bytes read; 0 while no client is there. Raises BlockingIOError when the client is silent, OSError (ENODEV)
        when the port was unplugged."""

    def write(self, buffers: Sequence[memoryview]) -> int:
        """Bytes taken, of at most MAX_WRITE_SLICES buffers of WRITE_SLICE; may be 0. Raises BlockingIOError when no
        client is there or the queue is full, OSError (ENODEV) when the port was unplugged."""

    def wait_readable(self, milliseconds: float | None, wake: int) -> int:
        """Wait until there is something to read, or no client, or the descriptor `wake` is readable: select.POLLIN and
        POLLHUP as they are then (no client: both); 0 where a client is silent."""

    def wait_writable(self, milliseconds: float) -> int:
        """Wait until the port takes output: select.POLLOUT, POLLHUP (at once) where no client is there, or 0 when
        neither came in time."""

    def remember(self, lost_output: int) -> None:
        """Keep a number for whoever opens the port of the same name after us, until the guest boots anew."""

    def recall(self) -> int:
        """The number that was kept; 0 where none was."""

    def close(self) -> None:
        """Give the port up."""


class DevicePort:
    """A character device of the kernel's virtio_console driver."""

    def __init__(self, fd: int, name: str) -> None:
        """`name`: the kernel's, of the device's number and the port's."""
        self._fd = fd
        self._memory = KeptNumber(f"{_MEMORY}/{name}.lost-output")
        self._readable = select.epoll()  # poll() costs more where the waiting has ended
        self._readable.register(fd, select.EPOLLIN)
        self._wake = -1

    def fileno(self) -> int:
        return self._fd

    def read_into(self, buffers: Sequence[memoryview]) -> int:
        return os.readv(self._fd, buffers)

    def write(self, buffers: Sequence[memoryview]) -> int:
        return os.writev(self._fd, buffers)

    def wait_readable(self, milliseconds: float | None, wake: int) -> int:
        if wake != self._wake:
            self._readable.register(wake, select.EPOLLIN)
            self._wake = wake
        for fd, flags in self._readable.poll(None if milliseconds is None else milliseconds / 1000):
            if fd == self._fd:
                return flags
        return 0

    def wait_writable(self, milliseconds: float) -> int:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return dict(poll.poll(milliseconds)).get(self._fd, 0)

    def remember(self, lost_output: int) -> None:
        self._memory.set(lost_output)

    def recall(self) -> int:
        return self._memory.get()

    def close(self) -> None:
        self._readable.close()
        os.close(self._fd)
        self._memory.close()


class KeptNumber:
    """A number in a file, for a daemon that is started again. It is written in place, in one piece of always the same
    size, so that a daemon that is killed leaves it whole; and no write costs more than that one, since it is made while
    somebody waits. Where nothing can be kept, nothing is."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1

    def set(self, number: int) -> None:
        """Keep it."""
        with contextlib.suppress(OSError):
            if self._fd < 0:
                os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
                self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.pwrite(self._fd, b"%-10d" % number, 0)

    def get(self) -> int:
        """What was kept; 0 where nothing was."""
        try:
            with open(self._path, encoding="ascii") as file:
                return int(file.read())
        except (OSError, ValueError):
            return 0

    def close(self) -> None:
        """It stays in its file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def rebind_driver(path: str) -> None:
    """Unbind virtio_console from the device of the port at `path`, and bind it again: all ports of that device go, and
    come back as new. Nobody may have the port open. Raises OSError."""
    port = os.path.basename(os.path.realpath(device_of(path)))
    device = os.path.basename(os.path.realpath(f"{_PORTS}/{port}/device"))
    for action in ("unbind", "bind"):
        with open(f"{_DRIVER}/{action}", "w", encoding="ascii") as file:
            file.write(device)


def device_of(path: str) -> str:
    """The device of a port that is given by udev's link; any other path is itself.

    udev makes and changes links up to a tenth of a second after the kernel its devices (measured on Debian 12), and
    somebody may wait for the port. Where there is no udev, there never is a link.
    """
    directory, name = os.path.split(path)
    if directory == _LINKS and not os.path.exists(path):
        with contextlib.suppress(OSError):
            for device in os.listdir(_PORTS):
                with contextlib.suppress(OSError), open(f"{_PORTS}/{device}/name", encoding="utf-8") as file:
                    if file.read().rstrip("\n") == name:
                        return f"{_DEVICES}/{device}"
    return path


def open_port(path: str) -> DevicePort:
    """Open the port at `path`. Raises OSError: ENOENT, ENXIO, ENODEV where it is not there, EBUSY where another process
    has it open, ENOTTY for what is no port."""
    path = device_of(path)
    if not stat.S_ISCHR(os.stat(path).st_mode):
        raise OSError(errno.ENOTTY, "not a character device, so not a virtio-serial port", path)
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with select.epoll() as probe:
        try:
            probe.register(fd, select.EPOLLIN)
        except PermissionError:  # epoll_ctl(2): EPERM, a file that cannot be waited for
            os.close(fd)
            raise OSError(errno.ENOTTY, "not a virtio-serial port: it cannot be waited for", path) from None
    return DevicePort(fd, os.path.basename(os.path.realpath(path)))
