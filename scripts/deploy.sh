#!/bin/sh
# Puts vsrpc on machines that SSH reaches: the guest side into a guest, the host side on a hypervisor. The machines need no
# network but that: everything comes from here, the guest bundle (make dist) and this source tree. Every step can be
# repeated; a step that finds its work done says so. What does not start is taken back.
#
# All is done by functions that are called at the end: a script that was cut off does nothing.
set -eu

usage() {
    cat <<'END'
usage: deploy.sh [OPTIONS] STEP...

steps:
  check    SSH, rights, Python, tools and space on each machine; changes nothing
  sync     copy what is to be installed, checked with SHA-256
  deps     see that it has all it needs there: the packages in the bundle load with the machine's Python
  start    guest: install, and start the daemon; host: make it the vsrpc-host that is run; else go back
  test     run what is installed; with --socket, call the guest from the host
  all      these, in this order

options, and the environment variables that stand for them:
  --guest-ip ADDRESS   GUEST_IP     the guest, for its side
  --host-ip ADDRESS    HOST_IP      the hypervisor, for the host side
  --remote-dir DIR     REMOTE_DIR   where files lie on either (default /var/lib/vsrpc)
  --user NAME          REMOTE_USER  who logs in (default root; others need sudo without a password)
  --port NUMBER        SSH_PORT     port of sshd (default: ssh's own)
  --identity FILE      SSH_IDENTITY private key (default: ssh's own)
  -o OPTION                         an option for ssh, as ssh takes it; can be repeated
  --bundle FILE        BUNDLE       the guest bundle (default dist/vsrpc-guest-VERSION.tar.gz of this tree)
  --port-name NAME                  the virtio-serial port that the guest serves (default: as configured there)
  --socket PATH                     test: the port's socket on the hypervisor
  --dry-run                         print every command for the machines, run none
  -h, --help

exit codes: 0 all done; 1 a step failed, and says why; 2 wrong command line; 3 no SSH connection
END
}

say() { echo "deploy: $*"; }
die() {
    code=1
    case $1 in [0-9]) code=$1 && shift ;; esac
    echo "deploy: $*" >&2
    exit "$code"
}

quoted() { # for a shell
    case $1 in
    '' | *[!A-Za-z0-9@%+=:,./_-]*) printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")" ;;
    *) printf '%s' "$1" ;;
    esac
}

read_arguments() {
    host_ip=${HOST_IP:-} guest_ip=${GUEST_IP:-} remote_dir=${REMOTE_DIR:-/var/lib/vsrpc} user=${REMOTE_USER:-root}
    ssh_port=${SSH_PORT:-} identity=${SSH_IDENTITY:-} bundle=${BUNDLE:-} port_name='' socket='' dry=no steps='' ssh_options=''
    while [ $# -gt 0 ]; do
        case $1 in
        --host-ip | --guest-ip | --remote-dir | --user | --port | --identity | --bundle | --port-name | --socket | -o)
            [ $# -ge 2 ] || die 2 "$1 needs a value; see --help"
            case $1 in
            --host-ip) host_ip=$2 ;;
            --guest-ip) guest_ip=$2 ;;
            --remote-dir) remote_dir=$2 ;;
            --user) user=$2 ;;
            --port) ssh_port=$2 ;;
            --identity) identity=$2 ;;
            --bundle) bundle=$2 ;;
            --port-name) port_name=$2 ;;
            --socket) socket=$2 ;;
            -o) ssh_options="$ssh_options -o $(quoted "$2")" ;;
            esac
            shift
            ;;
        --dry-run) dry=yes ;;
        -h | --help) usage && exit 0 ;;
        check | sync | deps | start | test) steps="$steps $1" ;;
        all) steps="$steps check sync deps start test" ;;
        *) die 2 "unknown argument: $1; see --help" ;;
        esac
        shift
    done
    [ -n "$steps" ] || die 2 "no step is given: check, sync, deps, start, test or all; see --help"
    [ -n "$host_ip$guest_ip" ] || die 2 "no machine is given: --guest-ip for the guest side, --host-ip for the host side"
    for address in "$host_ip" "$guest_ip" "$user"; do
        case $address in -* | *[!A-Za-z0-9._:%@-]*) die 2 "'$address' is no address or user name" ;; esac
    done
    case $remote_dir in /*[!/]*) ;; *) die 2 "--remote-dir '$remote_dir' is no absolute path below /" ;; esac
    case $ssh_port in *[!0-9]*) die 2 "--port '$ssh_port' is no number; the virtio-serial port is --port-name" ;; esac
    case $port_name in *[!A-Za-z0-9._-]*) die 2 "--port-name '$port_name': use letters, digits, '.', '_' and '-' only" ;; esac
    [ -z "$identity" ] || [ -r "$identity" ] || die 2 "--identity $identity: no such file, or it cannot be read"
    [ -z "$socket" ] || [ -n "$host_ip" ] || die 2 "--socket is for the test on the hypervisor: give --host-ip too"
}

# -- what is installed: an archive for each side, named by its content

tree_version() { sed -n 's/^__version__ = "\(.*\)"/\1/p' "$1/vsrpc/_version.py"; }

find_bundle() {
    tree=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
    if [ -z "$bundle" ]; then
        bundle=$tree/dist/vsrpc-guest-$(tree_version "$tree").tar.gz
        [ -e "$bundle" ] || die 2 "no guest bundle $bundle: run 'make dist', or give one by --bundle"
    fi
    [ -r "$bundle" ] || die 2 "--bundle $bundle: no such file, or it cannot be read"
    if ! tar -xzf "$bundle" -C "$work" 2>"$work/errors" || ! [ -s "$(echo "$work"/vsrpc-guest-*/install.sh)" ]; then
        die 2 "$bundle is no guest bundle, or only a part of one $(head -n 1 "$work/errors")"
    fi
    unpacked=$(echo "$work"/vsrpc-guest-*)
    version=$(tree_version "$unpacked")
}

