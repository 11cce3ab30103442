# shellcheck shell=bash
# Sourced by the other scripts: says what is missing, or installs it where that is possible.

# Everything but a script's result goes to stderr.
say() { printf '%s\n' "$*" >&2; }

die() {
    say "$*"
    exit 1
}

# skip WHAT: says that something was left out; .ci/run collects these lines.
skip() {
    say "skipped: $*"
    if [ -n "${SKIPPED_FILE:-}" ]; then printf '%s\n' "$*" >>"$SKIPPED_FILE"; fi
}

# need_packages WHAT PACKAGE...: installs Debian packages. WHAT says, in the one line that a
# machine without apt or without root gets, why they are needed.
need_packages() {
    local what="$1"
    shift
    command -v apt-get >/dev/null || die "$what is missing: install it (Debian: $*)"
    [ "$(id -u)" = 0 ] || die "$what is missing: run \`apt-get install $*\` as root"
    say "installing $* ($what)"
    local log
    log="$(mktemp)"
    # Always with fresh lists: old ones install old versions, too old for us.
    apt-get update >"$log" 2>&1 || say "apt-get update failed, going on with the lists that are there"
    if ! DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends "$@" </dev/null >"$log" 2>&1; then
        tail -n 5 "$log" >&2
        rm -f "$log"
        die "$what is missing: \`apt-get install $*\` failed"
    fi
    rm -f "$log"
}

# at_least A B: version A is B or newer.
at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]; }

# The oldest Rust that builds this.
rust_version() { sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml; }
