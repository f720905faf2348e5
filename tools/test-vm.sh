#!/bin/sh
# The tests that need another machine than this one: a modern host with cgroup v2 alone, delegation, settings that are
# switched off and on. It is made here: QEMU emulates a machine, Debian's kernel boots in it, and this host's own programs
# and the test programs of `make test` are its disk. Nothing of this host is seen or changed from inside.
#
#   tools/test-vm.sh [FILTER]     with a filter, a pattern of grep, only tests whose names match it
#
# The machine is switched off after 400 s; NEXUS_VM_SECONDS says otherwise.
set -eu
umask 022 # what is made here is for every user there
cd "$(dirname "$0")/.."
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH:/usr/sbin:/sbin"
filter=${1:-}
seconds=${NEXUS_VM_SECONDS:-400}
say() { echo "vm: $*"; }

# What runs there: package, and patterns of the names of tests.
plan='
sandbox ^limits:: ^confinement:: ^endings::nobody ^escape::survivors::[^t] ^escape::survivors::twice ^escape::resources::a_fork
sandbox ^escape::resources::a_thread ^escape::resources::a_memory ^escape::resources::memory ^escape::resources::a_limit
sandbox ^escape::resources::an_open ^escape::resources::each
nexusd ^vm:: ^run::streams ^run::the_timeout ^limits::a_file
'
# Everything that those tests and the sandboxes in them start.
programs='sh bash
    basename cat chmod chown chroot cp cut date dd df dirname du echo env expr false head id kill ln ls mkdir mkfifo mknod
    mktemp mv nohup nproc od printf pwd readlink realpath rm rmdir seq sha256sum sleep sort stat stty sync tail tee test
    timeout touch tr true truncate tty uname uniq wc yes
    awk find grep gzip hostname sed tar xargs
    dmesg fallocate flock mkfs.ext4 mkfs.xfs mkswap mount nsenter prlimit setpriv setsid swapoff swapon umount unshare
    free pgrep pkill ps sysctl
    bwrap git ip ldconfig python3 socat'

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || {
    say "not on $(uname -s) $(uname -m): the machine in the machine is Linux on x86_64, of this host's own programs" >&2
    exit 1
}
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target"
target=$(cd "$target" && pwd)
work=$(mktemp -d "$target/vm-XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 143' HUP INT TERM # an end by a signal is an end, too

say 'compiling the tests, as make test does'
cargo test --workspace --features egress/knockout --no-run --message-format json-render-diagnostics >"$work/artifacts"
# The program of a package's integration tests.
tests_of() {
    grep "\"manifest_path\":\"[^\"]*/crates/$1/Cargo.toml\"" "$work/artifacts" | grep '"kind":\["test"\]' |
        grep '"name":"it"' | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p'
}

root=$work/root
echo "$plan" | while read -r package patterns; do
    [ -n "$package" ] || continue
    program=$(tests_of "$package")
    [ -n "$program" ] || { say "cargo built no tests of $package" >&2; exit 1; }
    if [ -n "$filter" ]; then
        patterns=$filter
        "$program" --list --format terse | sed -n 's/: test$//p' | grep -q "$filter" || continue
    fi
    echo "$package::it $PWD/crates/$package $program $patterns"
done >"$work/lines"
LC_ALL=C sort -u "$work/lines" >"$work/plan" # with a filter, a package's lines are the same
least=$(awk '$1 == "vm" { print $2 }' tools/test-floor.txt)
[ -z "$filter" ] || least=1
# No compiler is there: the program of the attacks is made here.
attack=$(tests_of sandbox)
attack=$("$attack" --exact escape::program::it_compiles --show-output | sed -n 's/^attack program: //p')
# shellcheck disable=SC2046,SC2086 # lists of words
tools/vm/root.sh "$root" $programs "$attack" "$target/debug/nexusd" $(cut -d ' ' -f 3 "$work/plan" | sort -u)
cp tools/vm/init.sh "$root/init"
cp tools/vm/run-tests.sh "$work/plan" "$root/"
awk '{ print $2 }' "$work/plan" | while read -r directory; do mkdir -p "$root$directory"; done
cat >"$root/payload" <<PAYLOAD
#!/bin/sh
# Emulated, everything takes its time.
export NEXUS_TEST_PATIENCE=4
export NEXUS_REQUIRE=vm,root,userns,bwrap,socat,git,ipv6,cgroupv2,cgroups,landlock,seccomp,python
exec bash /run-tests.sh $least </plan
PAYLOAD
chmod 755 "$root/init" "$root/payload"
printf '%s\n' root:x:0:0:root:/root:/bin/bash user:x:1000:1000::/home/user:/bin/bash \
    nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin >"$root/etc/passwd"
printf '%s\n' root:x:0: user:x:1000: nogroup:x:65534: >"$root/etc/group"
printf '%s\n' 'passwd: files' 'group: files' 'hosts: files dns' >"$root/etc/nsswitch.conf"
echo 'nameserver 127.0.0.1' >"$root/etc/resolv.conf"
printf '%s\n' '127.0.0.1 localhost' '::1 localhost' >"$root/etc/hosts"
# The disk: as large as what is on it, and room for what the tests write.
mib=$(($(du -sm "$root" | cut -f 1) + 3072))
truncate -s "${mib}M" "$work/disk"
# Root's there, whoever makes it here.
as_root=''
[ "$(id -u)" = 0 ] || as_root='unshare --map-root-user'
$as_root mkfs.ext4 -q -F -O ^has_journal -d "$root" "$work/disk"
rm -rf "$root"

kernel=$(tools/vm/kernel.sh)
say "booting $(cat "$kernel/package"), emulated; two to three minutes on two idle cores, ended after $seconds s"
tools/vm/boot.sh "$seconds" "$work/disk"
