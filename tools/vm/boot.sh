#!/bin/sh
# Boots disks in the machine in the machine: QEMU in pure emulation, so that it needs no /dev/kvm and is the same
# everywhere. What /init of the first disk prints is shown; its status is this program's.
#
#   tools/vm/boot.sh SECONDS DISK...
#
# Three serial lines: the first is what /init prints. The kernel's own words go over the second, and are shown when
# something failed. The status comes over the third, which nothing else writes to: a machine that panics, hangs, is killed
# or powers itself off has said nothing there, and has failed: 124 when the time was up, 125 otherwise.
set -u
here=$(cd "$(dirname "$0")" && pwd)
seconds=$1
shift
kernel=$("$here/kernel.sh") || exit 125
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 143' HUP INT TERM # an end by a signal is an end, too

count=$#
for disk in "$@"; do
    set -- "$@" -drive "file=$disk,if=virtio,format=raw,cache=unsafe"
done
shift "$count"

# For speed: programs are at the same addresses each time, so that what QEMU translated of them is used again; memory is
# not cleared twice, nobody waits for a grace period of an idle processor, and page tables have four levels.
options='mitigations=off nokaslr norandmaps init_on_alloc=0 rcupdate.rcu_expedited=1 tsc=reliable'
timeout --foreground --kill-after=5 "$seconds" qemu-system-x86_64 \
    -machine q35 -accel tcg,thread=multi -cpu max,-la57,-smap,-smep -smp 2 -m 2048 \
    -nodefaults -no-user-config -display none -no-reboot \
    -serial stdio -serial "file:$work/console" -serial "file:$work/verdict" \
    "$@" \
    -kernel "$kernel/vmlinuz" -initrd "$kernel/initramfs" \
    -append "nexus.vm nexus.patience=$((seconds > 40 ? seconds - 20 : seconds / 2)) console=ttyS1 panic=-1 $options" </dev/null
qemu=$?

failed() { # why, code
    echo "vm: $1; the last of what its kernel said:" >&2
    tail -n 150 "$work/console" | tr -d '\r' | sed 's/^/    /' >&2
    exit "$2"
}
case $qemu in
0) ;;
124 | 137) failed "it did not end within $seconds s, or was killed" 124 ;;
*) failed "qemu ended with status $qemu" 125 ;;
esac
status=$(sed -n 's/^status \([0-9]\{1,3\}\)$/\1/p' "$work/verdict")
[ -n "$status" ] || failed 'it stopped without a word about its end: it panicked, or was powered off' 125
exit "$status"
