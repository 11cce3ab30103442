#!/usr/bin/env bash
# The end-to-end case list in a real nginx with Kong's module for WebAssembly, ngx_wasm_module.
#
#   KONG_NGINX    its path. It must have the module, and lua-nginx-module: Kong attaches filters from Lua
#   KONG_LUALIB   the directory of its Lua libraries (resty/core.lua, resty/wasmx/proxy_wasm.lua); if
#                 not set, lualib beside nginx' own directory, as in OpenResty and in Kong's image
#
# Without KONG_NGINX, but with a Docker engine that has the stack's Kong or can get it: kong/run.sh.
# Without either, a line says so, and that is a success: nobody has to have one. Arguments go to the
# test program.
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

if [ -z "${KONG_NGINX:-}" ]; then
    image="$(sed -n 's/^ *image: \(kong:.*\)$/\1/p' kong/docker-compose.yaml)"
    if engine "$image"; then
        say "KONG_NGINX is not set: kong/run.sh walks through a real Kong in Docker ($image) instead"
        # Not the demo that may be running.
        export COMPOSE_PROJECT_NAME=idempotency-kong-test
        trap 'kong/run.sh down' EXIT
        kong/run.sh
        exit
    fi
    skip "the case list in a real nginx: KONG_NGINX is not set, and there is no Docker engine with $image for kong/run.sh"
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
GATEWAY=kong KONG_NGINX="$nginx" KONG_LUALIB="$lualib" \
    cargo test --no-fail-fast --package idempotency-e2e --test gateway -- "$@"
