#!/bin/sh
# The tests that skipped themselves in the last run of cargo-nextest, and why: a line each, from its JUnit report.
set -eu
cd "$(dirname "$0")/.."
report=target/nextest/default/junit.xml # beneath the workspace, wherever cargo builds
[ -e "$report" ] || exit 0
awk '
    /<testcase / {
        match($0, /name="[^"]*"/); name = substr($0, RSTART + 6, RLENGTH - 7)
        match($0, /classname="[^"]*"/); name = substr($0, RSTART + 11, RLENGTH - 12) " " name
    }
    # Only at the beginning of a line of output: a test may speak of the word.
    match($0, /(^|>)SKIPPED: .*/) {
        why = substr($0, RSTART); sub(/^>?SKIPPED: /, "", why); sub(/<\/system-(out|err)>.*/, "", why)
        gsub(/&quot;/, "\"", why); gsub(/&lt;/, "<", why); gsub(/&gt;/, ">", why); gsub(/&amp;/, "\\&", why)
        print "  " name ": " why
    }
' "$report"
