#!/bin/sh
# The kernel of the machine in the machine and the initramfs that finds its disk; prints the folder that they are in.
#
# Debian's cloud kernel, as users have it: fetched by apt-get once and kept outside the clone. A newer one comes when the
# folder is removed, or when this recipe changes.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
PATH=$PATH:/usr/sbin:/sbin
say() { echo "vm: $*" >&2; }

recipe=$(cat "$here/kernel.sh" "$here/initramfs.sh" | sha256sum | cut -c1-12)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/nexus-vm
ready=$cache/kernel-$recipe
if [ ! -e "$ready/vmlinuz" ]; then
    package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends: linux-image-/ { print $2; exit }')
    [ -n "$package" ] || {
        say 'apt-cache knows no linux-image-cloud-amd64: the machine in the machine boots the kernel of Debian on amd64,'
        say 'and fetches it by apt-get from the package archive of Debian (try apt-get update)'
        exit 1
    }
    say "fetching $package"
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/new-XXXXXX")
    trap 'rm -rf "$work"' EXIT
    (cd "$work" && timeout 300 apt-get -qq download "$package" 2>apt-log) || { cat "$work/apt-log" >&2; exit 1; }
    dpkg-deb -x "$work/$package"_*.deb "$work/package"
    mkdir "$work/ready"
    echo "$package" >"$work/ready/package"
    mv "$work/package/boot"/vmlinuz-* "$work/ready/vmlinuz"
    "$here/initramfs.sh" "$work/package/lib/modules"/* "$work/ready/initramfs"
    # Whole or not at all; another run may have been faster.
    mv -T "$work/ready" "$ready" 2>/dev/null || [ -e "$ready/vmlinuz" ]
fi
echo "$ready"
