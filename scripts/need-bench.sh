#!/usr/bin/env bash
# What the benches measure with.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/need.sh

scripts/need-redis.sh
command -v redis-benchmark >/dev/null || need_packages "redis-benchmark" redis-tools
command -v "${WRK:-wrk}" >/dev/null || need_packages "the load generator wrk" wrk
