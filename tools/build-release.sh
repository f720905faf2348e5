#!/bin/sh
# Release binaries in dist/: `linux` (amd64 and arm64, each a static file that runs on any distribution) or `macos`.
# What this machine cannot build is said plainly, and the exit status is 1.
set -eu
cd "$(dirname "$0")/.."
system=${1:?usage: tools/build-release.sh linux|macos}
mkdir -p dist

has_target() { # the standard library of a target, installed with the compiler
    [ -d "$(rustc --print sysroot)/lib/rustlib/$1/lib" ]
}

failed=0
build_linux() { # name in dist, Rust's name, the cross linker
    name=$1 target=$2 linker=$3
    if ! has_target "$target"; then
        echo "linux-$name cannot be built here: no Rust standard library for $target (rustup target add $target)" >&2
        failed=1
        return
    fi
    if [ "$(uname -m)" != "${target%%-*}" ]; then
        if ! command -v "$linker" >/dev/null 2>&1; then
            echo "linux-$name cannot be built here: no $linker (apt-get install gcc-${target%%-*}-linux-gnu)" >&2
            failed=1
            return
        fi
        variable=$(echo "CARGO_TARGET_${target}_LINKER" | tr 'a-z-' 'A-Z_')
        export "$variable=$linker"
    fi
    # The flag goes to the target alone (--target), so build scripts and macros stay as they are.
    RUSTFLAGS='-C target-feature=+crt-static' \
        tools/with-revision.sh cargo build --release --locked -p nexusd -p mothership --target "$target"
    for binary in nexusd mothership; do
        install -m 0755 "${CARGO_TARGET_DIR:-target}/$target/release/$binary" "dist/$binary-linux-$name"
    done
}

case $system in
linux)
    if [ "$(uname -s)" != Linux ]; then
        echo "Linux binaries are built on Linux (this is $(uname -s))" >&2
        exit 1
    fi
    build_linux amd64 x86_64-unknown-linux-gnu x86_64-linux-gnu-gcc
    build_linux arm64 aarch64-unknown-linux-gnu aarch64-linux-gnu-gcc
    ;;
macos)
    if [ "$(uname -s)-$(uname -m)" != Darwin-arm64 ]; then
        echo "the macOS binary cannot be built here: it needs Apple's linker and libraries, on an Apple Silicon Mac (this is $(uname -s) $(uname -m))" >&2
        exit 1
    fi
    tools/with-revision.sh cargo build --release --locked -p nexusd --target aarch64-apple-darwin
    install -m 0755 "${CARGO_TARGET_DIR:-target}/aarch64-apple-darwin/release/nexusd" dist/nexusd-macos-arm64
    ;;
*)
    echo "usage: tools/build-release.sh linux|macos" >&2
    exit 2
    ;;
esac
ls -l dist
exit "$failed"
