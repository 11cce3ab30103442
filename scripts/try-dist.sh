#!/usr/bin/env bash
# Tries what `make dist` made in a clean Debian without Rust: from the artifacts alone to a replay, and the images.
# As root, since it makes a root directory of its own (debootstrap) and runs in it (chroot). Only loopback addresses
# are used. Takes a minute or two.
#
#   DIST       what `make dist` made (target/dist)
#   ENVOY_BIN  the Envoy that is put beside it; without it, the one of scripts/get-envoy.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/need.sh

[ "$(id -u)" = 0 ] || die "a root directory of its own needs root"
target="${CARGO_TARGET_DIR:-target}"
dist="${DIST:-$target/dist}"
[ -f "$dist/SHA256SUMS" ] || die "there is no release in $dist: run \`make dist\`"
dist="$(cd "$dist" && pwd)"
for program in debootstrap umoci skopeo curl; do
    command -v "$program" >/dev/null || need_packages "$program" "$program"
done
envoy="${ENVOY_BIN:-$(scripts/get-envoy.sh newest)}"

work="$(mktemp -d)"
root="$work/root"
children=()
finish() {
    local child
    for child in "${children[@]}"; do kill "$child" 2>/dev/null || true; done
    for child in "${children[@]}"; do wait "$child" 2>/dev/null || true; done
    if mountpoint --quiet "$root/proc"; then umount "$root/proc"; fi
    rm -rf "$work"
}
trap finish EXIT

say "== checksums"
(cd "$dist" && sha256sum --check --quiet SHA256SUMS)
one() { compgen -G "$dist/$1" || die "no $1 in $dist"; }

