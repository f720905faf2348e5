#!/bin/sh
# Installs what is missing on this machine, and nothing else. Every make target calls it; with nothing missing it takes
# a few milliseconds and prints nothing.
#
#   tools/bootstrap.sh build    what compiling needs: a C compiler, libc's headers, git, Rust; and libc's archive, for static binaries
#   tools/bootstrap.sh check    the same, and clippy and rustfmt
#   tools/bootstrap.sh run      the same as build, and what sandboxes need: bubblewrap, socat, user namespaces
#   tools/bootstrap.sh test     the same as run, and the tools that the compatibility tests use inside a sandbox: Node,
#                               a JDK, Go, … (some 700 MB). Where they cannot be installed those tests skip themselves.
#   tools/bootstrap.sh bench    the same as run, and the proxies that ours is measured against; what cannot be had is not measured
#   tools/bootstrap.sh fuzz     the same as build, and a C++ compiler for libFuzzer
#   tools/bootstrap.sh vm       the same as build, and the machine in the machine: QEMU, what is put on its disk, a kernel
#
# Packages come by apt-get (with sudo where it is not run by root), Rust by rustup into ~/.cargo (no shell profile is
# touched; where rustup is already, its default stays and this folder gets a toolchain of its own). cargo-nextest is not
# installed: it takes ten minutes to compile, and tools/test.sh does without it.
set -eu
cd "$(dirname "$0")/.."

purpose=${1:-run}
case $purpose in bench | build | check | fuzz | run | test | vm) ;; *)
    echo "usage: tools/bootstrap.sh bench|build|check|fuzz|run|test|vm" >&2
    exit 2
    ;;
esac

export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH:/usr/sbin:/sbin"
say() { echo "bootstrap: $*" >&2; }
die() {
    say "$@"
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        die "this needs root, and there is no sudo here. As root, run: $*"
    fi
}

wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

# 1.95 -> 1095, so that versions compare as numbers; 0 where there is no cargo that runs
version_number() { cargo --version 2>/dev/null | awk -F'[ .]' '{ print $2 * 1000 + $3 } END { if (!NR) print 0 }'; }
wanted_number=$(echo "$wanted" | awk -F. '{ print $1 * 1000 + $2 }')

outdated() { [ "$(version_number)" -lt "$wanted_number" ]; }

# --- packages -------------------------------------------------------------------------------------------------------

missing='' # what has to be there
wanted_too='' # what only some tests use
need_command() { have "$1" || missing="$missing $2"; }
want_program() { [ -x "/usr/bin/$1" ] || [ -x "/usr/local/bin/$1" ] || [ -x "/usr/sbin/$1" ] || wanted_too="$wanted_too $2"; }
need_file() { # a glob, the package that brings it
    for found in $1; do
        [ -e "$found" ] && return
    done
    missing="$missing $2"
}

