#!/bin/sh
# Checks the types of nexusd for macOS on Apple Silicon, from a machine that is none. Nothing is linked and nothing runs: it
# finds what does not compile there, and no more.
#
# Exit status: 0 it compiles, 1 it does not, 2 it cannot be checked here, with the reason.
#
# The standard library of that target is taken from where it is: on a Mac, or where `rustup target add aarch64-apple-darwin`
# brought it. Else it is built from source, for which Debian has a compiler with its source beside (rustc-web, rust-web-src):
# fetched by apt-get download, unpacked in the cache folder, installed nowhere. It is not the toolchain's own version: its
# warnings are not ours.
#
# Build scripts compile C (aws-lc-sys). There is no C compiler for macOS here, and types are checked without its work: what
# they are given writes empty files.
set -eu
cd "$(dirname "$0")/.."

CRATES='conduits sys guest egress sandbox nexusd mothership'
TARGET=aarch64-apple-darwin
cache=${XDG_CACHE_HOME:-$HOME/.cache}/nexus-check-macos
# Of its own: another compiler makes another standard library and everything else anew.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/check-macos"

cannot() {
    echo "check-macos: cannot check types for macOS here: $*" >&2
    exit 2
}
have() { command -v "$1" >/dev/null 2>&1; }

packages=''
for crate in $CRATES; do packages="$packages -p $crate"; done

check() { # what goes before the target
    # shellcheck disable=SC2086 # lists of words
    if cargo check --locked --quiet $* --target $TARGET $packages; then
        echo "check-macos: $CRATES: compile for $TARGET"
        exit 0
    fi
    echo "check-macos: they do not compile for $TARGET" >&2
    exit 1
}

have cargo || cannot "there is no cargo"
[ "$(uname -s)" != Darwin ] || check

mkdir -p "$cache/bin"
cat >"$cache/bin/no-cc" <<'STUB'
#!/bin/sh
# In the place of a C compiler and of ar: the file that was asked for, empty.
out='' previous=''
for word in "$@"; do
    case $previous in -o) out=$word ;; esac
    case $word in *.a) out=$word ;; esac
    previous=$word
done
[ -z "$out" ] || : >"$out"
STUB
chmod 755 "$cache/bin/no-cc"
export CC_aarch64_apple_darwin="$cache/bin/no-cc" CXX_aarch64_apple_darwin="$cache/bin/no-cc"
export AR_aarch64_apple_darwin="$cache/bin/no-cc" SDKROOT=/nowhere

[ ! -d "$(rustc --print sysroot)/lib/rustlib/$TARGET/lib" ] || check

# --- Debian's compiler and its source -------------------------------------------------------------------------------

have apt-get && have dpkg-deb ||
    cannot "Rust's standard library for $TARGET is not installed (rustup target add $TARGET), and this is not Debian, whose rust-web-src has its source"
[ "$(uname -m)" = x86_64 ] || cannot "Debian's compiler is fetched for x86_64 alone, and this is $(uname -m)"
version=$(apt-cache policy rustc-web 2>/dev/null | sed -n 's/^ *Candidate: \([0-9]*\.[0-9]*\).*/\1/p')
[ -n "$version" ] || cannot "apt-get knows no package rustc-web (it is in Debian's bookworm-security; try apt-get update)"
wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
[ "${version#*.}" -ge "${wanted#*.}" ] || cannot "Debian's rustc-web is $version here, and Nexus wants Rust $wanted (try apt-get update)"

root=$cache/$version
if [ ! -e "$root/whole" ]; then
    echo "check-macos: fetching Debian's Rust $version (137 MB) into $root" >&2
    rm -rf "$root" && mkdir -p "$root/debs"
    llvm=$(apt-cache depends "libstd-rust-web-$version" | sed -n 's/^ *Depends: \(libllvm.*\)/\1/p' | head -n 1)
    (cd "$root/debs" && timeout 600 apt-get -q -o APT::Sandbox::User=root download \
        rustc-web rust-web-src libstd-rust-web-dev "libstd-rust-web-$version" "$llvm" >&2) ||
        cannot "apt-get could not download Debian's Rust $version"
    for deb in "$root"/debs/*.deb; do dpkg-deb -x "$deb" "$root"; done
    rm -rf "$root/debs"
    : >"$root/whole"
fi
cat >"$cache/bin/rustc" <<STUB
#!/bin/sh
LD_LIBRARY_PATH='$root/usr/lib/x86_64-linux-gnu' exec '$root/usr/bin/rustc' "\$@"
STUB
chmod 755 "$cache/bin/rustc"
"$cache/bin/rustc" --version >/dev/null || cannot "Debian's compiler does not run on this machine"

export RUSTC="$cache/bin/rustc" RUSTC_BOOTSTRAP=1 RUSTFLAGS='--cap-lints warn'
check -Zbuild-std=std,panic_unwind
