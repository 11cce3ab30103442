#!/usr/bin/env bash
# From nothing to a replay through Kong.
#
#   kong/run.sh          the stack of docker-compose.yaml: builds it, starts it, walks through it
#   kong/run.sh down     stops it and forgets its records
#   kong/run.sh local    without Docker: a `kong` on the PATH (3.9, built with WebAssembly),
#                        the service on its embedded store; Ctrl-C stops it all. GATEWAY_PORT and
#                        UPSTREAM_PORT, where 8000 and 7481 are taken
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/need.sh
. scripts/walk.sh

stack=kong/docker-compose.yaml
port="${GATEWAY_PORT:-8000}"
gateway="http://127.0.0.1:$port"

with_docker() {
    need_docker "Without Docker: kong/run.sh local"
    say "building and starting; the first time takes some minutes"
    compose_up "$stack"
    await "Kong" answers "$gateway/executions"
    walk "$gateway"
    cat <<EOF

# With authentication, each consumer has keys of its own:
\$ curl -i $gateway/payments -H 'apikey: demo-key-of-acme' -H 'Idempotency-Key: p-1' -d 'amount=100'
# The record, as an operator sees it:
\$ docker compose -f $stack exec idempotencyd idempotencyd keys list
# The end:
\$ kong/run.sh down
EOF
}

children=()
work=
stop() {
    local pid
    # `kong start` does not pass a signal on to the nginx that it has started.
    if [ -s "$work/kong/pids/nginx.pid" ]; then children+=("$(cat "$work/kong/pids/nginx.pid")"); fi
    for pid in "${children[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${children[@]}"; do
        # nginx is no child of this shell.
        wait "$pid" 2>/dev/null || while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
    done
    if [ -n "$work" ]; then rm -rf "$work"; fi
}

# Whether a program that was started here still runs; nobody waits for one that does not.
alive() { kill -0 "$1" 2>/dev/null || die "$2 has ended: $(tail -n 5 "$work/$2.log")"; }
service_ready() { alive "${children[1]}" service && "$1" ready --url "unix:$work/sock" >/dev/null 2>&1; }
kong_answers() { alive "${children[2]}" kong && answers "$gateway/executions"; }

locally() {
    command -v kong >/dev/null || die "kong is missing: install Kong 3.9 (kong/README.md says which builds have WebAssembly)"
    need_curl
    local target="${CARGO_TARGET_DIR:-target}"
    local service="${IDEMPOTENCYD_BIN:-$target/release/idempotencyd}"
    local upstream="${DEMO_UPSTREAM_BIN:-$target/release/demo-upstream}"
    local wasm="${IDEMPOTENCY_WASM:-$target/idempotency.wasm}"
    [ -n "${IDEMPOTENCYD_BIN:-}" ] || cargo build --release --bins \
        --package idempotency-service --package idempotency-demo-upstream
    [ -n "${IDEMPOTENCY_WASM:-}" ] || scripts/build-wasm.sh

    work="$(mktemp -d)"
    trap stop EXIT
    trap 'exit 143' TERM
    # Kong's workers may run as another user.
    chmod 755 "$work"
    mkdir "$work/filters"
    cp "$wasm" "$work/filters/idempotency.wasm"
    cp kong/idempotency.meta.json "$work/filters/"
    local upstream_port="${UPSTREAM_PORT:-7481}"
    sed -e "s|unix:/run/idempotency/sock|unix:$work/sock|" \
        -e "s|http://demo-upstream:7481|http://127.0.0.1:$upstream_port|" \
        kong/kong.yml >"$work/kong.yml"

    sed "s|/usr/local/kong/|$work/kong/|" kong/idempotency-drain.conf >"$work/idempotency-drain.conf"

    "$upstream" --listen "127.0.0.1:$upstream_port" >"$work/upstream.log" 2>&1 &
    children+=($!)
    "$service" serve --listen "unix:$work/sock" --socket-mode 666 --data-dir "$work/data" \
        --gateway-token demo-gateway-token --operator-token demo-operator-token \
        >"$work/service.log" 2>&1 &
    children+=($!)
    await "the service" service_ready "$service"
    await "the demo upstream" answers "http://127.0.0.1:$upstream_port/healthz"

    set -a
    . kong/kong.env
    set +a
    export KONG_PREFIX="$work/kong"
    export KONG_PROXY_LISTEN="127.0.0.1:$port"
    export KONG_DECLARATIVE_CONFIG="$work/kong.yml"
    export KONG_WASM_FILTERS_PATH="$work/filters"
    export KONG_NGINX_PROXY_INCLUDE="$work/idempotency-drain.conf"
    export KONG_NGINX_DAEMON=off
    kong start >"$work/kong.log" 2>&1 &
    children+=($!)
    await "Kong" kong_answers
    walk "$gateway"
    say ""
    say "Everything runs on, its files are in $work. Ctrl-C stops it."
    wait "${children[2]}" || true
}

case "${1:-}" in
    '') with_docker ;;
    down) docker compose --file "$stack" down --volumes ;;
    local) locally ;;
    *) die "usage: kong/run.sh [down | local]" ;;
esac
