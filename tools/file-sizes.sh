#!/bin/sh
# How long the source files are: over 400 lines of code is a question, over 600 fails.
#
# A line of code is what clippy counts in a function: neither blank nor a comment alone. The tail of a file that holds
# its unit tests (`#[cfg(test)] mod … {`) does not count; files of tests and benchmarks (tests/, benches/) are only asked.
# Tables may be excepted by name, with the reason beside the name.
set -eu
cd "$(dirname "$0")/.."

QUESTION=400
LIMIT=600
# excepted files, separated by spaces (none so far)
EXCEPTED=''

code_lines() {
    awk '
        comment { if (index($0, "*/")) comment = 0; next }
        /^#\[cfg\(test\)\]/ { pending = 1; next }
        pending && /^#\[/ { next }
        pending && /^(pub\(crate\) )?mod [a-z0-9_]+ \{/ { exit }
        pending { pending = 0 }
        /^[ \t]*$/ || /^[ \t]*\/\// { next }
        /^[ \t]*\/\*/ { if (!index($0, "*/")) comment = 1; next }
        { lines++ }
        END { print lines + 0 }
    ' "$1"
}

failed=0
files=0
for file in $(find crates -name '*.rs' | LC_ALL=C sort); do
    files=$((files + 1))
    lines=$(code_lines "$file")
    [ "$lines" -gt "$QUESTION" ] || continue
    limit=$LIMIT
    case $file in */tests/* | */tests.rs | *_tests.rs | */benches/*) limit=none ;; esac
    case " $EXCEPTED " in *" $file "*) limit=none ;; esac
    if [ "$limit" != none ] && [ "$lines" -gt "$limit" ]; then
        failed=1
        echo "$file: $lines lines of code, the limit is $limit: split it by purpose"
    else
        echo "$file: $lines lines of code (over $QUESTION: does it have one purpose?)"
    fi
done
[ "$files" -gt 0 ] || { echo 'no source files found beneath crates/'; exit 1; }
exit "$failed"
