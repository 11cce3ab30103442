#!/usr/bin/env bash
# Makes what a release consists of, in DIST (default: target/dist):
#
#   idempotencyd-VERSION-MACHINE-linux-glibcX.Y     the service, for that C library or a newer one
#   idempotency-VERSION.wasm                        the filter, for Envoy and for Kong
#   idempotency-kong-plugin-VERSION-MACHINE-linux-glibcX.Y.tar.gz
#                                                   Kong's Lua plugin, and the C library that it loads
#   idempotencyd-VERSION.oci.tar                    an image of the service, in the OCI layout
#   idempotency-filter-VERSION.oci.tar              an image of the filter: one file, /plugin.wasm
#   idempotency-gateway-VERSION.tgz                 the Helm chart
#   idempotency-gateway-VERSION-examples.tar.gz     envoy/, kong/ and deploy/
#   *.cdx.json                                      bills of materials (CycloneDX) of service, filter and C library
#   SHA256SUMS                                      of all of them
#
# Nothing here needs a container daemon. The same commit, compiler and C library make the same bytes: the time inside
# is that of the commit. For the filter, the directory does not matter either (scripts/same-wasm.sh).
#
# SERVICE, FILTER and LIBRARY name programs that are built already, as a test has them.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/need.sh

command -v python3 >/dev/null || need_packages "Python, which writes images and bills of materials" python3
# The image has the machine's authorities, for stores that are reached over TLS.
authorities=/etc/ssl/certs/ca-certificates.crt
[ -f "$authorities" ] || need_packages "certificates of authorities, for the image" ca-certificates

target="${CARGO_TARGET_DIR:-target}"
dist="${DIST:-$target/dist}"
version="$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)"
machine="$(uname -m)"
case "$machine" in
    x86_64) architecture=amd64 ;;
    aarch64) architecture=arm64 ;;
    *) die "no images for $machine" ;;
esac
# A program runs with this C library or a newer one, so its name says it.
libc="glibc$(getconf GNU_LIBC_VERSION | cut -d ' ' -f 2)"
daemon="idempotencyd-$version-$machine-linux-$libc"
revision="$(git rev-parse HEAD 2>/dev/null || echo unknown)"
SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}"
export SOURCE_DATE_EPOCH

rm -rf "$dist"
mkdir -p "$dist"
dist="$(cd "$dist" && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

if [ -z "${SERVICE:-}" ]; then
    # No path of this machine inside.
    RUSTFLAGS="${RUSTFLAGS:-} --remap-path-prefix=$PWD/= --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}/=cargo/" \
        cargo build --release --locked --package idempotency-service --bin idempotencyd \
        --target-dir "$target/dist-build" >&2
    SERVICE="$target/dist-build/release/idempotencyd"
fi
if [ -z "${FILTER:-}" ]; then
    scripts/build-wasm.sh
    FILTER="$target/idempotency.wasm"
fi
if [ -z "${LIBRARY:-}" ]; then
    RUSTFLAGS="${RUSTFLAGS:-} --remap-path-prefix=$PWD/= --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}/=cargo/" \
        cargo build --release --locked --package idempotency-core-ffi \
        --target-dir "$target/dist-build" >&2
    LIBRARY="$target/dist-build/release/libidempotency_core_ffi.so"
fi
install -m 755 "$SERVICE" "$dist/$daemon"
install -m 644 "$FILTER" "$dist/idempotency-$version.wasm"
said="$("$dist/$daemon" --version)"
[ "$said" = "idempotencyd $version" ] || die "the program says $said, and this is $version"

# image FILE TITLE ROOT CONFIG: CONFIG is the `config` object of the image.
image() {
    cat >"$work/spec.json" <<SPEC
{ "name": "$version", "os": "linux", "architecture": "$architecture", "config": $4,
  "annotations": {
    "org.opencontainers.image.title": "$2", "org.opencontainers.image.version": "$version",
    "org.opencontainers.image.revision": "$revision", "org.opencontainers.image.licenses": "Apache-2.0" } }
SPEC
    python3 scripts/oci_layout.py image "$work/spec.json" "$3" "$dist/$1"
}

