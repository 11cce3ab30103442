#!/usr/bin/env bash
# Runs every test. `make test` has built the programs and the filter before.
#
# With ENVOY_BIN set, that Envoy is the only one that is tested.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/need.sh

scripts/need-redis.sh
command -v curl >/dev/null || need_packages "curl for the walks through the compose stacks" curl
command -v openssl >/dev/null || need_packages "OpenSSL for the tests' certificates" openssl
ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 ||
    need_packages "libfaketime, for services whose clocks differ" libfaketime
[ -x /usr/sbin/pgbouncer ] || [ -x /usr/bin/pgbouncer ] ||
    need_packages "PgBouncer, for transactions of the library through it" pgbouncer
# Programs that the tests drive as clients.
scripts/get-clients.sh >/dev/null
command -v promtool >/dev/null ||
    need_packages "Prometheus, which reads metrics, alerts and the dashboard's queries" prometheus
postgres="$(scripts/get-postgres.sh)"
scripts/get-broker.sh >/dev/null
export POSTGRES_BIN="$postgres"

# What the contract suite notes, of this run alone.
contract="${CARGO_TARGET_DIR:-target}/contract"
rm -rf "$contract"

newest="${ENVOY_BIN:-$(scripts/get-envoy.sh newest)}"
if [ -z "${ENVOY_BIN:-}" ]; then
    oldest="$(scripts/get-envoy.sh oldest)"
else
    [ -z "${CI:-}" ] || die "ENVOY_BIN is set: CI must test the oldest supported Envoy too"
    skip "the oldest supported Envoy, since ENVOY_BIN is set"
    oldest="$ENVOY_BIN"
fi

say "== all tests; end to end: records embedded, Envoy $newest"
ENVOY_BIN="$newest" cargo test --workspace --no-fail-fast
# Every store, both Envoys, and callouts for one operation each have their turn with the whole list, but not
# every combination of them: the store knows nothing of the Envoy.
say "== end-to-end tests again, records in Redis, Envoy $oldest"
STORE=redis ENVOY_BIN="$oldest" cargo test --no-fail-fast --package idempotency-e2e
ENVOY_BIN="$oldest" cargo test --no-fail-fast --package idempotency-stack
say "== end-to-end tests again, records in PostgreSQL, a callout for every operation, Envoy $newest"
STORE=postgres BATCH=off ENVOY_BIN="$newest" cargo test --no-fail-fast --package idempotency-e2e
say "== end-to-end tests again, in Kong's host as the tests play it"
GATEWAY=kong-host cargo test --no-fail-fast --package idempotency-e2e --test gateway --test clients
say "== end-to-end tests again, against the library's HTTP layer"
GATEWAY=layer cargo test --no-fail-fast --package idempotency-e2e --test gateway --test clients

say "== the library outside of the workspace, feature by feature"
scripts/features.sh

say "== fuzz targets, 5 s each"
PROFILE=dev DURATION=5 JOBS=2 scripts/fuzz.sh
say "== the store's contract: cases × backends"
cargo run --quiet --package idempotency-store --features contract --example contract_table

if valkey="$(scripts/get-valkey.sh)"; then
    say "== the Redis store again, on $("$valkey" --version | cut -d ' ' -f 1-3)"
    REDIS_SERVER_BIN="$valkey" cargo test --no-fail-fast --package idempotency-store --test redis
else
    [ -z "${CI:-}" ] || die "CI must test Valkey too"
    skip "the Redis store on Valkey, since there is none"
fi