if [ "$(uname -s)" = Linux ]; then
    need_command gcc gcc
    need_command make make
    need_command git git
    need_file '/usr/include/stdio.h /usr/include/*/stdio.h' libc6-dev
    # what is released is linked statically
    [ "$purpose" != build ] || need_file '/usr/lib/*/libc.a /usr/lib/libc.a /usr/lib64/libc.a' libc6-dev
    need_file '/etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt' ca-certificates
    ! outdated || have rustup || need_command curl curl
    [ "$purpose" != fuzz ] || need_command g++ g++
    if [ "$purpose" = bench ]; then
        want_program tinyproxy tinyproxy-bin
        want_program squid squid
        want_program microsocks microsocks
    fi
    if [ "$purpose" = run ] || [ "$purpose" = test ] || [ "$purpose" = bench ]; then
        need_command bwrap bubblewrap
        need_command socat socat
        need_command ip iproute2
        need_command setpriv util-linux
    fi
    if [ "$purpose" = test ] || [ "$purpose" = bench ]; then
        want_program podman podman
        # Bears every kind of cgroups; what podman brings by itself does not.
        want_program runc runc
        [ -x /usr/lib/podman/netavark ] || [ -x /usr/libexec/podman/netavark ] || wanted_too="$wanted_too netavark"
    fi
    if [ "$purpose" = test ]; then
        # Looked for where sandboxes have them: what somebody keeps in a home is not there.
        want_program python3 python3
        ls /usr/lib/python3*/ensurepip >/dev/null 2>&1 || wanted_too="$wanted_too python3-venv"
        want_program node nodejs
        want_program npm npm
        want_program javac default-jdk-headless
        want_program go golang-go
        want_program perl perl
        want_program xz xz-utils
        want_program ssh openssh-client
        # The server is started by tests alone: Debian would start one on installing it.
        [ -x /usr/sbin/sshd ] || [ ! -x /usr/sbin/policy-rc.d ] || wanted_too="$wanted_too openssh-server"
        want_program curl curl
        want_program wget wget
        want_program psql postgresql-client
        want_program redis-cli redis-tools
        want_program sqlite3 sqlite3
        want_program gdb gdb
        want_program strace strace
        want_program ps procps
        want_program less less
        want_program systemd-analyze systemd
        want_program newuidmap uidmap
        want_program faketime faketime
        want_program openssl openssl
        want_program tinyproxy tinyproxy-bin
        want_program groff groff-base
        want_program shellcheck shellcheck
        # As with sshd: started by tests alone, and prometheus never.
        [ -x /usr/bin/promtool ] || [ ! -x /usr/sbin/policy-rc.d ] || wanted_too="$wanted_too prometheus"
        [ -e /usr/lib/nginx/modules/ngx_http_js_module.so ] || [ ! -x /usr/sbin/policy-rc.d ] || wanted_too="$wanted_too nginx-light libnginx-mod-http-js"
    fi
    if [ "$purpose" = vm ]; then
        need_command qemu-system-x86_64 qemu-system-x86
        need_command mkfs.ext4 e2fsprogs
        need_command mkfs.xfs xfsprogs
        need_command modinfo kmod
        need_command cpio cpio
        ldd "$(command -v busybox || echo /none)" 2>&1 | grep -q 'not a dynamic' || missing="$missing busybox-static"
        need_command bwrap bubblewrap
        need_command socat socat
        need_command ip iproute2
        need_command setpriv util-linux
        need_command ps procps
        [ -x /usr/bin/python3 ] || missing="$missing python3"
    fi
fi

can_install() { have apt-get && { [ "$(id -u)" = 0 ] || have sudo; }; }
if [ -n "$wanted_too" ] && ! can_install; then
    say "missing here:$wanted_too (Debian's names). The tests that use them will skip themselves"
    wanted_too=''
fi

if [ -n "$missing$wanted_too" ]; then
    have apt-get || die "missing here:$missing (Debian's names). Install them with this system's package tool, then try again"
    say "installing:$missing$wanted_too"
    apt() {
        # The lock of another apt-get and a network that stumbles are waited for, with a bound.
        as_root timeout 600 env DEBIAN_FRONTEND=noninteractive apt-get -q -y \
            -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 "$@" </dev/null >&2
    }
    apt update || say "apt-get update failed; trying with the package lists that are here"
    # shellcheck disable=SC2086 # a list of words
    [ -z "$missing" ] || apt install --no-install-recommends $missing || die "apt-get could not install:$missing"
    # shellcheck disable=SC2086 # a list of words
    [ -z "$wanted_too" ] || apt install --no-install-recommends $wanted_too ||
        say "apt-get could not install:$wanted_too. The tests that use them will skip themselves"
fi

# --- Rust -----------------------------------------------------------------------------------------------------------

if outdated && have rustup; then
    # A toolchain for this folder alone: the default of the user, and what his other folders use, stay as they are.
    [ -z "${RUSTUP_TOOLCHAIN:-}" ] || die "Rust $wanted is needed, and RUSTUP_TOOLCHAIN=$RUSTUP_TOOLCHAIN asks for another; unset it"
    say "installing Rust $wanted by rustup, for this folder alone (to take that back: rustup override unset)"
    timeout 1200 rustup toolchain install "$wanted" --profile minimal --no-self-update --component clippy --component rustfmt \
        </dev/null >&2 || die "rustup could not install Rust $wanted"
    rustup override set "$wanted" >&2 || die "rustup could not choose Rust $wanted for this folder"
    ! outdated || die "cargo here is $(command -v cargo || echo missing), not rustup's; put rustup's before it on the PATH"
