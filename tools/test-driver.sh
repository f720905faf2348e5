#!/bin/sh
# The tests of one sandbox driver, by its name: compiled first, then run afresh within 120 seconds.
set -eu
cd "$(dirname "$0")/.."
driver=${1:?usage: tools/test-driver.sh DRIVER}
seconds=120

if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run -p sandbox --no-run
    set -- cargo nextest run -p sandbox -E "kind(test) & test(/$driver/)" --status-level pass
else
    cargo test -p sandbox --no-run
    set -- cargo test -p sandbox --test it -- "$driver"
fi
timeout --foreground --kill-after=10 "$seconds" "$@" || {
    status=$?
    [ "$status" -ne 124 ] || echo "the $driver tests did not end within $seconds s" >&2
    exit "$status"
}
