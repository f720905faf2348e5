#!/bin/bash
# Inside the machine in the machine: runs tests, one process each, with a time limit each, and ends with a summary.
#
#   run-tests.sh LEAST < PLAN     a line of the plan: LABEL DIRECTORY PROGRAM PATTERN...
#
# The test programs are those of `make test`; a pattern is one of grep, for names of tests. Fewer than LEAST tests, or one that
# skips itself, is a failure: nothing falls silent here.
set -u
least=$1
seconds=100
passed=0 failed=0
began=$(date +%s%N)
output=$(mktemp)

since() { # nanoseconds since, as seconds with three digits
    local millis=$((($(date +%s%N) - $1) / 1000000))
    printf '%d.%03d' $((millis / 1000)) $((millis % 1000))
}

run() { # label, directory, program, test
    local start verdict
    start=$(date +%s%N)
    dmesg --clear
    echo "<1>begins: $1 $4" >/dev/kmsg # if the machine stands still, its console says in which test
    (cd "$2" && exec timeout --kill-after=5 "$seconds" "$3" --exact "$4" --show-output) >"$output" 2>&1
    case $? in
    0) verdict=PASS ;;
    124 | 137) verdict=TIME ;;
    *) verdict=FAIL ;;
    esac
    if grep -q '^SKIPPED' "$output"; then verdict=SKIP; fi
    # A test that is not there passes, too.
    if [ $verdict = PASS ] && ! grep -q '^test result: ok. 1 passed' "$output"; then verdict=NONE; fi
    printf '        %s [%9ss] %s %s\n' $verdict "$(since "$start")" "$1" "$4"
    if [ $verdict = PASS ]; then
        passed=$((passed + 1))
        return
    fi
    failed=$((failed + 1))
    sed 's/^/    /' "$output"
    dmesg | tail -n 20 | sed 's/^/    kernel: /'
}

while read -r label directory program patterns; do
    tests=$("$program" --list --format terse | sed -n 's/: test$//p' | grep "${patterns// /\\|}")
    [ -n "$tests" ] || { echo "        NONE $label has no tests $patterns"; failed=$((failed + 1)); }
    for test in $tests; do run "$label" "$directory" "$program" "$test"; done
done

total=$((passed + failed))
if [ $total -lt "$least" ]; then
    echo "fewer tests than before (at least $least): were they lost? If not, lower tools/test-floor.txt and say why"
    failed=$((failed + 1))
fi
printf -- '------------\n     Summary [%9ss] in the machine in the machine: %d tests run: %d passed, %d failed\n' \
    "$(since "$began")" $total $passed $failed
[ $failed = 0 ]
