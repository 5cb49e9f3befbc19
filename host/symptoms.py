"""What the symptoms of a way that does not work mean, and the way out of each: the texts of host/doctor.py."""

from __future__ import annotations

from host.unix_socket import Fault
from vsrpc.client_session import Attempt, NotAtBoundary
from vsrpc.hello import WrongPeer
from vsrpc.transports import TransportClosed

_FIND_SOCKET = (
    "libvirt: virsh dumpxml DOMAIN | grep -A3 \"<channel type='unix'>\" (it chooses a new path at every start of the "
    "domain); QEMU: the path of the port's -chardev socket"
)

SOCKET = {
    Fault.MISSING: f"no such socket: start the VM, or find the port's present socket ({_FIND_SOCKET})",
    Fault.WRONG_KIND: f"this path is no socket: give that of the port's socket ({_FIND_SOCKET})",
    Fault.FORBIDDEN: "this user may not open the socket: run as root, or as the user that QEMU runs as",
}

REFUSED = (
    "nobody listens on this socket, it was left behind: QEMU has ended or was restarted; start the VM, or find the "
    f"port's present socket ({_FIND_SOCKET})"
)

HANGS_UP = (
    "whoever listens there hangs up before it answers: it is no virtio-serial port of a VM, or the VM is about to end; "
    f"check the path ({_FIND_SOCKET})"
)

HELD = (
    "the port is held by {0}, a client that takes no turns: end it, or wait until it ends (if it is a vsrpc client, it "
    "has another lock directory: let connection.lock_dir, or VSRPC_LOCK_DIR, be the same for all)"
)

SILENT_SUMMARY = (
    "nobody answers: the guest has not booted, or its daemon does not run there, does not have this port, or cannot "
    "write to it; the lines above say how to tell (vsrpc-host wait waits until somebody answers)"
)

_DAEMON = (
    "the daemon does not run: in the guest, systemctl status vsrpc-guest, and journalctl -u vsrpc-guest for why; "
    "start it with systemctl start vsrpc-guest"
)
_BOOTING = (
    "the guest still boots, hangs or is paused: virsh domstate DOMAIN and virsh console DOMAIN, or `info status` in "
    "QEMU's monitor; resume it, or wait"
)

SILENT = (
    _BOOTING,
    _DAEMON,
    "the daemon serves another port: in the guest, compare ls /dev/virtio-ports with device.path in "
    "/etc/vsrpc/guest.yaml; on the host, the port's name at this socket (virsh dumpxml DOMAIN)",
    "another program in the guest has the port open: there, as root, find /proc/[0-9]*/fd -lname '/dev/vport*' names "
    "its process; the daemon's log says that it is in use by another process",
    "the port's output is dead, all its descriptors lost to clients that were killed in the middle of a reply: the "
    "daemon runs, and its log (journalctl -u vsrpc-guest) says how many may be lost; bind its driver anew in the guest "
    "(in /sys/bus/virtio/drivers/virtio_console, echo the name virtioN that is there to unbind, then to bind; that "
    "ends the device's other ports too, so restart qemu-guest-agent after it), or reboot the guest",
)

SILENT_VSOCK = (_BOOTING, _DAEMON)

UNKNOWN_CLIENTS = (
    "another client holds the port and takes no turns: who is connected cannot be found out here; as root on the host, "
    "ss -xp | grep PATH, or fuser -v PATH"
)

POLICY = (
    "the guest works, and its policy refuses commands as harmless as {0!r}: that is no defect; to allow them, list "
    "them in security.allowed_commands of the guest's configuration (/etc/vsrpc/guest.yaml), and systemctl restart "
    "vsrpc-guest there"
)

NO_KEY = "the guest takes only signed requests, and there is no key to sign with"

OUTPUT_LOST = (
    "{0}: at {1} it falls silent; before that, let the daemon bind the port's driver anew (device.allow_rebind in "
    "/etc/vsrpc/guest.yaml), or reboot the guest"
)

# How those begin whose sockets are easily taken for a port's.
_STRANGERS = (
    (b'{"QMP"', "QEMU's monitor (QMP)"),
    (b"QEMU ", "QEMU's monitor"),
    (b'{"return"', "QEMU's guest agent"),
    (b'{"error"', "QEMU's guest agent or monitor"),
    (b"SSH-", "an SSH server"),
    (b"RFB ", "a VNC server"),
    (
        b"HTTP/",
        "a web server, or a vsrpc daemon that is too old for this client: then install a newer vsrpc in the guest",
    ),
)


def of_stranger(attempt: Attempt, message: str) -> tuple[str, str]:
    """The verdict and the way out where the other end is none that we can talk to; `message` is what failed."""
    if attempt.failure is WrongPeer:
        return "other_version", f"a vsrpc daemon answers, and {attempt.message}"
    for beginning, who in _STRANGERS:
        if beginning in attempt.heard:
            return "other_protocol", f"what answers looks like {who}; check that the path is that of the vsrpc port"
    return "other_protocol", message


def of_attempt(attempt: Attempt) -> str:
    """What came of an attempt that failed."""
    if attempt.failure is NotAtBoundary:
        return "the daemon had only just opened the port, and asked to begin anew"
    if attempt.heard:
        return f"{shown(attempt.heard)} came instead of an answer, in {attempt.seconds:.1f} s"
    if attempt.failure is TransportClosed:
        return "the connection was closed"
    return f"no answer in {attempt.seconds:.1f} s"


def shown(heard: bytes) -> str:
    """What was heard, for a message."""
    return repr(heard[:40].decode("latin-1")) + ("…" if len(heard) > 40 else "")
