#!/usr/bin/env bash
# What every build needs: Rust, and a linker for it.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/need.sh

command -v cargo >/dev/null || die "cargo is missing: install Rust, $(rust_version) or newer"
command -v cc >/dev/null || need_packages "a C linker" gcc libc6-dev
# librdkafka is built from its source.
for program in c++ make; do
    command -v "$program" >/dev/null || need_packages "what librdkafka is built with" g++ make
done
