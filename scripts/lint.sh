#!/usr/bin/env bash
# Formatting, clippy, licences and advisories.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/need.sh

cargo metadata --locked --format-version 1 >/dev/null || die "Cargo.lock is not up to date: commit it"
cargo fmt --all --check
cargo clippy --workspace --all-targets --quiet -- --deny warnings
# The store alone, for those who build another backend: nothing of it may lean on a feature.
cargo clippy --package idempotency-store --lib --no-default-features --quiet -- --deny warnings
# A trap of the filter takes a worker of its host along: nothing in it may panic.
cargo clippy --package idempotency-filter --package idempotency-core --lib --no-deps --quiet -- --deny warnings \
    --deny clippy::unwrap_used --deny clippy::expect_used --deny clippy::panic \
    --deny clippy::indexing_slicing

# CI always has it: a complaint that only some machines see would be found too late.
if ! command -v shellcheck >/dev/null && [ "${CI:-}" = true ]; then
    need_packages "shellcheck, for the scripts" shellcheck
fi
if command -v shellcheck >/dev/null; then
    shellcheck --external-sources --source-path . .ci/run scripts/*.sh kong/*.sh envoy/*.sh
else
    skip "shell scripts: shellcheck is not installed (a test has bash read them)"
fi

if ! cargo deny --version >/dev/null 2>&1; then
    skip "advisories and bans: cargo-deny is not installed (a test checks the licences)"
    exit
fi
cargo deny --log-level error check bans licenses sources
# Advisories come from a repository elsewhere; not reaching it says nothing about the code.
if ! cargo deny --log-level error fetch db >/dev/null 2>&1; then
    skip "advisories, their database cannot be reached"
    exit
fi
cargo deny --log-level error check advisories
