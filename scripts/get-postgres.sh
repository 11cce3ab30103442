#!/usr/bin/env bash
# Sees to it that there is a PostgreSQL server, and prints the directory of its programs.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/need.sh

# The newest below Debian's directory of versions, 15 or later.
installed() {
    find /usr/lib/postgresql -mindepth 3 -maxdepth 3 -path '*/bin/initdb' 2>/dev/null |
        awk -F / '$5 >= 15' | sort -t / -k 5 -n | tail -n 1 | xargs -r dirname
}

if [ -n "${POSTGRES_BIN:-}" ]; then
    printf '%s\n' "$POSTGRES_BIN"
    exit
fi
bin="$(installed)"
if [ -z "$bin" ] && command -v initdb >/dev/null; then
    bin="$(dirname "$(command -v initdb)")"
fi
if [ -z "$bin" ]; then
    if [ "$(id -u)" = 0 ]; then
        # No server of the machine's own: the tests start theirs.
        mkdir -p /etc/postgresql-common/createcluster.d
        echo 'create_main_cluster = false' \
            >/etc/postgresql-common/createcluster.d/idempotency.conf
    fi
    need_packages "PostgreSQL 15 or newer" postgresql
    bin="$(installed)"
    [ -n "$bin" ] || die "PostgreSQL 15 or newer is missing: this Debian has an older one"
fi
printf '%s\n' "$bin"
