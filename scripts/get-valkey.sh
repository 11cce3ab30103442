#!/usr/bin/env bash
# Prints the path of a Valkey server, and gets one if there is none. Fails if none can be had.
#
# Debian has it, but in an older release only among the backports. It is unpacked into
# target/tools/valkey and not installed: installed, it would be started as a service, and the
# machine's own sources of packages would have to change. Its libraries are those of redis-server.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/need.sh

tools="${CARGO_TARGET_DIR:-target}/tools"
mkdir -p "$tools"
tools="$(cd "$tools" && pwd)"
valkey="$tools/valkey/usr/bin/valkey-server"

if [ -n "${VALKEY_SERVER_BIN:-}" ]; then
    [ -x "$VALKEY_SERVER_BIN" ] || die "VALKEY_SERVER_BIN=$VALKEY_SERVER_BIN is no program"
    echo "$VALKEY_SERVER_BIN"
    exit
fi
for found in "$(command -v valkey-server || true)" "$valkey"; do
    if [ -x "$found" ]; then
        echo "$found"
        exit
    fi
done

manual="install Valkey, or set VALKEY_SERVER_BIN to its server"
for program in apt-get dpkg-deb; do
    command -v "$program" >/dev/null || die "there is no Valkey: $manual"
done
work="$(mktemp -d "$tools/valkey.XXXXXX")"
trap 'rm -rf "$work"' EXIT
say "getting Valkey from Debian"
# Lists of its own, so that the machine's stay as they are.
codename="$(. /etc/os-release && echo "${VERSION_CODENAME:-}")"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
for suite in "$codename" "$codename-backports"; do
    echo "deb [signed-by=$keyring] http://deb.debian.org/debian $suite main"
done >"$work/sources.list"
mkdir -p "$work"/{lists,cache/archives}/partial "$work/root"
options=(-o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=-
    -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root)
if ! {
    apt-get "${options[@]}" update &&
        (cd "$work" && apt-get "${options[@]}" download valkey-server valkey-tools)
} >"$work/log" 2>&1; then
    tail -n 3 "$work/log" >&2
    die "Debian $codename has no Valkey: $manual"
fi
for package in "$work"/*.deb; do dpkg-deb --extract "$package" "$work/root"; done
"$work/root/usr/bin/valkey-server" --version >&2 ||
    die "Valkey does not run here: install the libraries of redis-server, or $manual"
rm -rf "$tools/valkey"
mv "$work/root" "$tools/valkey"
echo "$valkey"
