#!/usr/bin/env bash
# Fuzzes: each target of fuzz/ for DURATION seconds (60), one after the other, JOBS at a time (1).
# TARGETS chooses some. What was found lies in target/fuzz/findings/, one file per input.
#
# The stable compiler instruments for libFuzzer by itself (scripts/fuzz-rustc.sh); cargo-fuzz, which would
# install another one, is not needed. No sanitizer: there is next to no unsafe code here, and builds stay
# short. PROFILE=dev takes the dependencies of ordinary builds: quick to build, and slower to run.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/need.sh

command -v c++ >/dev/null || need_packages "a C++ compiler for libFuzzer" g++
duration="${DURATION:-60}"
jobs="${JOBS:-1}"
profile="${PROFILE:-fuzzing}"
work="${CARGO_TARGET_DIR:-target}/fuzz"
mkdir -p "$work/findings"
work="$(cd "$work" && pwd)"

RUSTC_WORKSPACE_WRAPPER="$PWD/scripts/fuzz-rustc.sh" cargo build --quiet --locked --bins \
    --profile "$profile" --package idempotency-fuzz --features fuzz
# Another build must not take them away while they run.
case "$profile" in dev) built=debug ;; *) built="$profile" ;; esac
mkdir -p "$work/bin"
read -ra targets <<<"${TARGETS:-$(cd fuzz/fuzz_targets && printf '%s ' *.rs | sed 's/\.rs//g')}"

# fuzz NAME: its last line says what was done; the status says whether something was found.
fuzz() {
    local name="$1" corpus="$work/corpus/$1" log="$work/$1.log"
    mkdir -p "$corpus"
    cp "${CARGO_TARGET_DIR:-target}/$built/$name" "$work/bin/$name"
    if ! "$work/bin/$name" -max_total_time="$duration" -max_len=4096 -timeout=60 \
        -rss_limit_mb=1024 -print_final_stats=1 -verbosity=1 \
        -artifact_prefix="$work/findings/$name-" "$corpus" "fuzz/corpus/$name" >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        say "$name: found something, see $work/findings and $log"
        return 1
    fi
    local inputs edges
    inputs="$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")"
    edges="$(grep -oE 'cov: [0-9]+' "$log" | tail -n 1 | cut -d ' ' -f 2)"
    [ "${inputs:-0}" -gt 0 ] || { say "$name: ran nothing, see $log"; return 1; }
    say "$name: $inputs inputs, $edges edges, in $duration s"
}

failed=0
running=0
for name in "${targets[@]}"; do
    fuzz "$name" &
    running=$((running + 1))
    if [ "$running" -ge "$jobs" ]; then
        wait -n || failed=1
        running=$((running - 1))
    fi
done
while [ "$running" -gt 0 ]; do
    wait -n || failed=1
    running=$((running - 1))
done
exit "$failed"
