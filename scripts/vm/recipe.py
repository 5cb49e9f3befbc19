"""What the guest image is made of, as plain data. Any change here makes a new image."""

from __future__ import annotations

SUITE = "bookworm"
DISK_SIZE = 2 << 30  # bytes, sparse

PACKAGES = (
    # a system
    "systemd-sysv",
    "udev",
    "dbus",
    "kmod",
    "linux-image-cloud-amd64",
    "busybox-static",  # all of the initramfs
    # what the vsrpc daemon needs
    "python3",
    "python3-protobuf",
    "python3-yaml",
    # the way in for tests that must not depend on vsrpc, and a peer to compare it with
    "qemu-guest-agent",
    "openssh-server",
    # commands of the daemon's default allow list, and curl for clients inside the guest
    "procps",
    "iproute2",
    "iputils-ping",
    "net-tools",
    "file",
    "curl",
)

# Loaded by the initramfs, in the order their dependencies ask for; the file system is built into the kernel.
MODULES = ("virtio_pci", "virtio_blk", "virtio_console")

# Units that cost boot time and do nothing for a throw-away machine.
MASKED = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "systemd-tmpfiles-clean.timer",
    "systemd-networkd-wait-online.service",
    "systemd-binfmt.service",
    "proc-sys-fs-binfmt_misc.automount",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-sysusers.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-modules-load.service",
    "systemd-remount-fs.service",
    "modprobe@configfs.service",
    "modprobe@dm_mod.service",
    "modprobe@drm.service",
    "modprobe@efi_pstore.service",
    "modprobe@fuse.service",
    "modprobe@loop.service",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-logind.service",
    "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path",
)
# Programs that systemd runs at each start to make units of things that this guest has none of.
MASKED_GENERATORS = (
    "systemd-bless-boot-generator",
    "systemd-cryptsetup-generator",
    "systemd-gpt-auto-generator",
    "systemd-hibernate-resume-generator",
    "systemd-integritysetup-generator",
    "systemd-rc-local-generator",
    "systemd-system-update-generator",
    "systemd-sysv-generator",
    "systemd-veritysetup-generator",
)
# Started by the kernel command line where the VM has a network.
DISABLED = ("ssh.service", "systemd-networkd.service", "getty@tty1.service")

FILES = {
    "etc/hostname": "vsrpc-guest\n",
    "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 vsrpc-guest\n",
    "etc/fstab": "/dev/vda / ext4 rw,noatime 0 1\n",
    "etc/resolv.conf": "nameserver 10.0.2.3\n",  # QEMU's user network
    "etc/systemd/network/50-dhcp.network": "[Match]\nName=e*\n\n[Network]\nDHCP=yes\n",
    "etc/systemd/system/serial-getty@ttyS0.service.d/autologin.conf": (
        "[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --noclear --keep-baud 115200 %I vt220\n"
    ),
}
