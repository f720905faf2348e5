#!/bin/sh
# Release binaries in dist/: `linux` (amd64 and arm64, or the one that is named; each a static file that runs on any
# distribution) or `macos`. Beside those for Linux what install.sh needs, and SHA256SUMS over all that dist/ has.
# What this machine cannot build is said plainly, the rest is built, and the exit status is 1.
set -eu
cd "$(dirname "$0")/.."
usage='usage: tools/build-release.sh linux [amd64|arm64] | macos'
system=${1:?$usage}
mkdir -p dist

has_target() { # the standard library of a target, installed with the compiler
    [ -d "$(rustc --print sysroot)/lib/rustlib/$1/lib" ]
}

failed=0
build_linux() { # name in dist, Rust's name, the cross linker
    name=$1 target=$2 linker=$3
    # What an earlier commit left is not of this release.
    rm -f "dist/nexusd-linux-$name" "dist/mothership-linux-$name" dist/*_"$name.deb"
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
    case ${2:-} in '' | amd64) build_linux amd64 x86_64-unknown-linux-gnu x86_64-linux-gnu-gcc ;; esac
    case ${2:-} in '' | arm64) build_linux arm64 aarch64-unknown-linux-gnu aarch64-linux-gnu-gcc ;; esac
    install -m 0755 nexus-linux/packaging/install.sh dist/
    install -m 0644 nexus-linux/packaging/systemd/*.service nexus-linux/packaging/systemd/*.conf dist/
    ;;
macos)
    if [ "$(uname -s)-$(uname -m)" != Darwin-arm64 ]; then
        echo "the macOS binary cannot be built here: it needs Apple's linker and libraries, on an Apple Silicon Mac (this is $(uname -s) $(uname -m))" >&2
        exit 1
    fi
    rm -f dist/nexusd-macos-arm64
    tools/with-revision.sh cargo build --release --locked -p nexusd --target aarch64-apple-darwin
    install -m 0755 "${CARGO_TARGET_DIR:-target}/aarch64-apple-darwin/release/nexusd" dist/nexusd-macos-arm64
    ;;
*)
    echo "$usage" >&2
    exit 2
    ;;
esac
tools/release-sums.sh dist
ls -l dist
exit "$failed"
