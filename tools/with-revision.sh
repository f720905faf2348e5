#!/bin/sh
# Runs a build that says which commit it was made of, and of which day, where this is a clone: tools/with-revision.sh CMD…
# What is not committed makes it `<commit>-dirty`. From an archive without git the version stands alone.
set -eu
cd "$(dirname "$0")/.."
if commit=$(git rev-parse --short=12 HEAD 2>/dev/null) && date=$(git log -1 --format=%cs 2>/dev/null); then
    git diff --quiet HEAD -- 2>/dev/null || commit=$commit-dirty
    export NEXUS_COMMIT="$commit" NEXUS_DATE="$date"
fi
exec "$@"
