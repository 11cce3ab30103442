#!/usr/bin/env bash
# Pins the images of the compose stacks and Dockerfiles to the digests that their registry gives now:
# `kong:3.9.3` becomes `kong:3.9.3@sha256:…`. Needs Docker with buildx, and a way to the registry. It is run
# for a release, and again when a tag changes; a digest that is there already is asked for anew.
#
#   scripts/pin-images.sh [FILE...]
#
# Each file is changed as a whole or not at all.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/need.sh

command -v docker >/dev/null || die "docker is missing: digests come from an image's registry"
files=("$@")
[ "${#files[@]}" != 0 ] || files=(envoy/docker-compose.yaml kong/docker-compose.yaml kong/Dockerfile)

# The images of a file by name and tag. A stage of a Dockerfile has no tag, and is none.
images() {
    sed -nE 's/^[[:space:]]*(image:|FROM)[[:space:]]+([^[:space:]@]+:[^[:space:]@]+).*/\2/p' "$1" | sort -u
}

# digest IMAGE: of its index, so that every architecture of it is meant.
digest() {
    docker buildx imagetools inspect "$1" --format '{{json .Manifest}}' |
        sed -nE 's/.*"digest":[[:space:]]*"(sha256:[0-9a-f]{64})".*/\1/p' | head -n 1
}

for file in "${files[@]}"; do
    [ -f "$file" ] || die "$file: no such file"
    new="$(mktemp)"
    cp "$file" "$new"
    for image in $(images "$file"); do
        found="$(digest "$image")" || found=""
        [ -n "$found" ] || { rm -f "$new"; die "$image: its registry gave no digest; $file is unchanged"; }
        escaped="$(printf '%s' "$image" | sed 's/[.]/\\./g')"
        sed -i -E "s#^([[:space:]]*(image:|FROM)[[:space:]]+)$escaped(@sha256:[0-9a-f]{64})?([[:space:]]|\$)#\1$image@$found\4#" "$new"
        say "$file: $image@$found"
    done
    cat "$new" >"$file"
    rm -f "$new"
done
