#!/bin/sh
# Installs the vsrpc guest daemon into this system, or into a mounted disk image, from where it lies: an unpacked guest
# bundle, where it is called install.sh, or a source tree (any directory that holds vsrpc/ and guest/). Running it again
# upgrades; a configuration that is already there is kept. A release that does not start is rolled back.
#
# Layout: /opt/vsrpc/releases/ID/{bin,vsrpc,guest}, and /opt/vsrpc/current, a link that is switched by one rename, so that
# a guest that loses power in the middle still boots with a whole release: this daemon may be the only way in.
#
# A bundle has a vendor/ directory with the packages that the daemon needs. It then sees these and the standard library
# only (python -I -S): the same code runs in every guest, and no change of the guest's own packages can break it. From a
# source tree it uses the guest's packages.
#
# All is done by functions that are called at the end: a script that was cut off does nothing.
set -eu

usage() {
    cat <<'END'
usage: install.sh [--root DIR] [--port NAME] [--uninstall]

  --root DIR    install into the system mounted at DIR (a disk image), start nothing
  --port NAME   name of the virtio-serial port (default test.vserial.0), where there is no configuration yet
  --uninstall   remove everything but /etc/vsrpc; the same as /opt/vsrpc/current/uninstall.sh

PYTHON names the interpreter of the guest to use (default python3, or the newest python3.N if that is too old).
END
}

program=${0##*/}
default_port=test.vserial.0
health_seconds=60 # a slow, emulated guest needs ten

die() {
    echo "$program: $*" >&2
    exit 1
}

unchanged() { die "$*; nothing was changed"; }

read_arguments() {
    port=
    root=
    uninstall=no
    [ "$program" != uninstall.sh ] || uninstall=yes
    while [ $# -gt 0 ]; do
        case $1 in
        --root | --port)
            [ $# -ge 2 ] || die "$1 needs a value; see --help"
            if [ "$1" = --root ]; then root=${2%/}; else port=$2; fi
            case $1$port in
            --port | --port*[!A-Za-z0-9._-]*)
                die "port name '$port': use letters, digits, '.', '_' and '-' only"
                ;;
            esac
            shift 2
            ;;
        --uninstall) uninstall=yes && shift ;;
        -h | --help) usage && exit 0 ;;
        *) usage >&2 && die "unknown argument: $1" ;;
        esac
    done
    [ "$(id -u)" = 0 ] || die "must run as root (uid $(id -u) cannot write /opt and /etc); use sudo"
    [ -z "$root" ] || [ -d "$root" ] || die "--root $root: no such directory; mount the image there first"
    opt=$root/opt/vsrpc
    etc=$root/etc/vsrpc
    config=$etc/guest.yaml
    launcher=$root/usr/local/bin/vsrpc-guest
    unit=$root/etc/systemd/system/vsrpc-guest.service
    jobs_unit=$root/etc/systemd/system/vsrpc-jobs.service
    rule=$root/etc/udev/rules.d/60-vsrpc.rules
}

# A system whose init is systemd; never so for an image, whose files are only prepared.
live_systemd() { [ -z "$root" ] && [ -d /run/systemd/system ] && command -v systemctl >/dev/null; }

in_root() { if [ -n "$root" ]; then chroot "$root" "$@"; else "$@"; fi; }

# A path as the installed system sees it.
inside() { echo "${1#"$root"}"; }

uninstall() {
    if live_systemd && [ -e "$unit" ]; then systemctl stop vsrpc-guest.service; fi
    if live_systemd && [ -e "$jobs_unit" ]; then systemctl stop vsrpc-jobs.service; fi
    rm -rf "$opt" "$launcher" "$unit" "$jobs_unit" "$rule" "$root/var/lib/vsrpc-guest"
    if live_systemd; then systemctl daemon-reload && udevadm control --reload; fi
    echo "vsrpc guest daemon removed; $etc is kept"
}

# -- before anything is changed

