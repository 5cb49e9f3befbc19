#!/bin/sh
# Installs the vsrpc guest daemon into this system, or into a mounted disk image, from an unpacked source tree (or any
# directory that holds vsrpc/ and guest/). Needs nothing but Python and its distribution packages. Running it again
# upgrades; a configuration that is already there is kept.
#
# Layout: /opt/vsrpc/releases/ID/{vsrpc,guest}, and /opt/vsrpc/current, a link that is switched by one rename, so that a
# guest that loses power in the middle still boots with a whole release: this daemon may be the only way in.
set -eu

usage() {
    cat <<'EOF'
usage: install-guest.sh [--root DIR] [--port NAME] [--uninstall]

  --root DIR    install into the system mounted at DIR (a disk image), start nothing
  --port NAME   name of the virtio-serial port (default test.vserial.0)
  --uninstall   remove everything but /etc/vsrpc

PYTHON names the interpreter of the guest to use (default python3).
EOF
}

die() {
    echo "install-guest.sh: $*" >&2
    exit 1
}

default_port=test.vserial.0
port=$default_port
root=
uninstall=no
while [ $# -gt 0 ]; do
    case $1 in
    --root | --port)
        [ $# -ge 2 ] || die "$1 needs a value; see --help"
        if [ "$1" = --root ]; then root=${2%/}; else port=$2; fi
        shift 2
        ;;
    --uninstall) uninstall=yes && shift ;;
    -h | --help) usage && exit 0 ;;
    *) usage >&2 && die "unknown argument: $1" ;;
    esac
done

case $port in
'' | *[!A-Za-z0-9._-]*) die "port name '$port': use letters, digits, '.', '_' and '-' only" ;;
esac
[ "$(id -u)" = 0 ] || die "must run as root (uid $(id -u) cannot write /opt and /etc); use sudo"
[ -z "$root" ] || [ -d "$root" ] || die "--root $root: no such directory; mount the image there first"

opt=$root/opt/vsrpc
etc=$root/etc/vsrpc
launcher=$root/usr/local/bin/vsrpc-guest
unit=$root/etc/systemd/system/vsrpc-guest.service
rule=$root/etc/udev/rules.d/60-vsrpc.rules

# A system whose init is systemd; never so for an image, whose files are only prepared.
live_systemd() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

if [ "$uninstall" = yes ]; then
    if live_systemd && [ -e "$unit" ]; then systemctl stop vsrpc-guest.service; fi
    rm -rf "$opt" "$launcher" "$unit" "$rule" "$root/var/lib/vsrpc-guest"
    if live_systemd; then systemctl daemon-reload && udevadm control --reload; fi
    echo "vsrpc guest daemon removed; $etc is kept"
    exit 0
fi

src=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
[ -d "$src/guest" ] || src=$(dirname -- "$src")
for part in vsrpc/__init__.py guest/__main__.py guest/config.yaml guest/systemd/vsrpc-guest.service; do
    [ -e "$src/$part" ] || die "$src/$part is missing; run this from an unpacked vsrpc source tree"
done

in_root() { if [ -n "$root" ]; then chroot "$root" "$@"; else "$@"; fi; }

python=$(in_root sh -c "command -v '${PYTHON:-python3}'") ||
    die "no ${PYTHON:-python3} in ${root:-this system}; install Python 3.8 or newer (package python3)"
in_root "$python" -c 'import sys; sys.exit(sys.version_info < (3, 8))' ||
    die "$python is older than 3.8; install a newer one and set PYTHON=/path/to/it"
# psutil complains about the missing /proc of a mounted image, and works.
missing=$(in_root "$python" -c '
import importlib
for module, package in ("google.protobuf", "protobuf"), ("yaml", "yaml"), ("psutil", "psutil"):
    try:
        importlib.import_module(module)
    except ImportError:
        print(end=" python3-" + package)
' 2>/dev/null) || die "$python does not run in ${root:-this system}"
[ -z "$missing" ] || die "$python lacks$missing; install them with the package manager (apt-get install$missing)"

umask 022
mkdir -p "$opt/releases" "$etc" "$root/usr/local/bin" "${unit%/*}" "${rule%/*}"
rm -rf "$opt"/releases/.new.* # of a run that was cut off
stage=$opt/releases/.new.$$
trap 'rm -rf "$stage"' EXIT
mkdir "$stage"
cp -R "$src/vsrpc" "$src/guest" "$stage"
rm -rf "$stage/vsrpc/codegen" # runs at build time only
find "$stage" -name __pycache__ -type d -prune -exec rm -rf {} +
id=$(cd "$stage" && find . -type f -exec sha256sum {} + | LC_ALL=C sort | sha256sum | cut -c1-16)
release=$opt/releases/$id
old=$(readlink "$opt/current" || true)
if [ ! -d "$release" ]; then
    # -d: tracebacks name the final path, not the staging one.
    in_root "$python" -m compileall -q -d "${release#"$root"}" "${stage#"$root"}" ||
        die "$python cannot compile the sources of $src; the tree is incomplete or too new for this Python"
    mv "$stage" "$release"
fi
sync # before the switch: after a crash the link must not lead to empty files
ln -s "releases/$id" "$opt/.current.$$"
mv -T "$opt/.current.$$" "$opt/current"

cat >"$launcher.$$" <<EOF
#!$python
import sys

sys.path[0] = "/opt/vsrpc/current"
from guest.__main__ import main

sys.exit(main())
EOF
chmod 755 "$launcher.$$"
mv "$launcher.$$" "$launcher"

sed "s/$default_port/$port/" "$src/guest/systemd/60-vsrpc.rules" >"$rule"
cp "$src/guest/systemd/vsrpc-guest.service" "$unit"
if [ ! -e "$etc/guest.yaml" ]; then
    sed "s|/dev/virtio-ports/$default_port|/dev/virtio-ports/$port|" "$src/guest/config.yaml" >"$etc/guest.yaml"
elif ! grep -q "/dev/virtio-ports/$port\$" "$etc/guest.yaml"; then
    echo "install-guest.sh: warning: $etc/guest.yaml was kept and does not name /dev/virtio-ports/$port;" \
        "set device.path in it" >&2
fi
sync

if live_systemd; then
    systemctl daemon-reload
    udevadm control --reload
    if [ -e "/dev/virtio-ports/$port" ]; then
        systemctl restart vsrpc-guest.service
        state="running on port $port"
    else
        state="waiting for port $port; add a virtio-serial port of that name to this VM"
    fi
elif [ -n "$root" ]; then
    state="starts with port $port when $root boots"
else
    state="this system does not run systemd: start $launcher --config $etc/guest.yaml yourself"
fi
# The previous release stays: without systemd the old daemon still runs from it.
for other in "$opt"/releases/*; do
    case $other in "$release" | "$opt/$old") ;; *) rm -rf "$other" ;; esac
done
echo "vsrpc guest daemon installed ($release): $state"
