#!/bin/sh
# Makes every attack of crates/sandbox/tests/it/escape in every setting and with each layer of the sandbox left out in turn,
# prints docs/escape-report.md as it was measured, and fails where the committed page or the table of attacks says otherwise.
# `make escape-report` calls it; some minutes. Needs root.
#
#   KNOCKOUT=seccomp|userns|etc|proc|net|cgroup|uid   leave that layer out, and only that: prints each verdict
#   WRITE=1                                           write the page
#
# The feature `knockout` is for this alone: nothing else of the workspace is built with it.
set -eu
cd "$(dirname "$0")/.."
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
export KNOCKOUT="${KNOCKOUT:-}" WRITE="${WRITE:-}"
# An attack that the machine cannot make would be missing from the table.
export NEXUS_REQUIRE=root,bwrap,compiler,rootfs

tools/test-rootfs.sh >/dev/null
exec cargo test --quiet --locked -p sandbox --features knockout --test it -- \
    --ignored --exact --nocapture escape::measure::every_verdict