find_source() {
    src=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
    if [ "$program" = install.sh ]; then
        again="copy vsrpc-guest-*.tar.gz once more, check it with sha256sum, and unpack it into an empty directory"
        [ -s "$src/SHA256SUMS" ] || unchanged "the bundle in $src is incomplete (SHA256SUMS is missing): $again"
        bad=$(cd "$src" && LC_ALL=C sha256sum -c SHA256SUMS 2>&1 | grep -v ': OK$' | head -n 3) || true
        [ -z "$bad" ] || unchanged "the bundle in $src is incomplete or damaged: $again
$bad"
    fi
    [ -d "$src/guest" ] || src=$(dirname -- "$src")
    for part in vsrpc/__init__.py guest/__main__.py guest/config.yaml guest/systemd/vsrpc-guest.service; do
        [ -e "$src/$part" ] || die "$src/$part is missing; run this from an unpacked vsrpc source tree or guest bundle"
    done
    flags=
    parts="vsrpc guest"
    if [ -d "$src/vendor" ]; then flags=-IS && parts="$parts vendor"; fi
}

find_python() { # find_python NAME...: the first that is new enough
    seen=
    for name; do
        # shellcheck disable=SC2016  # the inner shell's
        python=$(in_root sh -c 'command -v "$1"' sh "$name") || continue
        # shellcheck disable=SC2016  # Python's, not the shell's
        if version=$(in_root "$python" -IS -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null); then
            if in_root "$python" -IS -c 'import sys; sys.exit(sys.version_info < (3, 8))'; then
                # What it really is: a version manager's shim means another one in another directory. One that was
                # named by PYTHON may be a wrapper that sets what it needs.
                [ -n "${PYTHON:-}" ] || python=$(in_root "$python" -IS -c 'import sys; print(sys.executable)')
                return
            fi
            seen="${seen:+$seen, }$python is $version"
        else
            seen="${seen:+$seen, }$python does not run"
        fi
    done
    unchanged "Python 3.8 or newer is needed in ${root:-this system} (${seen:-no $1 there}); install one (package" \
        "python3), or name it by PYTHON=/path/to/it"
}