make_archives() {
    if [ -n "$guest_ip" ]; then
        cp "$bundle" "$work/guest.tar.gz"
        echo "$version-$(sha256sum "$bundle" | cut -c1-16)" >"$work/guest.id"
    fi
    if [ -n "$host_ip" ]; then
        [ -d "$tree/host" ] || die 2 "$tree/host is missing: for the host side run this from a source tree"
        [ "$(tree_version "$tree")" = "$version" ] ||
            die 2 "this tree is version $(tree_version "$tree"), the bundle $version: both sides would not be the same"
        mkdir "$work/host"
        cp -R "$unpacked/vsrpc" "$unpacked/vendor" "$tree/host" "$work/host"
        find "$work/host" -name __pycache__ -type d -prune -exec rm -rf {} +
        content=$(cd "$work/host" && find . -type f -exec sha256sum {} + | LC_ALL=C sort | sha256sum | cut -c1-16)
        echo "$version-$content" >"$work/host.id"
        tar -czf "$work/host.tar.gz" -C "$work" host
    fi
}

# -- SSH

target() { # target SIDE: sets `address` and `ssh`, the command line up to the remote command
    [ "$1" = guest ] && address=$guest_ip || address=$host_ip
    ssh="ssh -o ConnectTimeout=10 -o ControlMaster=auto -o ControlPersist=60 -o ControlPath=$(quoted "$work/ssh.$1")"
    [ -z "$ssh_port" ] || ssh="$ssh -p $ssh_port"
    [ -z "$identity" ] || ssh="$ssh -i $(quoted "$identity")"
    ssh="$ssh$ssh_options $(quoted "$user@$address")"
}

remote() { # remote SIDE COMMAND [ARG...]: run it as root there, standard input and all
    target "$1"
    shift
    words=
    [ "$user" = root ] || words='sudo -n'
    for word; do words="$words $(quoted "$word")"; done
    if [ "$dry" = yes ]; then
        echo "+ $ssh $(quoted "${words# }")"
        [ -t 0 ] || sed 's/^/    /'
        return
    fi
    eval "$ssh" '"$words"'
}

connect() { # the first connection, whose failures have many reasons
    target "$1"
    if [ "$dry" = yes ]; then
        echo "+ $ssh true"
        return
    fi
    eval "$ssh" true </dev/null 2>"$work/errors" && return
    cause=$(grep -v '^\*\*\|^Warning' "$work/errors" | tail -n 1)
    case $cause in
    *'Permission denied'* | *'Too many authentication'*)
        hint="login as $user was refused: check --user and --identity, or put the key there (ssh-copy-id)"
        ;;
    *'Connection refused'*) hint="no sshd listens there: check --port, or start it" ;;
    *'No route'* | *unreachable* | *'timed out'*) hint="no route: check the address and the network, or use vsrpc-host bootstrap" ;;
    *'not resolve'* | *'not known'*) hint="no such machine: check the name" ;;
    *'Host key verification'* | *'HOST IDENTIFICATION'*) hint="its host key is not known or has changed: connect once by ssh, and check it" ;;
    *) hint="see above" && cat "$work/errors" >&2 ;;
    esac
    die 3 "no SSH connection to the $1 $address: $hint (${cause:-ssh said nothing})"
}

