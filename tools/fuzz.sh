#!/bin/sh
# Fuzzes the parsers of hostile bytes (fuzz/), each for some seconds on one processor, and prints for each what
# docs/fuzzing.md says of it. What was found new goes to a folder outside the tree; with KEEP=1 the committed corpus is
# made anew from both: the smallest set of inputs that reaches as much.
#
#   tools/fuzz.sh SECONDS [TARGET...]
#
# With the compiler of the workspace: libFuzzer's instrumentation is LLVM's and needs no other. No address sanitizer: the
# code that is fuzzed has no unsafe block.
set -eu
cd "$(dirname "$0")/.."
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"

seconds=${1:?usage: tools/fuzz.sh SECONDS [TARGET...]}
shift
[ $# -gt 0 ] || set -- head request response body host socks hello credential entry address message

host=$(rustc -vV | sed -n 's/^host: //p')
target=${CARGO_TARGET_DIR:-target}/fuzz
# What cargo-fuzz gives, too: edges counted, comparisons traced.
coverage='-Cpasses=sancov-module -Ccodegen-units=1'
for option in level=4 inline-8bit-counters pc-table trace-compares; do
    coverage="$coverage -Cllvm-args=-sanitizer-coverage-$option"
done
# --target keeps the flags away from build scripts
RUSTFLAGS="--cfg fuzzing $coverage" cargo build --quiet --release --manifest-path fuzz/Cargo.toml \
    --target "$host" --target-dir "$target"

found=$target/found
failed=''
printf '%-11s %12s %8s %6s %9s %8s\n' target executions seconds edges features corpus
for name in "$@"; do
    program=$target/$host/release/$name
    mkdir -p "$found/$name" "fuzz/corpus/$name" fuzz/artifacts
    log=$found/$name.log
    if ! "$program" -max_total_time="$seconds" -timeout=5 -rss_limit_mb=1024 -max_len=2048 -print_final_stats=1 \
        -artifact_prefix="fuzz/artifacts/$name-" "$found/$name" "fuzz/corpus/$name" >"$log" 2>&1; then
        failed="$failed $name"
        tail -n 20 "$log"
    fi
    if [ "${KEEP:-}" = 1 ]; then
        rm -rf "$found/$name.kept"
        mkdir "$found/$name.kept"
        # by edges alone: with how often each was taken, too, it would be thousands of files
        "$program" -merge=1 -use_counters=0 "$found/$name.kept" "fuzz/corpus/$name" "$found/$name" >>"$log.merge" 2>&1
        rm -rf "fuzz/corpus/$name"
        cp -r "$found/$name.kept" "fuzz/corpus/$name"
    fi
    executions=$(sed -n 's/^stat::number_of_executed_units: //p' "$log")
    edges=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    features=$(sed -n 's/.* ft: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    files=$(find "fuzz/corpus/$name" -type f | wc -l)
    printf '%-11s %12s %8s %6s %9s %8s\n' "$name" "$executions" "$seconds" "$edges" "$features" "$files"
done
[ -z "$failed" ] || { echo "FAILED:$failed (fuzz/artifacts)" >&2; exit 1; }
