#!/bin/sh
# After a whole test run: fails when a test was skipped, or when fewer tests of a kind exist than tools/test-floor.txt says.
# So a suite cannot fall silent: by a lost file, a lost `mod` line, or a machine that has lost an ability.
set -eu
cd "$(dirname "$0")/.."
failed=0

skipped=$(tools/skipped.sh)
if [ -n "$skipped" ]; then
    printf 'skipped although this machine is to run every test:\n%s\n' "$skipped"
    failed=1
fi

kinds=0
while read -r kind floor filter; do
    case $kind in '' | '#'*) continue ;; esac
    [ "$filter" != - ] || continue # counted elsewhere
    kinds=$((kinds + 1))
    count=$(cargo nextest list --workspace --features egress/knockout --message-format oneline -E "$filter" 2>/dev/null </dev/null | wc -l)
    printf '%6d %s tests (at least %d)\n' "$count" "$kind" "$floor"
    [ "$count" -ge "$floor" ] || { echo "       fewer than before: were they lost? If not, lower tools/test-floor.txt and say why"; failed=1; }
done <tools/test-floor.txt
[ "$kinds" -gt 0 ] || { echo 'tools/test-floor.txt names no kind of test'; failed=1; }
exit "$failed"
