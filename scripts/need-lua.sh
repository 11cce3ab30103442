#!/usr/bin/env bash
# An nginx with Lua, for Kong's Lua plugin where no Kong is: LuaJIT, nginx' Lua module and what belongs to it. All of
# one set: Debian's `luajit` and `luajit2` exclude each other, and lua-resty-core wants the latter.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/need.sh

modules=/usr/lib/nginx/modules
if [ ! -e "$modules/ngx_http_lua_module.so" ] || [ ! -e /usr/share/lua/5.1/resty/core.lua ] ||
    ! luajit -e 'require "cjson"' >/dev/null 2>&1 || [ ! -x /usr/sbin/nginx ]; then
    need_packages "nginx with Lua, for the tests of Kong's Lua plugin" \
        libnginx-mod-http-lua lua-resty-core lua-resty-lrucache lua-cjson nginx-light luajit2
    # Debian starts it, with a page of its own.
    if command -v systemctl >/dev/null; then systemctl stop nginx >/dev/null 2>&1 || true; fi
fi
