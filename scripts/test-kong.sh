#!/usr/bin/env bash
# The end-to-end case list in a complete Kong, or in a real nginx with Kong's module for WebAssembly,
# ngx_wasm_module.
#
#   KONG          a directory with the bin/kong of a complete Kong 3.9
#   BODY          what of ours runs in it: wasm (the filter; so without it) or lua (the plugin, which needs no
#                 WebAssembly)
#   KONG_NGINX    the path of an nginx. It must have the module, and lua-nginx-module: Kong attaches
#                 filters from Lua
#   KONG_LUALIB   the directory of its Lua libraries (resty/core.lua, resty/wasmx/proxy_wasm.lua); if
#                 not set, lualib beside nginx' own directory, as in OpenResty and in Kong's image
#
# Both may be set. Without either, but with a Docker engine that has the stack's Kong or can get it:
# kong/run.sh. Without all of them, a line says so, and that is a success: nobody has to have one.
# Arguments go to the test program.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/need.sh

# engine IMAGE: whether there is one, with this image.
engine() {
    command -v docker >/dev/null && docker compose version >/dev/null 2>&1 &&
        docker info >/dev/null 2>&1 &&
        { docker image inspect "$1" >/dev/null 2>&1 || timeout 300 docker pull --quiet "$1" >/dev/null 2>&1; }
}

# knows NGINX WHERE DIRECTIVE: whether nginx has this directive; WHERE is main or http.
knows() {
    local dir line="$3"
    [ "$2" = main ] || line="http { $3 }"
    dir="$(mktemp -d)"
    printf 'error_log stderr;\nevents {}\n%s\n' "$line" >"$dir/nginx.conf"
    mkdir "$dir/logs"
    local said
    said="$("$1" -t -p "$dir" -c "$dir/nginx.conf" 2>&1)" || true
    rm -rf "$dir"
    case "$said" in
        '' | *"unknown directive"*) return 1 ;;
    esac
}

case "${BODY:=wasm}" in
    wasm) host=kong ;;
    lua) host=kong-lua ;;
    *) die "BODY=$BODY is neither wasm nor lua" ;;
esac
if [ "$BODY" = lua ] && [ -z "${KONG:-}" ]; then
    skip "the case list with the Lua plugin: KONG names no complete Kong"
    exit
fi

if [ -n "${KONG:-}" ]; then
    [ -x "$KONG/bin/kong" ] || die "KONG=$KONG has no bin/kong"
    KONG="$(cd "$KONG" && pwd)"
    export KONG
    # Kong says it itself: another version may do without WebAssembly, or with another host.
    version="$("$KONG/bin/kong" version 2>&1 | head -n 1)"
    case "$version" in
        3.9.* | *" 3.9."*) ;;
        *) die "KONG=$KONG is no Kong 3.9: $version" ;;
    esac
    command -v openssl >/dev/null || need_packages "OpenSSL for the tests' certificates" openssl
    command -v promtool >/dev/null || need_packages "promtool, which reads Kong's metrics" prometheus
    "${MAKE:-make}" --no-print-directory build wasm
    say "== end-to-end tests in a complete Kong, $version, $BODY: $KONG"
    GATEWAY="$host" cargo test --no-fail-fast --package idempotency-e2e --test gateway -- "$@"
    [ -n "${KONG_NGINX:-}" ] || exit 0
fi

if [ -z "${KONG_NGINX:-}" ]; then
    image="$(sed -n 's/^ *image: \(kong:.*\)$/\1/p' kong/docker-compose.yaml)"
    if engine "$image"; then
        say "neither KONG nor KONG_NGINX is set: kong/run.sh walks through a real Kong in Docker ($image) instead"
        # Not the demo that may be running.
        export COMPOSE_PROJECT_NAME=idempotency-kong-test
        trap 'kong/run.sh down' EXIT
        kong/run.sh
        exit
    fi
    skip "the case list in a real Kong: neither KONG nor KONG_NGINX is set, and there is no Docker engine with $image for kong/run.sh"
    exit
fi

nginx="$KONG_NGINX"
if [ ! -f "$nginx" ] || [ ! -x "$nginx" ]; then die "KONG_NGINX=$nginx is no program"; fi
nginx="$(cd "$(dirname "$nginx")" && pwd)/$(basename "$nginx")"
knows "$nginx" main 'wasm {}' || die "KONG_NGINX=$nginx is no nginx with ngx_wasm_module"
knows "$nginx" http 'lua_package_path ";;";' || die "KONG_NGINX=$nginx has no lua-nginx-module"
lualib="${KONG_LUALIB:-$(dirname "$nginx")/../../lualib}"
for file in resty/core.lua resty/wasmx/proxy_wasm.lua; do
    [ -f "$lualib/$file" ] || die "KONG_LUALIB: there is no $lualib/$file"
done
lualib="$(cd "$lualib" && pwd)"

"${MAKE:-make}" --no-print-directory build wasm
say "== end-to-end tests in $("$nginx" -v 2>&1): $nginx"
GATEWAY=nginx KONG_NGINX="$nginx" KONG_LUALIB="$lualib" \
    cargo test --no-fail-fast --package idempotency-e2e --test gateway -- "$@"
