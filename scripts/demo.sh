#!/bin/sh
# Shows the main job through the command line: on an embedded local guest, or with VM=1 on a real VM over its
# virtio-serial port.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
PATH=$(cd "$(dirname "$python")" && pwd):$PATH

if [ "${VM:-0}" = 1 ]; then
    echo "Booting a Debian guest under QEMU (the first time builds its image; a few minutes without KVM) ..."
    VIRTIO_SOCKET=$("$python" scripts/vm start --wait-daemon)
    service=systemd-journald
else
    VIRTIO_SOCKET=local:
    service=cron
fi
export VIRTIO_SOCKET
here=$(mktemp -d)
trap 'rm -rf "$here" /tmp/vsrpc-demo.bin' EXIT

show() {
    printf '\n$ %s\n' "$1"
    eval "$1"
}

cd "$here"
head -c 3000000 /dev/urandom > data.bin
echo "VIRTIO_SOCKET=$VIRTIO_SOCKET"
show 'vsrpc-host ping'
show 'vsrpc-host info'
show 'vsrpc-host status'
show 'vsrpc-host exec "echo hello from the guest && uname -sr"'
show 'vsrpc-host upload data.bin /tmp/vsrpc-demo.bin'
show 'vsrpc-host download /tmp/vsrpc-demo.bin copy.bin'
show 'cmp data.bin copy.bin && echo identical'
show 'vsrpc-host file-info /tmp/vsrpc-demo.bin'
show "vsrpc-host service $service status" ||
    echo "(a guest without systemd, or without $service, says so; try: make demo VM=1)"
printf '\nWhat the policy does not allow is refused:\n'
show 'vsrpc-host exec "ls; rm -rf /"' || true
if [ "$VIRTIO_SOCKET" != local: ]; then
    printf '\nThe VM runs on. Try: curl --unix-socket %s http://guest/api/v1/system/info\nStop it with: make vm-stop\n' \
        "$VIRTIO_SOCKET"
fi
