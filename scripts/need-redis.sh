#!/usr/bin/env bash
# A Redis server, and its command line, for the tests and the demo.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/need.sh

if [ -z "${REDIS_SERVER_BIN:-}" ]; then
    command -v redis-server >/dev/null || need_packages "a Redis server" redis-server
fi
command -v redis-cli >/dev/null || need_packages "Redis' command line" redis-tools
