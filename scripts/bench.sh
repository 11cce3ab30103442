#!/usr/bin/env bash
# Builds what the gateway bench starts, gets what it measures with, and runs it; arguments are its.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/need.sh

scripts/need-bench.sh
postgres="$(scripts/get-postgres.sh)"
envoy="$(scripts/get-envoy.sh)"
cargo build --release --package idempotency-bench --package idempotency-service \
    --package idempotency-demo-upstream --bins
POSTGRES_BIN="$postgres" ENVOY_BIN="$envoy" \
    exec "${CARGO_TARGET_DIR:-target}/release/gateway-bench" "$@"
