#!/bin/sh
# A root directory for the machine in the machine, of this host's own files: programs with the libraries that they load.
# What was built here runs there, and nothing has to be compiled or fetched for it.
#
#   tools/vm/root.sh DIRECTORY PROGRAM...     names, or absolute paths, which stay what they are
#
# What tools/vm/init.sh starts is there in any case.
set -eu
root=$1
shift
set -- busybox dmesg hostname ip ln mkdir mount sh stty sync "$@"
# Not the user's PATH: what stands before these is no part of the system.
host_path='/usr/bin /bin /usr/sbin /sbin'
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

found() { # the path of a program; `command -v` would find the shell's own
    case $1 in /*) echo "$1"; return ;; esac
    for dir in $host_path; do
        [ ! -x "$dir/$1" ] || { echo "$dir/$1"; return; }
    done
    echo "vm: this host has no $1 in $host_path" >&2
    return 1
}

# Each link on the way to a file, and the file.
links() {
    path=$1
    while echo "$path" && [ -L "$path" ]; do
        target=$(readlink "$path")
        case $target in /*) path=$target ;; *) path=${path%/*}/$target ;; esac
    done
}

# What the dynamic loader loads for these files. A static one is none of its business.
libraries() { ldd "$@" 2>/dev/null | grep -o '/[^ :]*\.so[^ :]*' | LC_ALL=C sort -u; }

directory() { # the files beneath a directory, but for those that hold one of these texts
    find "$1" \( -type f -o -type l \) | grep -v -e "$2"
}

mkdir -p "$root"
for dir in dev proc sys run tmp root home opt srv mnt var/tmp var/opt etc/opt usr/local/bin; do mkdir -p "$root/$dir"; done
chmod 1777 "$root/tmp" "$root/var/tmp"
# As on the host: links where / and /usr are one.
for dir in bin sbin lib lib32 lib64 libx32; do
    [ ! -e "/$dir" ] || mkdir -p "$root$(readlink -f "/$dir")"
    [ ! -L "/$dir" ] || ln -s "$(readlink "/$dir")" "$root/$dir"
done

for name in "$@"; do found "$name"; done >"$work/programs"
{
    while read -r file; do links "$file"; done <"$work/programs"
    case " $* " in *' git '*) directory "$(/usr/bin/git --exec-path)" '^$' ;; esac
    case " $* " in *' python3 '*)
        directory "$(/usr/bin/python3 -S -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
            '/\(tests\?\|idlelib\|tkinter\|lib2to3\|ensurepip\|pydoc_data\|config-[^/]*\)/'
        ;;
    esac
} >"$work/files"
# shellcheck disable=SC2046 # a list of paths
libraries $(cat "$work/programs") $(grep '\.so$' "$work/files") >"$work/libraries"
while read -r file; do links "$file"; done <"$work/libraries" >>"$work/files"
LC_ALL=C sort -u "$work/files" | sed 's,^/,,' >"$work/all"
tar -C / -c --no-recursion -T "$work/all" | tar -C "$root" -x
ldconfig -r "$root" 2>/dev/null || PATH=$PATH:/usr/sbin:/sbin ldconfig -r "$root"
