#!/bin/sh
# Boots a disk in the machine in the machine: QEMU in pure emulation, so that it needs no /dev/kvm and is the same
# everywhere. What /init of the disk prints is shown; its status is this program's.
#
#   tools/vm/boot.sh DISK SECONDS
#
# The status comes over a serial line of its own that nothing else writes to. A machine that panics, hangs, is killed or
# powers itself off has said nothing there, and has failed: 124 when the time was up, 125 otherwise.
set -u
here=$(cd "$(dirname "$0")" && pwd)
disk=$1 seconds=$2
kernel=$("$here/kernel.sh") || exit 125
verdict=$(mktemp)
trap 'rm -f "$verdict"' EXIT

# For speed: memory is not cleared twice, nobody waits for a grace period of an idle processor.
options='mitigations=off nokaslr init_on_alloc=0 rcupdate.rcu_expedited=1 tsc=reliable'
timeout --foreground --kill-after=5 "$seconds" qemu-system-x86_64 \
    -machine q35 -accel tcg,thread=multi -cpu max -smp 2 -m 1536 \
    -nodefaults -no-user-config -display none -no-reboot \
    -serial stdio -serial "file:$verdict" \
    -drive "file=$disk,if=virtio,format=raw,cache=unsafe" \
    -kernel "$kernel/vmlinuz" -initrd "$kernel/initramfs" \
    -append "nexus.vm console=ttyS0 quiet panic=-1 $options" </dev/null
qemu=$?

failed() {
    echo "vm: $1" >&2
    exit "$2"
}
case $qemu in
0) ;;
124 | 137) failed "it did not end within $seconds s, or was killed" 124 ;;
*) failed "qemu ended with status $qemu" 125 ;;
esac
status=$(sed -n 's/^status \([0-9]\{1,3\}\)$/\1/p' "$verdict")
[ -n "$status" ] || failed 'it stopped without a word about its end: it panicked, or was powered off' 125
exit "$status"
