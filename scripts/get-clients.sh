#!/usr/bin/env bash
# Sees to it that there are a browser and the client libraries that the tests drive, and prints the directory of
# the latter: target/tools/clients, with npm's node_modules and a Python environment. Their versions are in
# tests/clients/package.json and tests/clients/requirements.txt.
#
# What cannot be had is left out, and said to be, but under CI=true.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/need.sh

pins="$PWD/tests/clients"
dir="${CARGO_TARGET_DIR:-target}/tools/clients"
mkdir -p "$dir"
dir="$(cd "$dir" && pwd)"

# or_without WHAT COMMAND...
or_without() {
    local what="$1"
    shift
    if ! ("$@") >&2; then
        [ -z "${CI:-}" ] || die "CI must test with $what"
        skip "the tests with $what, which cannot be had"
    fi
}

chromium() { command -v chromium >/dev/null || need_packages "Chromium, as a client" chromium; }

# is_current FILE: what is pinned there is installed already.
is_current() { cmp -s "$pins/$1" "$dir/$1"; }

npm_packages() {
    if ! { command -v node && command -v npm; } >/dev/null; then
        need_packages "Node.js with npm, for clients" nodejs npm
    fi
    at_least "$(node --version | tr -d v)" 20 || die "Node.js 20 or newer is missing"
    is_current package.json && return
    rm -rf "$dir/package.json" "$dir/node_modules"
    say "installing client libraries from npm"
    local work
    work="$(mktemp -d "$dir/npm.XXXXXX")"
    cp "$pins/package.json" "$work"
    # No lock file: it would name the registry's host. None of the packages has dependencies.
    (cd "$work" && npm install --silent --no-package-lock --ignore-scripts --no-audit --no-fund) ||
        die "the packages of tests/clients/package.json cannot be had from npm"
    mv "$work/node_modules" "$dir/node_modules"
    mv "$work/package.json" "$dir/package.json"
    rmdir "$work"
}

python_packages() {
    is_current requirements.txt && return
    rm -rf "$dir/requirements.txt" "$dir/venv"
    say "installing client libraries from PyPI"
    python_venv "$dir/venv"
    "$dir/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps \
        --requirement "$pins/requirements.txt" >&2 ||
        die "the packages of tests/clients/requirements.txt cannot be had from PyPI"
    cp "$pins/requirements.txt" "$dir"
}

or_without "a browser" chromium
or_without "client libraries for Node.js" npm_packages
or_without "client libraries for Python" python_packages
echo "$dir"
