#!/bin/sh
# Builds every fuzz target and runs each for some seconds from its seeds. Fails when one crashes.
#
#     fuzz/smoke.sh [SECONDS_PER_TARGET]        5 by default
#
# Needs a stable toolchain and a C++ compiler (libFuzzer), neither cargo-fuzz nor a nightly. With the
# CARGO_TARGET_DIR of the main build the dependencies are built once for both. What crashes is left in
# fuzz/artifacts/TARGET/: make it a test, and a seed.
set -eu
cd "$(dirname "$0")"
seconds=${1:-5}
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
RUSTC_WRAPPER="$PWD/instrument.sh" cargo build --quiet --bins
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export seconds work

# One target: its name, its runs, what it covers; all of its output when it fails.
cat >"$work/run.sh" <<'RUN'
target=$1
mkdir -p "$work/$target" "artifacts/$target"
if "$CARGO_TARGET_DIR/debug/$target" -max_total_time="$seconds" -seed=1 -max_len=8192 -timeout=10 -rss_limit_mb=1024 \
    -print_final_stats=1 -artifact_prefix="artifacts/$target/" "$work/$target" "seeds/$target" >"$work/$target.log" 2>&1
then
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$work/$target.log")
    cover=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$work/$target.log" | tail -n 1)
    rmdir "artifacts/$target"
    printf '%-14s %9s runs  %6s edges\n' "$target" "$runs" "$cover"
    # Without counters libFuzzer is a blind hammer: the instrumentation was lost.
    [ "${cover:-0}" -gt 10 ] || { echo "$target: no coverage" >&2; exit 1; }
else
    echo "$target FAILED" >&2
    tail -n 60 "$work/$target.log" >&2
    exit 1
fi
RUN

sed -n 's/^path = "targets\/\(.*\)\.rs"$/\1/p' Cargo.toml | xargs -P "$(nproc)" -n 1 sh "$work/run.sh"
