#!/usr/bin/env bash
# Builds the filter into target/idempotency.wasm and checks what every host asks of it: at most
# 380 KiB, and no import but the proxy-wasm ABI.
#
# The wasm32 target comes from rustup. Where rustup is not there or cannot get it, Debian's own
# toolchain builds the standard library from source. WASM_TOOLCHAIN=rustup|debian forces one.
# WASM_CHECK is the program `wasm-check`, if it is built already.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/need.sh

max_bytes=$((380 * 1024))
triple=wasm32-unknown-unknown
target="${CARGO_TARGET_DIR:-target}"
# A directory of its own: another compiler's files must not push out those of the native build,
# nor wait for its lock.
work="$target/wasm"
artifact="$target/idempotency.wasm"

# cargo marks a target directory as one, by which tests find it; but not one that it makes on its way to
# `$work`.
mkdir -p "$target"
[ -e "$target/CACHEDIR.TAG" ] ||
    echo "Signature: 8a477f597d28d172789f06886806bc55" >"$target/CACHEDIR.TAG"

has_target() {
    local libs
    libs="$(rustc --print target-libdir --target "$triple" 2>/dev/null)" &&
        compgen -G "$libs/libcore-*.rlib" >/dev/null
}

choose_toolchain() {
    if [ -n "${WASM_TOOLCHAIN:-}" ]; then
        echo "$WASM_TOOLCHAIN"
    elif has_target; then
        echo rustup
    elif command -v rustup >/dev/null && timeout 300 rustup target add "$triple" >&2 && has_target; then
        echo rustup
    else
        say "no $triple from rustup: using Debian's toolchain"
        echo debian
    fi
}

has_debian() {
    [ -x /usr/bin/cargo ] && [ -x /usr/bin/rustc ] && command -v wasm-ld-19 >/dev/null &&
        [ -d /usr/lib/rustlib/src/rust/library ] &&
        at_least "$(/usr/bin/rustc --version | cut -d ' ' -f 2)" "$(rust_version)"
}

build_with_debian() {
    has_debian || need_packages "a $triple target" rustc-web cargo-web rust-web-src lld-19
    has_debian || die "Debian's rustc-web is older than Rust $(rust_version), or incomplete"
    # build-std is unstable, which is no risk here: the compiler is the distribution's fixed one.
    RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 \
        CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=wasm-ld-19 \
        /usr/bin/cargo build "${flags[@]}" -Z build-std=std,panic_abort
}

# No path of this machine in the artifact, so that it is the same wherever it is built.
sources_of_crates="${CARGO_HOME:-$HOME/.cargo}/registry/src"
compgen -G "$sources_of_crates/*/" >/dev/null || cargo fetch --locked
remap=""
for sources in "$sources_of_crates"/*/; do
    remap="$remap --remap-path-prefix=$sources="
done
export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS="$remap --remap-path-prefix=$PWD/="

flags=(--profile wasm --target "$triple" --target-dir "$work" --package idempotency-filter --lib)
case "$(choose_toolchain)" in
    rustup) cargo build "${flags[@]}" ;;
    debian) build_with_debian ;;
    *) die "WASM_TOOLCHAIN must be rustup or debian" ;;
esac

built="$work/$triple/wasm/idempotency_filter.wasm"
[ -f "$built" ] || die "the build left no $built"
if [ -n "${WASM_CHECK:-}" ]; then
    "$WASM_CHECK" "$built" "$max_bytes" >&2
else
    cargo run --quiet --package idempotency-stack --bin wasm-check -- "$built" "$max_bytes" >&2
fi
# An unchanged file keeps its time; a changed one is replaced whole, under the feet of nobody.
if ! cmp -s "$built" "$artifact"; then
    cp "$built" "$artifact.new"
    mv "$artifact.new" "$artifact"
fi
say "$artifact is up to date"
