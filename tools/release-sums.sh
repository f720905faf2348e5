#!/bin/sh
# SHA256SUMS over every file of a folder: tools/release-sums.sh DIR
set -eu
cd "${1:?usage: tools/release-sums.sh DIR}"
if command -v sha256sum >/dev/null 2>&1; then sum=sha256sum; else sum='shasum -a 256'; fi
rm -f SHA256SUMS
set --
for file in *; do
    [ ! -f "$file" ] || set -- "$@" "$file"
done
[ $# -gt 0 ] || exit 0
$sum "$@" >.SHA256SUMS
mv .SHA256SUMS SHA256SUMS