elif outdated; then
    have curl || die "curl is needed to install Rust"
    say "installing Rust $wanted by rustup into ${CARGO_HOME:-$HOME/.cargo}"
    installer=$(mktemp)
    trap 'rm -f "$installer"' EXIT
    fetch() { curl --proto '=https' --tlsv1.2 -sSf --retry 3 --max-time 120 -o "$installer" "$1"; }
    # the same script, at the address that people know and where Rust itself is served from
    fetch https://sh.rustup.rs || fetch https://static.rust-lang.org/rustup/rustup-init.sh ||
        die "neither sh.rustup.rs nor static.rust-lang.org could be reached; install Rust $wanted, then try again"
    # A cargo of the distribution that is too old stays as it is: ours comes first on the PATH of make.
    RUSTUP_INIT_SKIP_PATH_CHECK=yes timeout 1200 sh "$installer" -y --no-modify-path --profile minimal \
        --default-toolchain "$wanted" --component clippy,rustfmt </dev/null >&2 || die "rustup failed"
    say "for a shell of your own: . ${CARGO_HOME:-$HOME/.cargo}/env"
fi

if [ "$purpose" = check ] && have rustup; then
    cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
    cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
fi

# --- the machine in the machine -------------------------------------------------------------------------------------

if [ "$purpose" = vm ]; then
    have apt-get || die "the machine in the machine boots Debian's kernel, fetched by apt-get; there is none here"
    tools/vm/kernel.sh >/dev/null || {
        say "trying with fresh package lists"
        as_root timeout 600 apt-get -q update </dev/null >&2
        tools/vm/kernel.sh >/dev/null || exit 1
    }
fi

# --- user namespaces ------------------------------------------------------------------------------------------------

{ [ "$purpose" = run ] || [ "$purpose" = test ]; } && [ "$(uname -s)" = Linux ] || exit 0

# The smallest sandbox, as an ordinary user: as root nexusd drops to one before it starts bubblewrap.
sandbox_works() {
    set -- bwrap --unshare-all --ro-bind / / true
    if [ "$(id -u)" = 0 ]; then
        setpriv --reuid=65534 --regid=65534 --clear-groups "$@"
    else
        "$@"
    fi
}

complaint=$(cd / && sandbox_works 2>&1) && exit 0

setting=''
if [ "$(cat /proc/sys/kernel/unprivileged_userns_clone 2>/dev/null)" = 0 ]; then
    setting='kernel.unprivileged_userns_clone=1'
elif [ "$(cat /proc/sys/kernel/apparmor_restrict_unprivileged_userns 2>/dev/null)" = 1 ]; then
    setting='kernel.apparmor_restrict_unprivileged_userns=0'
fi
say "bubblewrap cannot make a sandbox here: $complaint"
[ -n "$setting" ] || die "no kernel setting known to Nexus explains it; inside a container, user namespaces must be allowed by its runtime"
say "this kernel setting lets it: $setting"

# It is a setting of the whole machine: only a person, or a CI machine that says it is one, may have it changed.
if [ "${CI:-}" != true ]; then
    [ -t 0 ] && [ -t 2 ] || die "to set it until the next boot: sudo sysctl -w $setting"
    printf 'bootstrap: set it now, until the next boot? [y/N] ' >&2
    read -r answer
    case $answer in [yY]*) ;; *) die "left as it is. To set it: sudo sysctl -w $setting" ;; esac
fi
as_root sysctl -w "$setting" >&2
complaint=$(cd / && sandbox_works 2>&1) || die "still: $complaint"
say "to keep it: echo '$setting' | sudo tee /etc/sysctl.d/99-nexus-userns.conf"
