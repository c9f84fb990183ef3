#!/usr/bin/env bash
# Everything that has to hold: style, lints, unit tests, whole-system tests, documentation, static build, fuzzing.
#
# With CI=true a test that would be skipped for a missing tool fails instead. CORACLE_FUZZ_SECONDS is the time for
# each fuzz target. The last line is `N passed, N failed`.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}
target=${CARGO_TARGET_DIR:-$PWD/target}
triple=$(rustc -vV | sed -n 's/^host: //p')
log=$(mktemp)
trap 'rm -f "$log"' EXIT

failures=()
stage() {
    local title=$1 begun=$SECONDS
    shift
    printf '\n== %s\n' "$title"
    if "$@"; then
        printf '== %s: done in %d s\n' "$title" $((SECONDS - begun))
    else
        failures+=("$title")
        printf '== %s: FAILED after %d s\n' "$title" $((SECONDS - begun))
        return 1
    fi
}
# Results are summed over all of cargo's summaries.
counted() { "$@" 2>&1 | tee -a "$log"; }
whole_system() { CORACLE_BIN=$1 counted cargo test -p coracle-tests --locked --no-fail-fast "${@:2}"; }
# Kernels without the features that a mount is fast with, and launches without sessions.
fallbacks() {
    CORACLE_FUSE=no-readdirplus,no-silent-open,no-cache-symlinks,no-push-fragments,no-push-rest,no-readahead,no-spin,no-expect,threads=1 \
        CORACLE_SESSION=off counted cargo test -p coracle --locked --no-fail-fast --test launch
}
finish() {
    local passed failed
    passed=$(sed -n 's/^test result: .* \([0-9][0-9]*\) passed; .*/\1/p' "$log" | awk '{ n += $1 } END { print n + 0 }')
    failed=$(sed -n 's/^test result: .* \([0-9][0-9]*\) failed; .*/\1/p' "$log" | awk '{ n += $1 } END { print n + 0 }')
    if [ "${#failures[@]}" -gt 0 ]; then
        printf '\nfailed: %s\n' "$(IFS=,; echo "${failures[*]}")"
        [ "$failed" -gt 0 ] || failed=${#failures[@]}
    fi
    printf '%d passed, %d failed\n' "$passed" "$failed"
    [ "${#failures[@]}" = 0 ] || exit 1
    exit 0
}

stage "what the tests need" scripts/setup.sh test || finish
stage "format" cargo fmt --all --check
stage "scripts" shellcheck --severity=warning scripts/*.sh .ci/run
# Needs no compiler's time, so it runs beside the builds.
scripts/standard-image.sh >/dev/null &
image=$!
stage "lints" cargo clippy --workspace --all-targets --locked -- -D warnings
stage "release build" cargo build --release --locked -p coracle || finish
stage "unit tests" counted cargo test --workspace --exclude coracle-tests --locked --no-fail-fast
stage "launcher tests with fallbacks" fallbacks
stage "standard image" wait "$image" || finish
stage "whole-system tests" whole_system "$target/release/coracle"
stage "static build" scripts/static.sh &&
    stage "launcher tests of the static file" whole_system "$target/$triple/release/coracle" --test launch --test nested
stage "benchmarks run" cargo run -q --locked -p coracle-bench -- --smoke
stage "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc -q --workspace --no-deps --locked
if compgen -G 'fuzz/fuzz_targets/*.rs' >/dev/null; then
    stage "fuzzing" scripts/fuzz.sh "${CORACLE_FUZZ_SECONDS:-15}"
fi
finish
