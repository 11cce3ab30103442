#!/usr/bin/env bash
# Builds the filter once more, from a copy of the tree in a directory of another name, and compares the bytes.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/need.sh

target="$(cd "${CARGO_TARGET_DIR:-target}" && pwd)"
scripts/build-wasm.sh
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$work"
if [ -x "$target/debug/wasm-check" ]; then export WASM_CHECK="$target/debug/wasm-check"; fi
CARGO_TARGET_DIR="$work/target" "$work/scripts/build-wasm.sh"
cmp "$target/idempotency.wasm" "$work/target/idempotency.wasm" ||
    die "two builds of the filter, in two directories, differ"
say "two builds of the filter, in two directories, are the same bytes"
