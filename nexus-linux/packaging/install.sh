#!/bin/sh
# Installs what lies beside it, on Linux with systemd, as root; a Debian package does the same where there is dpkg.
#
#   ./install.sh [nexusd] [mothership]                         both where neither is named; again: the same, or an upgrade
#   ./install.sh --uninstall [--purge] [nexusd] [mothership]   what was installed and nothing else
#
# Beneath PREFIX (/usr/local): the program, its manual, completions, an example configuration; in /etc: the unit and its
# users. Every file is checked against SHA256SUMS first. Nothing is started that did not run. What was installed is
# written down, and no other file is ever replaced or removed: configuration (/etc/nexusd, /etc/default/mothership) and
# state (/var/lib/…) stay, unless --purge says that they shall go, and the users with them.
set -eu
umask 022
export LC_ALL=C

PREFIX=${PREFIX:-/usr/local}
units=/etc/systemd/system
sysusers=/etc/sysusers.d

die() {
    echo "install.sh: $*" >&2
    exit 1
}

uninstall='' purge='' programs=''
for word in "$@"; do
    case $word in
    --uninstall) uninstall=yes ;;
    --purge) purge=yes ;;
    nexusd | mothership) programs="$programs $word" ;;
    *)
        echo "usage: install.sh [--uninstall [--purge]] [nexusd] [mothership]" >&2
        exit 2
        ;;
    esac
done
[ -z "$purge" ] || [ -n "$uninstall" ] || die '--purge goes with --uninstall'
programs=${programs:-nexusd mothership}

case $PREFIX in
/*[!A-Za-z0-9/._-]* | [!/]* | '') die "PREFIX must be an absolute path of plain letters: $PREFIX" ;;
esac
[ "$(uname -s)" = Linux ] || die "this is for Linux ($(uname -s) here)"
[ "$(id -u)" = 0 ] || die 'this needs root'
case $(uname -m) in
x86_64) arch=amd64 ;;
aarch64) arch=arm64 ;;
*) die "there is nothing for this machine ($(uname -m))" ;;
esac

here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

list_of() { echo "$PREFIX/share/nexus/$1.files"; }
with_systemd() { [ -d /run/systemd/system ]; }

# --- what is to be there --------------------------------------------------------------------------------------------

verified() { # a file of the release
    [ -f "$here/$1" ] || die "$1 is missing beside install.sh"
    wanted=$(awk -v name="$1" '$2 == name || $2 == "*" name { print $1 }' "$here/SHA256SUMS")
    [ -n "$wanted" ] || die "SHA256SUMS does not name $1"
    found=$(sha256sum "$here/$1" | cut -d ' ' -f 1)
    [ "$found" = "$wanted" ] || die "$1 is not what SHA256SUMS says: nothing was changed"
}

lay() { # program, mode, file here, its place; laid out in $work first
    install -D -m "$2" "$3" "$work/$1/tree$4"
    echo "$4" >>"$work/$1/files"
}

prepare() {
    program=$1
    mkdir "$work/$program" "$work/$program/man"
    binary=$program-linux-$arch
    for name in "$binary" "$program.service" "$program.sysusers.conf"; do
        verified "$name"
    done
    lay "$program" 0755 "$here/$binary" "$PREFIX/bin/$program"
    # The one line of the unit that says where the program is.
    sed "s|^ExecStart=/usr/local/bin/|ExecStart=$PREFIX/bin/|" "$here/$program.service" >"$work/$program/unit"
    lay "$program" 0644 "$work/$program/unit" "$units/$program.service"
    lay "$program" 0644 "$here/$program.sysusers.conf" "$sysusers/$program.conf"

    # The rest the program knows itself.
    self=$work/$program/tree$PREFIX/bin/$program
    "$self" man "$work/$program/man" || die "$binary does not run from $work (where nothing may be run from there, TMPDIR names another folder)"
    for page in "$work/$program/man"/*; do
        lay "$program" 0644 "$page" "$PREFIX/share/man/man${page##*.}/${page##*/}"
    done
    for shell in bash zsh fish; do
        "$self" completions $shell >"$work/$program/$shell"
    done
    lay "$program" 0644 "$work/$program/bash" "$PREFIX/share/bash-completion/completions/$program"
    lay "$program" 0644 "$work/$program/zsh" "$PREFIX/share/zsh/site-functions/_$program"
    lay "$program" 0644 "$work/$program/fish" "$PREFIX/share/fish/vendor_completions.d/$program.fish"
    if [ "$program" = nexusd ]; then
        verified nexusd-as-root.conf
        "$self" config example >"$work/config.yaml"
        lay nexusd 0644 "$work/config.yaml" "$PREFIX/share/doc/nexusd/examples/config.yaml"
        lay nexusd 0644 "$here/nexusd-as-root.conf" "$PREFIX/share/doc/nexusd/examples/as-root.conf"
    fi

    list=$(list_of "$program")
    while IFS= read -r file; do
        if [ -e "$file" ] || [ -h "$file" ]; then
            grep -qxF "$file" "$list" 2>/dev/null || cmp -s "$work/$program/tree$file" "$file" ||
                die "$file is there, and not from here: move it away, then try again; nothing was changed"
        fi
    done <"$work/$program/files"
}

