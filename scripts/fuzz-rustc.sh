#!/usr/bin/env bash
# The compiler of the workspace's own crates for libFuzzer (RUSTC_WORKSPACE_WRAPPER): the stable one, told to
# count what is reached. What we depend on is compiled as ever, and shared with ordinary builds.
exec "$@" --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares
