# shellcheck shell=bash
# Sourced by kong/run.sh and envoy/run.sh: starts a compose stack, and walks through the gateway.

# need_docker ELSE: ELSE says how to do without.
need_docker() {
    command -v docker >/dev/null || die "docker is missing: install Docker with its compose plugin. $1"
    docker compose version >/dev/null 2>&1 || die "docker has no compose plugin (v2): install it. $1"
    docker info >/dev/null 2>&1 || die "Docker's engine does not answer: is it running? $1"
    need_curl
}

need_curl() { command -v curl >/dev/null || need_packages "curl" curl; }

# compose_up FILE: builds what is to be built. Returns when everything is healthy.
compose_up() {
    docker compose --file "$1" up --build --detach ||
        die "the stack did not start: docker compose --file $1 logs"
}

# await WHAT COMMAND...: until the command succeeds.
await() {
    local what="$1" deadline=$((SECONDS + ${PATIENCE:-60}))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$deadline" ] || die "$what is not ready after ${PATIENCE:-60} seconds"
        sleep 0.2
    done
}

answers() { curl --silent --output /dev/null "$1"; }

# show COMMENT COMMAND: prints and runs it.
show() {
    printf '\n# %s\n$ %s\n' "$1" "$2"
    bash -c "$2" || die "failed: $2"
    printf '\n'
}

# walk GATEWAY: from a first request to its replay.
walk() {
    local charge key
    key="demo-$(date +%s)-$$"
    charge="curl -si $1/charges -H 'Idempotency-Key: $key' -H 'Content-Type: application/json' -d"
    show "The first request is executed." "$charge '{\"amount\":100}'"
    show "Again, as a client retries: the same bytes, and idempotency-replayed: true." \
        "$charge '{\"amount\":100}'"
    show "The same key with another payload is a mistake: 422." "$charge '{\"amount\":999}'"
    show "How often was it executed? Once." "curl -s $1/executions"
}