# --- install --------------------------------------------------------------------------------------------------------

make_folder() { # with its parents; those that are new are written down
    [ ! -d "$1" ] || return 0
    make_folder "$(dirname "$1")" "$2"
    mkdir "$1"
    echo "$1/" >>"$2"
}

install_it() {
    program=$1
    list=$(list_of "$program")
    [ -e "$list" ] && known=yes || known=''
    new=$work/$program/list
    touch "$new"
    make_folder "${list%/*}" "$new"
    [ -z "$known" ] || cat "$list" >>"$new"
    cat "$work/$program/files" >>"$new"
    # Written before anything is there: what is cut off half way can be uninstalled, or installed again.
    sort -u "$new" >"$list"
    while IFS= read -r file; do
        make_folder "${file%/*}" "$list"
        # Beside it, then over it: what runs keeps the old one, and there is never half a file.
        cp -p "$work/$program/tree$file" "$file.new"
        mv -f "$file.new" "$file"
    done <"$work/$program/files"
    # What an older release brought, and this one does not.
    sort -u "$list" >"$new"
    while IFS= read -r file; do
        case $file in
        */) ;;
        *) grep -qxF "$file" "$work/$program/files" || rm -f "$file" ;;
        esac
    done <"$new"
    { grep '/$' "$new" || :; cat "$work/$program/files"; } | sort -u >"$list.new"
    mv -f "$list.new" "$list"

    add_users "$program"
    install -d -m 0700 -o "$program" -g "$program" "/var/lib/$program"
    if with_systemd; then
        systemctl daemon-reload
        [ -z "$known" ] || systemctl --no-block try-restart "$program.service"
    fi
    echo "$("$PREFIX/bin/$program" --version) is in $PREFIX/bin"
    if [ "$program" = nexusd ] && [ ! -e /etc/nexusd/config.yaml ]; then
        echo "next: write /etc/nexusd/config.yaml ($PREFIX/share/doc/nexusd/examples/config.yaml), enrol, systemctl enable --now nexusd"
    fi
}

users_of() { # NAME:WHAT:HOME, from u NAME - "WHAT" HOME
    sed -n 's/^u \([a-z-]*\) *- *"\([^"]*\)" *\(.*\)$/\1:\2:\3/p' "$1"
}

add_users() {
    if command -v systemd-sysusers >/dev/null; then
        systemd-sysusers "$sysusers/$1.conf"
        return
    fi
    users_of "$sysusers/$1.conf" | while IFS=: read -r name about home; do
        getent passwd "$name" >/dev/null ||
            useradd --system --user-group --no-create-home --home-dir "$home" --shell /usr/sbin/nologin --comment "$about" "$name"
    done
}

# --- uninstall ------------------------------------------------------------------------------------------------------

uninstall_it() {
    program=$1
    list=$(list_of "$program")
    if [ ! -e "$list" ]; then
        echo "$program: nothing was installed beneath $PREFIX"
        return
    fi
    if with_systemd; then
        systemctl disable --now "$program.service"
    else
        rm -f "$units/multi-user.target.wants/$program.service"
    fi
    cp "$list" "$work/list"
    grep -v '/$' "$work/list" | while IFS= read -r file; do
        rm -f "$file"
    done
    rm -f "$list"
    # The deepest first. What still holds something is the other program's to remove, where that is installed.
    other=$(list_of "$([ "$program" = nexusd ] && echo mothership || echo nexusd)")
    { grep '/$' "$work/list" || :; } | sort -r | while IFS= read -r folder; do
        rmdir "$folder" 2>/dev/null || [ ! -e "$other" ] || echo "$folder" >>"$other"
    done
    ! with_systemd || systemctl daemon-reload
    echo "$program is uninstalled"
}

purge_it() {
    case $1 in
    nexusd) users='nexusd nexus-sandbox' ;;
    *) users=$1 ;;
    esac
    [ ! -e "$(list_of "$1")" ] || die "$1 is still installed"
    rm -rf --one-file-system "/etc/${1:?}" "/etc/default/${1:?}" "/var/lib/${1:?}"
    for name in $users; do
        ! getent passwd "$name" >/dev/null || userdel "$name"
    done
    echo "$1: configuration, state and users are gone"
}

if [ -n "$uninstall" ]; then
    for program in $programs; do
        uninstall_it "$program"
        [ -z "$purge" ] || purge_it "$program"
    done
    exit 0
fi
[ -f "$here/SHA256SUMS" ] || die 'SHA256SUMS is missing beside install.sh'
for program in $programs; do
    prepare "$program"
done
for program in $programs; do
    install_it "$program"
done
