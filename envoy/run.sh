#!/usr/bin/env bash
# From nothing to a replay through Envoy, in containers. (`make run` does it without.)
#
#   envoy/run.sh         the stack of docker-compose.yaml: builds it, starts it, walks through it
#   envoy/run.sh down    stops it and forgets its records
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/need.sh
. scripts/walk.sh

stack=envoy/docker-compose.yaml
gateway="http://127.0.0.1:${GATEWAY_PORT:-10000}"

up() {
    need_docker "Without Docker: make run"
    say "building and starting; the first time takes some minutes"
    compose_up "$stack"
    await "Envoy" answers "$gateway/healthz"
    walk "$gateway"
    cat <<EOF

# The record, as an operator sees it:
\$ docker compose -f $stack exec idempotencyd idempotencyd keys list
# The end:
\$ envoy/run.sh down
EOF
}

case "${1:-}" in
    '') up ;;
    down) docker compose --file "$stack" down --volumes ;;
    *) die "usage: envoy/run.sh [down]" ;;
esac
