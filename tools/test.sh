#!/bin/sh
# Every test of the workspace, ending with the runner's summary; before it, what was skipped on this machine and why.
# `make test` and .ci/run call it. Arguments go to cargo-nextest (`tools/test.sh -E 'package(egress)'`).
#
# With cargo-nextest the tests run a process each, with a time limit each (.config/nextest.toml). Where it is missing the
# same tests run under `cargo test`, without those limits: compiling the runner would take longer than all the tests.
set -eu
cd "$(dirname "$0")/.."
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"

# The layers of the egress policy can be left out by its tests (crates/egress/src/knockout.rs). The same wherever tests are
# built (test-floor.sh, test-vm.sh): another set of features is another build.
features=egress/knockout

target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target"
output=$target/test-output.log

# The Debian root that some tests run sandboxes in. Where it cannot be made (3), they are skipped aloud.
[ $# -gt 0 ] || tools/test-rootfs.sh >/dev/null || [ $? -eq 3 ]
# And the container image from it, for the tests of containers.
[ $# -gt 0 ] || tools/test-image.sh >/dev/null || [ $? -eq 3 ]

# Runs a command, shows what it prints and keeps a copy in $output; its exit status is this function's.
show_and_keep() {
    { "$@" 2>&1 && status=0 || status=$?; echo "$status" >"$output.status"; } | tee "$output"
    return "$(cat "$output.status")"
}

if cargo nextest --version >/dev/null 2>&1; then
    # nextest leaves out the examples in the documentation: they come first, so that its summary is the last line.
    [ $# -gt 0 ] || cargo test --quiet --workspace --features "$features" --doc
    rm -f target/nextest/default/junit.xml
    status=0
    show_and_keep cargo nextest run --workspace --features "$features" "$@" || status=$?
    skipped=$(tools/skipped.sh)
    [ -z "$skipped" ] || printf '\nNot tested on this machine:\n%s\n' "$skipped"
    echo
    grep -E '^ *Summary ' "$output" || true
    exit "$status"
fi

[ $# -eq 0 ] || { echo "arguments need cargo-nextest (cargo install --locked cargo-nextest)" >&2; exit 2; }
status=0
show_and_keep cargo test --workspace --features "$features" --no-fail-fast -- --show-output || status=$?
awk '
    /^SKIPPED:/ { skipped[$0]++ }
    /^test result:/ { binaries++; passed += $4; failed += $6; ignored += $8 }
    END {
        for (why in skipped) printf "\nNot tested on this machine: %d tests %s\n", skipped[why], substr(why, 10)
        printf "\nSummary: %d tests run: %d passed, %d failed, %d ignored, in %d test binaries\n",
            passed + failed, passed, failed, ignored, binaries
    }
' "$output"
exit "$status"