# What every remote script begins with. Sets `python`.
prelude() {
    cat <<'END'
set -eu
fail() { echo "deploy: $machine: $*" >&2; exit 1; }
find_python() {
    for python in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python3.9 python3.8; do
        if "$python" -IS -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null; then
            python=$("$python" -IS -c 'import sys; print(sys.executable)')
            return
        fi
    done
    fail "no Python 3.8 or newer ($(python3 -V 2>&1 | head -n 1)); install one (package python3)"
}
END
}

script() { # script SIDE ARG...: run the script on standard input there, as root
    side=$1
    shift
    { prelude && cat; } >"$work/script"
    target "$side"
    { echo "machine=$(quoted "the $side $address")" && cat "$work/script"; } >"$work/script.$side"
    remote "$side" sh -s -- "$@" <"$work/script.$side"
}

# -- the steps

check() {
    connect "$1"
    if [ "$user" != root ] && ! remote "$1" true </dev/null 2>"$work/errors"; then
        die "$user may not become root on the $1 $address without a password ($(tail -n 1 "$work/errors")):" \
            "log in as root, or allow it in sudoers: $user ALL=(ALL) NOPASSWD: ALL"
    fi
    size=$(du -sk "$unpacked" | cut -f 1)
    script "$1" "$remote_dir" "$((3 * size + 1024))" <<'END'
[ "$(id -u)" = 0 ] || fail "root is needed, and this is $(id -un)"
for tool in tar gzip sha256sum awk readlink; do
    command -v "$tool" >/dev/null || fail "no program $tool; install it"
done
find_python
place=$1
while [ ! -e "$place" ]; do place=$(dirname -- "$place"); done
[ -d "$place" ] || fail "$place is not a directory; choose another --remote-dir"
[ -w "$place" ] || fail "$place cannot be written, is its file system read-only? Remount it, or choose another --remote-dir"
free=$(df -Pk "$place" | awk 'NR == 2 { print $4 }')
[ "$free" -ge "$2" ] || fail "$place has $free KiB free, and $2 KiB are needed; make room there"
[ -d /run/systemd/system ] && init=systemd || init="no systemd: the daemon must be started by hand"
echo "deploy: $machine: $(uname -sm), $("$python" -V), $free KiB free, $init"
END
}

sync() {
    id=$(cat "$work/$1.id")
    if [ "$dry" = no ]; then
        # shellcheck disable=SC2016  # the remote shell's
        there=$(remote "$1" sh -c '[ ! -d "$1" ] || echo yes' sh "$remote_dir/$1/$id" </dev/null) || die "sync: the $1 failed"
        if [ "$there" = yes ]; then
            say "the $1 $address: $id is there already"
            return
        fi
    fi
    sha256=$(sha256sum "$work/$1.tar.gz" | cut -d ' ' -f 1)
    upload "$1" || die "the $1 $address: copying failed; its partial file is replaced by the next sync"
    script "$1" "$remote_dir/$1" "$id" "$sha256" <<'END'
cd "$1"
trap 'rm -rf "$2.part" ".new.$2"' EXIT
echo "$3  $2.part" | sha256sum -c - >/dev/null 2>&1 || fail "what arrived is damaged; try again"
rm -rf .new.*
mkdir ".new.$2"
tar -xzf "$2.part" -C ".new.$2" --strip-components=1 || fail "cannot unpack; is the disk full?"
mv ".new.$2" "$2"
echo "deploy: $machine: copied to $1/$2"
END
}

upload() {
    target "$1"
    [ "$dry" = no ] || echo "# the next one's standard input: $1.tar.gz, $(wc -c <"$work/$1.tar.gz") bytes"
    input=$work/$1.tar.gz
    [ "$dry" = no ] || input=/dev/null
    # shellcheck disable=SC2016  # the remote shell's
    remote "$1" sh -c 'mkdir -p "$1" && cat >"$1/$2.part"' sh "$remote_dir/$1" "$id" <"$input"
}

