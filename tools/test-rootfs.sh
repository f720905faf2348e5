#!/bin/sh
# A small Debian root directory for the tests that run sandboxes in one: made once by debootstrap (half a minute, 150 MB),
# then found again in the cache folder. Prints its path. tools/test.sh and tools/escape-report.sh call it.
#
# Needs root, for debootstrap changes its root directory; without root, and where no package mirror answers, it says so
# and exits with 3: the tests that need the directory are then skipped aloud.
set -eu

cache=${XDG_CACHE_HOME:-$HOME/.cache}
rootfs=$cache/nexus-test-rootfs
marker=$rootfs/.complete
export PATH="$PATH:/usr/sbin:/sbin"

missing() {
    echo "test-rootfs: no $rootfs: $*" >&2
    exit 3
}

if [ ! -e "$marker" ]; then
    [ "$(uname -s)" = Linux ] || missing 'debootstrap is for Linux'
    [ "$(id -u)" = 0 ] || missing 'making it needs root'
    mkdir -p "$cache"
    # Two test runs at once make it once.
    exec 9>"$rootfs.lock"
    flock -w 600 9 || missing 'another process has been making it for ten minutes'
fi

if [ ! -e "$marker" ]; then
    if ! command -v debootstrap >/dev/null; then
        command -v apt-get >/dev/null || missing 'debootstrap is not installed, and there is no apt-get'
        echo 'test-rootfs: installing debootstrap' >&2
        { timeout 300 apt-get -q -y -o DPkg::Lock::Timeout=120 update &&
            DEBIAN_FRONTEND=noninteractive timeout 300 apt-get -q -y -o DPkg::Lock::Timeout=120 \
                install --no-install-recommends debootstrap; } >&2 </dev/null || missing 'debootstrap cannot be installed'
    fi
    # The release of this machine where it is a Debian, from the mirror that its own packages come from.
    suite=$(. /etc/os-release && [ "${ID:-}" = debian ] && echo "${VERSION_CODENAME:-}") || suite=''
    mirror=''
    [ -z "$suite" ] || mirror=$(apt-get indextargets --format '$(REPO_URI)' "Codename: $suite" 2>/dev/null | head -n 1)
    echo "test-rootfs: making $rootfs (Debian ${suite:=stable}), once; this takes half a minute" >&2
    fresh=$rootfs.new
    rm -rf --one-file-system "$fresh"
    # shellcheck disable=SC2086 # no mirror is no argument
    timeout 500 debootstrap --variant=minbase "$suite" "$fresh" $mirror >"$rootfs.log" 2>&1 ||
        missing "debootstrap failed, see $rootfs.log: $(tail -n 1 "$rootfs.log")"
    # What a test never reads: package lists, archives, manuals.
    rm -rf "$fresh/var/cache/apt" "$fresh/var/lib/apt/lists" "$fresh/usr/share/doc" "$fresh/usr/share/man" "$fresh/usr/share/locale"
    rm -rf --one-file-system "$rootfs"
    mv "$fresh" "$rootfs"
    date -u +%FT%TZ >"$marker"
fi
echo "$rootfs"
