#!/usr/bin/env bash
# A program outside of the workspace that depends on the library by its path alone: it compiles with each feature
# alone, with none, and with all, and pulls in no backend's driver that it did not ask for.
#
# `cargo check` in the workspace's own target folder: what was compiled for the tests is compiled once.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/need.sh

root="$PWD"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$root/target}"
dir="$(mktemp -d)"
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/src"
# The versions that are tested.
cp Cargo.lock "$dir/Cargo.lock"

# drivers FEATURE: the drivers that it may bring, by the beginning of their crates' names.
drivers() {
    case "$1" in
    embedded) echo fjall ;;
    redis) echo redis ;;
    postgres) echo 'tokio-postgres|deadpool' ;;
    tokio-postgres) echo tokio-postgres ;;
    sqlx-*) echo sqlx ;;
    kafka) echo rdkafka ;;
    remote) echo hyper ;;
    axum) echo axum ;;
    all) echo 'fjall|redis|tokio-postgres|deadpool|sqlx|rdkafka|hyper|axum' ;;
    *) echo none ;;
    esac
}

# uses FEATURE: a line that does not compile without it.
uses() {
    case "$1" in
    embedded) echo 'pub type Uses = idempotency::store::Embedded;' ;;
    encryption) echo 'pub type Uses = idempotency::store::Sealed;' ;;
    redis) echo 'pub type Uses = idempotency::store::RedisStore;' ;;
    postgres) echo 'pub type Uses = idempotency::store::Postgres;' ;;
    remote) echo 'pub type Uses = idempotency::remote::Remote;' ;;
    http) echo 'pub type Uses = idempotency::http::IdempotencyLayer;' ;;
    axum) echo 'pub type Uses = idempotency::http::NotProtected;' ;;
    message) echo 'pub type Uses = idempotency::message::Deduplicator;' ;;
    kafka) echo 'pub type Uses = idempotency::kafka::KafkaGuard;' ;;
    daily) echo 'pub type Uses = idempotency::keys::Daily;' ;;
    esac
}

# try FEATURE [LIST]: compiles with the features of the list, and looks at what was pulled in.
try() {
    local feature="$1" list="${2-\"$1\"}" begun=$SECONDS
    cat >"$dir/Cargo.toml" <<TOML
[package]
name = "outside"
version = "0.0.0"
edition = "2021"

[dependencies]
idempotency = { path = "$root/crates/idempotency", default-features = false, features = [$list] }

[workspace]

# As in the workspace: else librdkafka would be built once more.
[profile.dev]
debug = "line-tables-only"
TOML
    {
        uses "$feature"
        cat <<'RUST'
use idempotency::{store::Memory, Guard};
fn main() {
    let guard = Guard::new(std::sync::Arc::new(Memory::default()));
    println!("{}", guard.running());
}
RUST
    } >"$dir/src/main.rs"
    cargo check --quiet --manifest-path "$dir/Cargo.toml" || die "does not compile with: $feature"
    local known='^(fjall|redis|tokio-postgres|deadpool|sqlx|rdkafka|hyper|axum)' found
    found="$(cargo tree --manifest-path "$dir/Cargo.toml" --edges normal --prefix none --format '{p}' |
        cut -d ' ' -f 1 | sort -u | grep -E "$known" | grep -vE "^($(drivers "$feature"))" || true)"
    [ -z "$found" ] || die "feature $feature brings what nobody asked for: $(echo "$found" | xargs)"
    say "  $feature: $((SECONDS - begun)) s"
}

features="$(sed -n '/^\[features\]/,/^\[/s/^\([a-z0-9_-]*\) = .*/\1/p' crates/idempotency/Cargo.toml | grep -vx default)"
all="$(for feature in $features; do printf '"%s", ' "$feature"; done)"
try none ""
for feature in $features; do
    try "$feature"
done
try all "$all"
RUSTDOCFLAGS="--deny warnings" cargo doc --quiet --no-deps --manifest-path "$dir/Cargo.toml" --package idempotency ||
    die "the library's documentation has warnings"
