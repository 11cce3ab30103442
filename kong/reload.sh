#!/usr/bin/env bash
# Reloads or ends a Kong so that no record is lost. A worker that is told to end can execute, but
# not record what it executed: so nothing protected may run when it is told.
#
#   kong/reload.sh          drains, and `kong reload`
#   kong/reload.sh quit     drains, and `kong quit`
#
# On the machine (or in the container) where Kong runs. Drain means: protected requests get 503 with
# Retry-After, what has begun goes on, and its records are delivered. With the settings of kong.env,
# and the post-function of kong.yml.
#
#   KONG_PREFIX   Kong's prefix; must be the one in idempotency-drain.conf (/usr/local/kong)
#   STATUS_URL    Kong's status listener (http://127.0.0.1:8007)
#   PATIENCE      how many seconds to wait at most (90: more than the longest lease). After that Kong
#                 runs on as it was, and the exit code is 1
#   ANYWAY=1      go on even then. What is not recorded ends unknown: it is not executed again, and
#                 its retries get 409
set -euo pipefail

prefix="${KONG_PREFIX:-/usr/local/kong}"
status="${STATUS_URL:-http://127.0.0.1:8007}"
flag="$prefix/idempotency.drain"

say() { printf '%s\n' "$*" >&2; }
die() {
    say "$*"
    exit 1
}
patient() { [ "$SECONDS" -lt "$deadline" ]; }

action="${1:-reload}"
case "$action" in
    reload | quit) ;;
    *) die "usage: kong/reload.sh [reload | quit]" ;;
esac
command -v kong >/dev/null || die "kong is not on the PATH"
command -v curl >/dev/null || die "curl is missing: Kong's metrics are read with it"
[ -f "$prefix/pids/nginx.pid" ] || die "KONG_PREFIX=$prefix: no Kong runs there"
master="$(cat "$prefix/pids/nginx.pid")"

# The workers that are not ending yet. (Without a program for each process of the machine.)
workers() {
    local process stat title
    for process in /proc/[0-9]*; do
        { IFS= read -r stat <"$process/stat"; } 2>/dev/null || continue
        # The name is in parentheses and may hold anything; then the state, then the parent.
        stat="${stat##*) }"
        stat="${stat#* }"
        [ "${stat%% *}" = "$master" ] || continue
        title="$(tr '\0' ' ' <"$process/cmdline" 2>/dev/null)" || continue
        case "$title" in
            *'shutting down'*) ;;
            *'worker process'*) printf '%s\n' "${process#/proc/}" ;;
        esac
    done
}

# What is under way in all workers: requests, and records that are not delivered. Fails while somebody
# else reads the metrics.
under_way() {
    curl --silent --fail --max-time 10 "$status/metrics" 2>/dev/null | awk '
        $1 == "pw_idempotency_idempotency_protected_begun" { sum += $2; found++ }
        $1 == "pw_idempotency_idempotency_protected_ended" { sum -= $2; found++ }
        $1 == "pw_idempotency_idempotency_outbox_entered" { sum += $2; found++ }
        $1 == "pw_idempotency_idempotency_outbox_left" { sum -= $2; found++ }
        END { if (found != 4) exit 1; print sum }'
}

old="$(workers)"
trap 'rm -f "$flag"' EXIT
trap 'exit 1' INT TERM HUP
: >"$flag" 2>/dev/null || die "cannot write $flag"
say "protected requests are refused from now on; waiting for those under way"
deadline=$((SECONDS + ${PATIENCE:-90}))

# Two looks, a second apart: a request may be between the guard and the filter at the first one.
quiet=0 last=
while [ "$quiet" -lt 2 ]; do
    if ! patient; then
        say "still under way after ${PATIENCE:-90} seconds: ${last:-$status/metrics does not tell}"
        say "(or a worker died since Kong was started: what it had under way counts for ever)"
        [ -n "${ANYWAY:-}" ] || die "nothing was changed; ANYWAY=1 goes on all the same"
        break
    fi
    if last="$(under_way)" && [ "$last" -le 0 ]; then quiet=$((quiet + 1)); else quiet=0; fi
    sleep 1
done

if [ "$action" = quit ]; then
    kong quit --prefix "$prefix" --timeout "${PATIENCE:-90}"
    exit
fi
kong reload --prefix "$prefix"
# The flag stays until the old workers have been told to end: from then on they refuse by themselves.
still() { [ "$(workers | grep -cxF "$old")" -gt 0 ]; }
while [ -n "$old" ] && still; do
    [ -d "/proc/$master" ] || die "Kong has ended"
    sleep 0.1
done
say "reloaded"
