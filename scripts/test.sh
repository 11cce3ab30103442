#!/usr/bin/env bash
# Runs every test. `make test` has built the programs and the filter before.
#
# With ENVOY_BIN set, that Envoy is the only one that is tested.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/need.sh

scripts/need-redis.sh
scripts/need-lua.sh
command -v curl >/dev/null || need_packages "curl for the walks through the compose stacks" curl
command -v openssl >/dev/null || need_packages "OpenSSL for the tests' certificates" openssl
ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 ||
    need_packages "libfaketime, for services whose clocks differ" libfaketime
[ -x /usr/sbin/pgbouncer ] || [ -x /usr/bin/pgbouncer ] ||
    need_packages "PgBouncer, for transactions of the library through it" pgbouncer
command -v skopeo >/dev/null || need_packages "skopeo, which reads the images of a release" skopeo
command -v strip >/dev/null || need_packages "strip, for the program in an image" binutils
command -v ip >/dev/null || need_packages "ip, for regions in network namespaces" iproute2
# Helm's engine, and the schemas of Kubernetes and CycloneDX.
scripts/get-deploy-tools.sh >/dev/null
# Programs that the tests drive as clients.
scripts/get-clients.sh >/dev/null
for runtime in java go; do
    command -v "$runtime" >/dev/null || skip "the client of docs/clients in $runtime, which is not there"
done
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

phase "all tests; end to end: records embedded, Envoy $newest"
ENVOY_BIN="$newest" cargo test --workspace --no-fail-fast

# tests DIR TARGET...: these test programs of the package in DIR again, as they were built for the first run. Of a part of
# the workspace cargo would build most dependencies anew, with the features that this part alone asks for.
programs="$(cargo test --workspace --no-run 2>&1)"
tests() {
    local dir="$1" target program failed=0
    shift
    for target in "$@"; do
        program="$(sed -n "/ unittests /d; s|.*(\(.*/deps/$target-[0-9a-f]*\))\$|\1|p" <<<"$programs")"
        [ -n "$program" ] || die "cargo names no test program $target"
        program="$(realpath "$program")"
        say "-- $target"
        (cd "$dir" && CARGO_MANIFEST_DIR="$PWD" "$program") || failed=1
    done
    return "$failed"
}
# Every store, both Envoys, both transports, encryption, and callouts for one operation each have their turn with the whole list, but not
# every combination of them: the store knows nothing of the Envoy.
phase "end-to-end tests again, records in Redis and encrypted, gateway and service over mTLS, Envoy $oldest"
STORE=redis ENCRYPTION=on TRANSPORT=mtls ENVOY_BIN="$oldest" tests tests gateway clients shipped
ENVOY_BIN="$oldest" tests crates/stack demo_files envoy gateway_demo stack
phase "end-to-end tests again, records in PostgreSQL, a callout for every operation, Envoy $newest"
STORE=postgres BATCH=off ENVOY_BIN="$newest" tests tests gateway clients shipped
phase "end-to-end tests again, in Kong's host as the tests play it"
GATEWAY=kong-host tests tests gateway clients
phase "end-to-end tests again, against the library's HTTP layer"
GATEWAY=layer tests tests gateway clients

phase "the library outside of the workspace, feature by feature"
scripts/features.sh

phase "the filter once more, from another directory: the same bytes"
scripts/same-wasm.sh

phase "fuzz targets, 5 s each"
PROFILE=dev DURATION=5 JOBS=2 scripts/fuzz.sh
phase "the store's contract: cases × backends"
"${CARGO_TARGET_DIR:-target}/debug/examples/contract_table"

if valkey="$(scripts/get-valkey.sh)"; then
    phase "the Redis store again, on $("$valkey" --version | cut -d ' ' -f 1-3)"
    REDIS_SERVER_BIN="$valkey" tests crates/store redis
else
    [ -z "${CI:-}" ] || die "CI must test Valkey too"
    skip "the Redis store on Valkey, since there is none"
fi
