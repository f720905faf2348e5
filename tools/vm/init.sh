#!/bin/sh
# Process 1 of the machine in the machine: makes it a modern host (cgroup v2 alone, with every controller, as a systemd of
# today leaves it), runs /payload as root, and says its status on the third serial line.
export PATH=/usr/bin:/bin:/usr/sbin:/sbin HOME=/root LANG=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts
mount -t devpts -o ptmxmode=666 pts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=755 run /run
mount -t cgroup2 -o nsdelegate cgroup /sys/fs/cgroup
mount -t securityfs security /sys/kernel/security
for link in fd:fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do ln -s "/proc/self/${link#*:}" "/dev/${link%%:*}"; done
hostname vm
ip link set lo up
exec </dev/null >/dev/ttyS0 2>&1
stty -F /dev/ttyS0 -onlcr
stty -F /dev/ttyS2 raw
dmesg -n 3 # what the kernel tells of every killed process is in dmesg, and takes its time on a serial line

# Little before the machine is switched off it says on its console where it stands.
(sleep "$(sed -n 's/.* nexus.patience=\([0-9]*\).*/\1/p' /proc/cmdline)"
    dmesg -n 8
    ps -eo pid,ppid,stat,wchan:24,args | tail -n 50 >/dev/ttyS1
    echo w >/proc/sysrq-trigger
    echo l >/proc/sysrq-trigger) &
/payload &
payload=$!
# Orphans of the tests become process 1's: it reaps whoever ends while it waits.
wait "$payload"
echo "status $?" >/dev/ttyS2

sync
exec busybox poweroff -f