check_packages() { # only where they are the guest's
    [ -z "$flags" ] || return 0
    missing=$(in_root "$python" -c '
import importlib
for module, package in ("google.protobuf", "protobuf"), ("yaml", "yaml"):
    try:
        importlib.import_module(module)
    except ImportError:
        print(end=" python3-" + package)
') || unchanged "$python does not run in ${root:-this system}"
    [ -z "$missing" ] || unchanged "$python lacks$missing; install them with the package manager (apt-get" \
        "install$missing), or use the guest bundle, which needs none"
}

check_place() { # check_place DIR KIB: whether files of so many KiB can be put there
    place=$1
    while [ ! -e "$place" ]; do place=$(dirname -- "$place"); done
    [ -d "$place" ] || unchanged "$place is not a directory, so $1 cannot be made; move it away"
    [ -w "$place" ] || unchanged "$place cannot be written, is its file system read-only? Make it writable (mount -o" \
        "remount,rw ...), or install into the disk image with --root"
    free=$(df -Pk "$place" | awk 'NR == 2 { print $4 }')
    [ "$free" -ge "$2" ] || unchanged "$place has $free KiB free, and $2 KiB are needed; make room there"
}

check_system() {
    [ ! -e "$root/usr/bin/vsrpc-guest" ] || unchanged "vsrpc-guest is installed as a package (/usr/bin/vsrpc-guest):" \
        "upgrade that, or remove it first (apt-get remove vsrpc-guest)"
    if [ -n "${PYTHON:-}" ]; then
        find_python "$PYTHON"
    else
        find_python python3 python3.14 python3.13 python3.12 python3.11 python3.10 python3.9 python3.8
    fi
    check_packages
    # The sources, as much again twice for what is compiled of them, and some room to breathe.
    # shellcheck disable=SC2086  # words
    check_place "$opt" "$(cd "$src" && du -sk $parts | awk '{ sum += $1 } END { print 3 * sum + 1024 }')"
    for place in "$etc" "${launcher%/*}" "${unit%/*}" "${rule%/*}"; do check_place "$place" 64; done
}

# -- the release, beside those that are there

prepare() {
    umask 022
    trap 'rm -rf "$opt"/releases/.new.$$ "$opt"/.old.$$; rmdir "$opt/releases" "$opt" 2>/dev/null || true' EXIT
    mkdir -p "$opt/releases"
    rm -rf "$opt"/releases/.new.* "$opt"/.old.* # of a run that was cut off
    stage=$opt/releases/.new.$$
    mkdir "$stage" "$stage/bin"
    for part in $parts; do cp -R "$src/$part" "$stage"; done
    cp "$0" "$stage/uninstall.sh"
    rm -rf "$stage/vsrpc/codegen" # runs at build time only
    find "$stage" -name __pycache__ -type d -prune -exec rm -rf {} +
    cat >"$stage/bin/vsrpc-guest" <<END
#!$python${flags:+ $flags}
import os
import sys

# The release itself, not what "current" leads to: after an upgrade this process goes on with its own files.
release = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
sys.path[:0] = [release, os.path.join(release, "vendor")]
from guest.__main__ import main

sys.exit(main())
END
    chmod 755 "$stage/bin/vsrpc-guest"
    id=$(cd "$stage" && find . -type f -exec sha256sum {} + | LC_ALL=C sort | sha256sum | cut -c1-16)
    release=$opt/releases/$id
    # -d: tracebacks name the final path, not the staging one.
    in_root "$python" -IS -m compileall -q -d "$(inside "$release")" "$(inside "$stage")" >&2 ||
        unchanged "$python cannot compile the sources of $src; the tree is incomplete or too new for this Python"
    # shellcheck disable=SC2086  # none or one word
    said=$(in_root "$python" $flags "$(inside "$stage")/bin/vsrpc-guest" --version 2>&1) ||
        unchanged "the new release does not run with $python: $(echo "$said" | tail -n 1)"
    check_config
    if [ ! -d "$release" ]; then mv "$stage" "$release"; fi
}

check_config() { # the new release must read the configuration that it will find; also finds its port
    check=$config
    [ -e "$config" ] || check=$stage/guest/config.yaml
    # shellcheck disable=SC2086,SC2016
    device=$(in_root "$python" $flags -c '
import sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/vendor"]
from guest import config
try:
    print(config.load(sys.argv[2]).device.path)
except config.ConfigError as failure:
    sys.exit(str(failure))
' "$(inside "$stage")" "$(inside "$check")" 2>"$stage/.errors") ||
        unchanged "the new release does not accept the configuration: $(cat "$stage/.errors")"
    rm "$stage/.errors"
    if [ ! -e "$config" ]; then
        device=/dev/virtio-ports/${port:-$default_port}
    elif [ "$device" != "/dev/virtio-ports/${port:-${device##*/}}" ]; then
        echo "$program: warning: $config was kept and names the port $device, not $port; set device.path in it" >&2
    fi
}

# -- the switch

point_to() { # point_to TARGET: switch "current" by one rename
    ln -s "$1" "$opt/.current.$$"
    mv -T "$opt/.current.$$" "$opt/current"
}

activate() {
    old=$(readlink "$opt/current" || true)
    saved=$opt/.old.$$
    mkdir "$saved"
    for file in "$launcher" "$unit" "$jobs_unit" "$rule"; do
        mkdir -p "${file%/*}"
        if [ -e "$file" ] || [ -L "$file" ]; then cp -P "$file" "$saved"; fi
    done
    new_config=no
    if [ ! -e "$config" ]; then
        new_config=yes
        mkdir -p "$etc"
        sed "s|/dev/virtio-ports/$default_port|$device|" "$release/guest/config.yaml" >"$config.$$"
        mv "$config.$$" "$config"
    fi
    sync # before the switch: after a crash the link must not lead to empty files
    point_to "releases/$id"
    cp "$release/guest/systemd/vsrpc-guest.service" "$unit"
    cp "$release/guest/systemd/vsrpc-jobs.service" "$jobs_unit"
    cp "$release/guest/systemd/60-vsrpc.rules" "$rule"
    ln -s /opt/vsrpc/current/bin/vsrpc-guest "$launcher.$$"
    mv -T "$launcher.$$" "$launcher"
    sync
}

roll_back() {
    for file in "$launcher" "$unit" "$jobs_unit" "$rule"; do
        rm -f "$file"
        kept=$saved/${file##*/}
        if [ -e "$kept" ] || [ -L "$kept" ]; then mv "$kept" "$file"; fi
    done
    if [ "$new_config" = yes ]; then rm -f "$config" && rmdir "$etc" 2>/dev/null || true; fi
    if [ -n "$old" ]; then
        point_to "$old"
        reload
        systemctl restart vsrpc-guest.service || true
    else
        systemctl stop vsrpc-guest.service || true
        rm -f "$opt/current"
        reload
    fi
    if [ "$old" != "releases/$id" ]; then rm -rf "$release"; fi
}

reload() {
    systemctl daemon-reload
    udevadm control --reload
}

main_pid() { systemctl show -p MainPID vsrpc-guest.service | cut -d= -f2; }

serves() { # whether the daemon has its port open, before it ends or time is up
    first=
    tries=$health_seconds
    while [ "$tries" -gt 0 ]; do
        pid=$(main_pid)
        if [ -n "$first" ] && [ "$pid" != "$first" ]; then return 1; fi
        if [ "$pid" != 0 ]; then
            first=$pid
            # shellcheck disable=SC2010  # links, whose targets only ls shows without one process each
            if ls -l "/proc/$pid/fd" 2>/dev/null | grep -q -- "-> $(readlink -f "$device")\$"; then return 0; fi
        fi
        sleep 1
        tries=$((tries - 1))
    done
    return 1
}

start() { # sets state
    if ! live_systemd; then
        state="starts with port $device when $root boots"
        [ -n "$root" ] || state="no systemd runs here. Start it now with
  setsid /usr/local/bin/vsrpc-guest --config /etc/vsrpc/guest.yaml </dev/null >>/var/log/vsrpc-guest.log 2>&1 &
and at every boot by the init of this system, which should also restart it (inittab: respawn)"
        return
    fi
    reload
    state="waiting for port $device; add a virtio-serial port of that name to this VM"
    if [ -e "$device" ]; then
        trap '' HUP PIPE # whoever called may come through the daemon that is restarted now
        systemctl restart vsrpc-guest.service || true
        if ! serves; then
            log=$(journalctl -u vsrpc-guest.service -n 5 --no-pager -o cat 2>/dev/null || true)
            roll_back
            [ -n "$old" ] && now="the previous one is back" || now="nothing is installed"
            die "the new release does not serve $device, $now:
$log"
        fi
        state="running on port $device"
    else
        systemctl try-restart vsrpc-guest.service # if it waits for the port
    fi
}

remove_old() { # but the previous release, from which without systemd the old daemon still runs
    for other in "$opt"/releases/*; do
        case $other in "$release" | "$opt/$old") ;; *) rm -rf "$other" ;; esac
    done
}

main() {
    read_arguments "$@"
    # A child of the daemon would be killed by the restart, before it knows whether to roll back.
    if live_systemd && grep -q '/vsrpc-guest\.service$' /proc/self/cgroup && command -v systemd-run >/dev/null; then
        exec systemd-run --quiet --pipe --wait --collect ${PYTHON:+--setenv=PYTHON="$PYTHON"} sh \
            "$(readlink -f "$0")" "$@"
    fi
    if [ "$uninstall" = yes ]; then uninstall && exit 0; fi
    find_source
    check_system
    prepare
    activate
    start
    remove_old
    echo "vsrpc guest daemon installed ($(inside "$release")): $state"
}

main "$@"
