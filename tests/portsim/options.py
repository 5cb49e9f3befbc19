"""The sizes of a port, which are the kernel's and QEMU's, and what a test can make worse."""

from __future__ import annotations

from dataclasses import dataclass

# hw/char/virtio-serial-bus.c, virtser_port_device_plug: both queues of a port have 128 entries.
DESCRIPTORS = 128

# virtio_console.c: fill_queue offers pages to the host, port_fops_write takes 32 KiB for one descriptor.
PAGE = 4096
WRITE_MAX = 32768

# char-socket.c listens with a backlog of 1, for which Linux lets two clients wait (unix_recvq_full).
BACKLOG = 1


@dataclass(frozen=True)
class Options:
    """How unkind the port is, beyond what it always is. Times are in seconds."""

    seed: int = 0

    # From a client's coming or leaving until the guest knows of it (data is not delayed): this, and up to that more.
    news_delay: float = 0.0015
    news_jitter: float = 0.0

    host_read_max: int = PAGE  # bytes that QEMU reads from the client at once, so that the guest gets in one buffer
    host_read_delay: float = 0.0  # between two such reads
    output_delay: float = 0.0  # between two descriptors that QEMU takes from the guest

    guest_read_max: int = PAGE  # bytes that one buffer of a guest's read gets
    guest_write_max: int = WRITE_MAX  # bytes taken of one buffer of a guest's write
    zero_write_rate: float = 0.0  # share of the guest's writes that take nothing although the port is writable

    def __post_init__(self) -> None:
        for name, most in (("host_read_max", PAGE), ("guest_read_max", PAGE), ("guest_write_max", WRITE_MAX)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}, not 1 to {most}")
        if not 0 <= self.zero_write_rate < 1:
            raise ValueError(f"zero_write_rate is {self.zero_write_rate}, not 0 to less than 1")