# The filter, as Istio and Envoy Gateway fetch one: `FROM scratch`, one file (the compatible variant of the
# "Wasm artifact image" specification).
install -D -m 644 "$FILTER" "$work/filter/plugin.wasm"
chmod 755 "$work/filter"
image "idempotency-filter-$version.oci.tar" idempotency-filter "$work/filter" '{}'

# The service, with the C library that it was linked with, and nothing else.
root="$work/service"
install -D -m 755 "$SERVICE" "$root/usr/bin/idempotencyd"
ldd "$SERVICE" | grep -o '/[^ ]*' | while read -r library; do
    install -D -m 755 "$(readlink -f "$library")" "$root$library"
done
install -D -m 644 "$(readlink -f "$authorities")" "$root$authorities"
install -D -m 644 LICENSE "$root/usr/share/doc/idempotencyd/LICENSE"
mkdir -p "$root/var/lib/idempotency" "$root/run/idempotency" "$root/tmp"
find "$root" -type d -exec chmod 755 {} +
# Whoever it runs as: an image of this kind has no owners.
chmod 1777 "$root/var/lib/idempotency" "$root/run/idempotency" "$root/tmp"
image "idempotencyd-$version.oci.tar" idempotencyd "$root" \
    '{"User":"65532:65532","Entrypoint":["/usr/bin/idempotencyd"],"Cmd":["serve"],"WorkingDir":"/var/lib/idempotency","Env":["IDEMPOTENCYD_DATA_DIR=/var/lib/idempotency/data","IDEMPOTENCYD_LISTEN=0.0.0.0:7480"],"ExposedPorts":{"7480/tcp":{}},"Volumes":{"/var/lib/idempotency":{}}}'

# files ROOT PATH...: copies what git knows of these paths, so that nothing else gets in, with equal permissions.
files() {
    local root="$1"
    shift
    git ls-files -z -- "$@" | while IFS= read -r -d '' file; do
        if [ -x "$file" ]; then mode=755; else mode=644; fi
        install -D -m "$mode" "$file" "$root/$file"
    done
    find "$root" -type d -exec chmod 755 {} +
}
files "$work/chart" deploy/helm
python3 scripts/oci_layout.py archive idempotency-gateway "$work/chart/deploy/helm/idempotency-gateway" \
    "$dist/idempotency-gateway-$version.tgz"
files "$work/examples" envoy kong deploy LICENSE CHANGELOG.md
python3 scripts/oci_layout.py archive "idempotency-gateway-$version" "$work/examples" \
    "$dist/idempotency-gateway-$version-examples.tar.gz"

# The library lies beside the plugin, which looks for it by its name where Lua looks for C modules.
plugin="idempotency-kong-plugin-$version-$machine-linux-$libc"
mkdir -p "$work/plugin"
git ls-files -z -- kong/plugin | while IFS= read -r -d '' file; do
    install -D -m 644 "$file" "$work/plugin/${file#kong/plugin/}"
done
install -m 644 LICENSE "$work/plugin/LICENSE"
install -D -m 755 "$LIBRARY" "$work/plugin/lib/libidempotency_core_ffi.so"
find "$work/plugin" -type d -exec chmod 755 {} +
python3 scripts/oci_layout.py archive "idempotency-kong-plugin-$version" "$work/plugin" "$dist/$plugin.tar.gz"

# sbom PACKAGE TRIPLE FILE
sbom() {
    # With the features that this package alone is built with.
    cargo tree --locked --quiet --edges normal --prefix none --format '{p}' --package "$1" --target "$2" \
        >"$work/linked"
    cargo metadata --format-version=1 --locked --filter-platform "$2" |
        python3 scripts/sbom.py "$1" "$2" "$work/linked" >"$dist/$3.cdx.json"
}
sbom idempotency-filter wasm32-unknown-unknown "idempotency-$version.wasm"
sbom idempotency-core-ffi "$(rustc -vV | sed -n 's/^host: //p')" "$plugin"
sbom idempotency-service "$(rustc -vV | sed -n 's/^host: //p')" "$daemon"

(cd "$dist" && sha256sum -- * >SHA256SUMS)
say "a release of $version is in $dist:"
cat "$dist/SHA256SUMS"
