#!/usr/bin/env bash
# Runs every fuzz target for a while, each from its corpus, on the stable compiler.
#
#   fuzz.sh [SECONDS]
#
# Needs no cargo-fuzz: these are the flags it would pass. RUSTC_BOOTSTRAP opens -Z to the stable compiler.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"
seconds=${1:-60}
target=x86_64-unknown-linux-gnu
flags="--cfg fuzzing -Zsanitizer=address -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
flags+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
flags+=" -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions=on -Coverflow-checks=on"
export CARGO_TARGET_DIR=${CORACLE_FUZZ_TARGET_DIR:-$PWD/target}
RUSTC_BOOTSTRAP=1 RUSTFLAGS=$flags cargo build --release --target "$target" --bins

./seeds.sh
for source in fuzz_targets/*.rs; do
    name=$(basename "$source" .rs)
    mkdir -p "corpus/$name" "artifacts/$name"
    echo "fuzzing $name for $seconds s"
    log=$(mktemp)
    if ! "$CARGO_TARGET_DIR/$target/release/$name" "corpus/$name" "-artifact_prefix=artifacts/$name/" \
        "-max_total_time=$seconds" -max_len=20000 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 >"$log" 2>&1; then
        tail -n 60 "$log" >&2
        echo "fuzzing $name: failed; the input is in fuzz/artifacts/$name" >&2
        rm -f "$log"
        exit 1
    fi
    grep -E 'stat::(number_of_executed_units|peak_rss_mb)' "$log" || true
    rm -f "$log"
done
