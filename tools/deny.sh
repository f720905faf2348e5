#!/bin/sh
# Licences, banned and doubled crates, and sources (deny.toml), where cargo-deny is installed.
set -eu
cd "$(dirname "$0")/.."
if cargo deny --version >/dev/null 2>&1; then
    cargo deny --offline --log-level warn check bans licenses sources
else
    echo "licences and sources NOT checked: cargo-deny is not installed (cargo install --locked cargo-deny)"
fi