deps() {
    id=$(cat "$work/$1.id")
    script "$1" "$remote_dir/$1/$id" <<'END'
[ -d "$1" ] || fail "$1 is not there; run the step sync first"
find_python
said=$("$python" -IS -c '
import sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/vendor"]
import google.protobuf, yaml, vsrpc.v1.system_pb2
print("protobuf", google.protobuf.__version__, "and PyYAML", yaml.__version__)
' "$1" 2>&1) || fail "the packages that came with vsrpc do not load with $python: $(echo "$said" | tail -n 1)"
echo "deploy: $machine: $python loads $said from the bundle; nothing must be installed"
END
}

start() {
    id=$(cat "$work/$1.id")
    if [ "$1" = guest ]; then start_guest; else start_host; fi
}

start_guest() { # its installer goes back by itself
    script guest "$remote_dir/guest" "$id" "$port_name" <<'END'
[ -e "$1/$2/install.sh" ] || fail "$1/$2 is not there; run the step sync first"
sh "$1/$2/install.sh" ${3:+--port "$3"} || fail "the installation failed"
for other in "$1"/*; do
    [ "$other" = "$1/$2" ] || rm -rf "$other"
done
END
}

start_host() {
    script host "$remote_dir/host" "$id" <<'END'
[ -d "$1/$2" ] || fail "$1/$2 is not there; run the step sync first"
find_python
command=/usr/local/bin/vsrpc-host
if [ -e "$command" ] && [ "$(readlink "$command" || true)" != "$1/current/bin/vsrpc-host" ]; then
    fail "$command is of another installation; remove that first"
fi
mkdir -p "$1/$2/bin"
cat >"$1/$2/bin/vsrpc-host" <<LAUNCHER
#!$python -IS
import os
import sys

release = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
sys.path[:0] = [release, os.path.join(release, "vendor")]
from host.__main__ import main

sys.exit(main())
LAUNCHER
chmod 755 "$1/$2/bin/vsrpc-host"
old=$(readlink "$1/current" || true)
switch() { ln -s "$1" "$2/.current.$$" && mv -T "$2/.current.$$" "$2/current"; }
switch "$2" "$1"
if ! said=$("$1/current/bin/vsrpc-host" --version 2>&1); then
    if [ -n "$old" ]; then switch "$old" "$1"; else rm "$1/current"; fi
    fail "it does not run, and ${old:-nothing} is back: $(echo "$said" | tail -n 1)"
fi
mkdir -p "${command%/*}"
ln -sf "$1/current/bin/vsrpc-host" "$command"
for other in "$1"/*; do
    case $other in "$1/current" | "$1/$2" | "$1/$old") ;; *) rm -rf "$other" ;; esac
done
echo "deploy: $machine: $command is $said"
END
}

run_test() {
    if [ "$1" = guest ]; then
        script guest "$version" <<'END'
said=$(/usr/local/bin/vsrpc-guest --version 2>&1) || fail "vsrpc-guest does not run: $said"
[ "$said" = "vsrpc-guest $1" ] || fail "installed is $said, not $1; run the step start"
state="it must be started by hand: no systemd runs here"
if [ -d /run/systemd/system ]; then
    state=$(systemctl is-active vsrpc-guest || true)
    port=$(sed -n 's|^ *path: */dev/virtio-ports/\([A-Za-z0-9._-]*\).*|\1|p' /etc/vsrpc/guest.yaml | head -n 1)
    if [ "$state" != active ]; then
        [ ! -e "/dev/virtio-ports/$port" ] || fail "vsrpc-guest is $state: journalctl -u vsrpc-guest says why"
        state="waits for its port $port: vsrpc-host channel add DOMAIN --apply"
    fi
fi
echo "deploy: $machine: $said, $state"
END
        return
    fi
    script host "$version" "$socket" <<'END'
said=$(/usr/local/bin/vsrpc-host --version 2>&1) || fail "vsrpc-host does not run: $said"
[ "$said" = "vsrpc-host $1" ] || fail "installed is $said, not $1; run the step start"
echo "deploy: $machine: $said"
[ -z "$2" ] || /usr/local/bin/vsrpc-host -s "$2" ping || fail "the guest does not answer: vsrpc-host -s $2 doctor"
END
}

main() {
    read_arguments "$@"
    work=$(mktemp -d "${TMPDIR:-/tmp}/vsrpc-deploy.XXXXXX")
    trap 'leave' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    command -v ssh >/dev/null || die 2 "ssh is not installed here: install it (Debian: openssh-client)"
    find_bundle
    make_archives
    for step in $steps; do
        for side in ${guest_ip:+guest} ${host_ip:+host}; do
            [ "$dry" = no ] || echo "# $step, $side"
            case $step in
            test) run_test "$side" ;;
            *) $step "$side" ;;
            esac || die "$step failed on the $side"
        done
    done
}

leave() {
    for control in "$work"/ssh.*; do
        [ ! -S "$control" ] || ssh -o ControlPath="$control" -O exit none 2>/dev/null || true
    done
    rm -rf "$work"
}

main "$@"