say "== a Debian with nothing in it"
# From where this machine has its own packages.
# shellcheck disable=SC2016 # apt-get reads the name.
mirror="$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | head -n 1)"
codename="$(. /etc/os-release && echo "$VERSION_CODENAME")"
debootstrap --variant=minbase "$codename" "$root" ${mirror:+"$mirror"} >"$work/debootstrap.log" 2>&1 || {
    tail -n 5 "$work/debootstrap.log" >&2
    die "debootstrap failed"
}
! chroot "$root" sh -c 'command -v cargo rustc' || die "there is a Rust in it"
mkdir -p "$root/opt/release" "$root/opt/run"
cp "$dist"/* "$root/opt/release/"
install -m 755 "$envoy" "$root/usr/local/bin/envoy"
mount -t proc proc "$root/proc"
inside() { chroot "$root" "$@"; }

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
gateway="$(free_port)" admin="$(free_port)" service="$(free_port)" upstream="$(free_port)"

say "== the service, an upstream that counts, and Envoy with the example's configuration"
install -m 755 "$(one 'idempotencyd-*-linux-glibc*[0-9]')" "$root/usr/local/bin/idempotencyd"
inside idempotencyd --version
inside idempotencyd serve --listen "127.0.0.1:$service" --data-dir /opt/run/data \
    --gateway-token demo-gateway-token >"$work/service.log" 2>&1 &
children+=("$!")
# Perl is in every Debian.
cat >"$root/opt/run/upstream.pl" <<'PERL'
use strict; use warnings; use IO::Socket::INET;
my ($port, $count) = (shift, 0);
my $server = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 16, ReuseAddr => 1) or die $!;
while (my $client = $server->accept) {
    my $length = 0;
    while (my $line = <$client>) {
        $line =~ s/\r?\n//;
        $length = $1 if $line =~ /^content-length: (\d+)/i;
        last if $line eq '';
    }
    read($client, my $body, $length) if $length;
    $count++;
    my $answer = "execution $count\n";
    print $client "HTTP/1.1 201 Created\r\ncontent-type: text/plain\r\ncontent-length: " . length($answer)
        . "\r\nconnection: close\r\n\r\n$answer";
    close $client;
}
PERL
inside perl /opt/run/upstream.pl "$upstream" >"$work/upstream.log" 2>&1 &
children+=("$!")
inside tar -xzf "/opt/release/$(basename "$(one '*-examples.tar.gz')")" -C /opt/run --strip-components=1
mkdir -p "$root/opt/idempotency/filters"
cp "$(one 'idempotency-*.wasm')" "$root/opt/idempotency/filters/idempotency.wasm"
sed -i -e "s|address: 0.0.0.0, port_value: 10000|address: 127.0.0.1, port_value: $gateway|" \
    -e "s|address: 127.0.0.1, port_value: 9901|address: 127.0.0.1, port_value: $admin|" \
    -e "s|address: demo-upstream, port_value: 7481|address: 127.0.0.1, port_value: $upstream|" \
    -e "s|address: idempotencyd, port_value: 7480|address: 127.0.0.1, port_value: $service|" \
    "$root/opt/run/envoy/envoy.yaml"
inside idempotencyd check-config /opt/run/envoy/envoy.yaml
inside envoy -c /opt/run/envoy/envoy.yaml --concurrency 1 --use-dynamic-base-id >"$work/envoy.log" 2>&1 &
children+=("$!")
await() {
    local deadline=$((SECONDS + 60))
    until curl --silent --fail --output /dev/null "$1"; do
        [ "$SECONDS" -lt "$deadline" ] || {
            tail -n 20 "$work"/*.log >&2
            die "$1 does not answer"
        }
        sleep 0.2
    done
}
await "http://127.0.0.1:$service/readyz"
await "http://127.0.0.1:$admin/ready"

say "== a request, and its retry"
ask() { curl --silent --show-error --include "http://127.0.0.1:$gateway/charges" --header 'Idempotency-Key: k-1' --data "$1"; }
first="$(ask '{"amount":100}')"
again="$(ask '{"amount":100}')"
other="$(ask '{"amount":200}' | head -n 1)"
printf '%s\n' "$first" "$again" "$other"
grep -q '^HTTP/1.1 201' <<<"$first" || die "the first request was not executed"
grep -q '^idempotency-replayed: true' <<<"$again" || die "the retry was not replayed"
for answer in "$first" "$again"; do
    [ "$(tail -n 1 <<<"$answer")" = "execution 1" ] || die "the upstream was executed twice"
done
grep -q ' 422 ' <<<"$other" || die "another payload was not refused"

say "== the images"
for image in idempotencyd idempotency-filter; do
    archive="$(one "$image-*.oci.tar")"
    version="$(basename "$archive" .oci.tar)"
    version="${version#"$image-"}"
    skopeo inspect "oci-archive:$archive" | python3 -c '
import json, sys
image = json.load(sys.stdin)
title, version = (image["Labels"]["org.opencontainers.image." + name] for name in ("title", "version"))
assert [title, version] == sys.argv[1:], image
' "$image" "$version"
    mkdir "$work/$image"
    tar -xf "$archive" -C "$work/$image"
    umoci --log error unpack --rootless --image "$work/$image:$version" "$work/$image.bundle"
done
cmp "$work/idempotency-filter.bundle/rootfs/plugin.wasm" "$(one 'idempotency-*.wasm')"
[ "$(find "$work/idempotency-filter.bundle/rootfs" -type f | wc -l)" = 1 ] || die "the filter's image has other files"
# It needs nothing but what is in it.
chroot --userspec=65532:65532 "$work/idempotencyd.bundle/rootfs" /usr/bin/idempotencyd --version
chroot --userspec=65532:65532 "$work/idempotencyd.bundle/rootfs" /usr/bin/idempotencyd serve \
    --listen "127.0.0.1:$(free_port)" --listen unix:/run/idempotency/sock \
    --data-dir /var/lib/idempotency/data --gateway-token demo-gateway-token >"$work/image.log" 2>&1 &
children+=("$!")
deadline=$((SECONDS + 30))
until chroot "$work/idempotencyd.bundle/rootfs" /usr/bin/idempotencyd ready \
    --url unix:/run/idempotency/sock 2>/dev/null; do
    [ "$SECONDS" -lt "$deadline" ] || {
        cat "$work/image.log" >&2
        die "the service of the image does not get ready"
    }
    sleep 0.2
done
say "the release works without Rust: one execution, a replay, a refusal; both images are what they should be"
