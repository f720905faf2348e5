#!/bin/sh
# Debian packages of both programs in dist/: tools/build-deb.sh [amd64|arm64] (this machine's where none is named). The
# release binaries are built first. DEB_VERSION is another version than the workspace's, DEB_MAINTAINER who answers for it.
#
# A tree is laid out and dpkg-deb packs it (docs/adr/0019-packages-by-dpkg-deb.md). Equal sources give equal packages.
set -eu
cd "$(dirname "$0")/.."
umask 022

command -v dpkg-deb >/dev/null || {
    echo 'packages cannot be built here: no dpkg-deb (apt-get install dpkg)' >&2
    exit 1
}
native=$(dpkg --print-architecture)
arch=${1:-$native}
case $arch in amd64 | arm64) ;; *)
    echo 'usage: tools/build-deb.sh [amd64|arm64]' >&2
    exit 2
    ;;
esac
tools/build-release.sh linux "$arch" >/dev/null
# Manual and completions come from a program that runs here.
[ "$arch" = "$native" ] || tools/build-release.sh linux "$native" >/dev/null
version=${DEB_VERSION:-$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)}
maintainer=${DEB_MAINTAINER:-Nexus maintainers <maintainers@nexus.invalid>}
if [ -z "${SOURCE_DATE_EPOCH:-}" ] && committed=$(git log -1 --format=%ct 2>/dev/null); then
    export SOURCE_DATE_EPOCH="$committed"
fi

packaging=nexus-linux/packaging
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

put() { install -D -m "$1" "$2" "$tree/$3"; } # mode, file, place

unit() { # its one line that says where the program is, as the package puts it
    sed 's|^ExecStart=/usr/local/bin/|ExecStart=/usr/bin/|' "$packaging/systemd/$1.service" >"$work/unit"
    grep -q "^ExecStart=/usr/bin/$1 " "$work/unit" || {
        echo "$packaging/systemd/$1.service does not start /usr/local/bin/$1" >&2
        exit 1
    }
    put 0644 "$work/unit" "usr/lib/systemd/system/$1.service"
}

texts() { # what the program itself knows
    self=dist/$1-linux-$native
    mkdir -p "$work/$1.man"
    "$self" man "$work/$1.man"
    for page in "$work/$1.man"/*; do
        gzip -9n "$page"
        put 0644 "$page.gz" "usr/share/man/man${page##*.}/${page##*/}.gz"
    done
    for shell in bash zsh fish; do
        "$self" completions $shell >"$work/$1.$shell"
    done
    put 0644 "$work/$1.bash" "usr/share/bash-completion/completions/$1"
    put 0644 "$work/$1.zsh" "usr/share/zsh/vendor-completions/_$1"
    put 0644 "$work/$1.fish" "usr/share/fish/vendor_completions.d/$1.fish"
}

copyright() {
    cat <<TEXT
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: nexus
Source: https://github.com/cybros/nexus

Files: *
Copyright: 2026 the authors of Nexus
License: Apache-2.0
 On Debian systems the text of the licence is in /usr/share/common-licenses/Apache-2.0.
TEXT
}

changelog() {
    printf '%s (%s) unstable; urgency=medium\n\n  * Version %s of https://github.com/cybros/nexus\n\n -- %s  %s\n' \
        "$1" "$version" "$version" "$maintainer" "$(LC_ALL=C date -u -R ${SOURCE_DATE_EPOCH:+-d "@$SOURCE_DATE_EPOCH"})"
}

package() { # program, what it needs, what it goes well with, what it is, and more about that
    program=$1 depends=$2 suggests=$3 summary=$4 more=$5
    tree=$work/$program
    put 0755 "dist/$program-linux-$arch" "usr/bin/$program"
    unit "$program"
    put 0644 "$packaging/systemd/$program.sysusers.conf" "usr/lib/sysusers.d/$program.conf"
    texts "$program"
    copyright >"$work/copyright"
    put 0644 "$work/copyright" "usr/share/doc/$program/copyright"
    changelog "$program" | gzip -9n >"$work/changelog.gz"
    put 0644 "$work/changelog.gz" "usr/share/doc/$program/changelog.gz"
    put 0644 "$packaging/deb/README.$program" "usr/share/doc/$program/README"
    if [ "$program" = nexusd ]; then
        "$self" config example >"$work/config.yaml"
        put 0644 "$work/config.yaml" usr/share/doc/nexusd/examples/config.yaml
        put 0644 "$packaging/systemd/nexusd-as-root.conf" usr/share/doc/nexusd/examples/as-root.conf
        install -d -m 0755 "$tree/etc/nexusd"
    fi

    users=$(sed -n 's/^u \([a-z-]*\) .*/\1/p' "$packaging/systemd/$program.sysusers.conf" | tr '\n' ' ')
    mkdir "$tree/DEBIAN"
    for script in postinst prerm postrm; do
        sed "s/@PROGRAM@/$program/; s/@USERS@/${users% }/" "$packaging/deb/$script" >"$tree/DEBIAN/$script"
        chmod 0755 "$tree/DEBIAN/$script"
    done
    (cd "$tree" && find usr -type f -exec md5sum {} + | LC_ALL=C sort -k 2 >DEBIAN/md5sums)
    cat >"$tree/DEBIAN/control" <<CONTROL
Package: $program
Version: $version
Architecture: $arch
Maintainer: $maintainer
Installed-Size: $(du -k -s --apparent-size "$tree" | cut -f 1)
Depends: $depends
Suggests: $suggests
Section: admin
Priority: optional
Homepage: https://github.com/cybros/nexus
Description: $summary
$more
CONTROL
    dpkg-deb --root-owner-group --build "$tree" "dist/${program}_${version}_$arch.deb"
}

package nexusd 'bubblewrap, ca-certificates, git, passwd, procps' 'podman, socat, mothership' \
    'daemon of Nexus: runs directives in sandboxes' ' It asks a mothership for work, runs each command in a sandbox with a
 workspace that persists, lets out only the connections that were allowed,
 and streams log and result back.'
package mothership 'passwd' 'nexusd' \
    'control plane of Nexus: holds directives and hands them out' ' It queues the directives of people and programs, hands them to the daemons
 that enrolled with it, and keeps their logs and results.'
tools/release-sums.sh dist
