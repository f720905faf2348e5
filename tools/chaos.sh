#!/bin/sh
# `make chaos`: the whole figures of the chaos suite (500 directives under faults, 1,000 drains, 100 kill -9), then what logs
# cost and how fast they go; of release binaries. Prints the seed of each test; NEXUS_TEST_SEED throws the same dice again.
set -eu
cd "$(dirname "$0")/.."
export NEXUS_CHAOS=full
tools/with-revision.sh cargo build --release --locked -p nexusd -p mothership
tools/with-revision.sh cargo test --release --locked -p nexusd --test chaos -- --test-threads 1 --nocapture
tools/with-revision.sh cargo bench --locked -p nexusd --bench shipping
