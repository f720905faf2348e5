#!/bin/sh
# The initramfs of the machine in the machine: loads the modules that its disk and the tests need, and goes over to /init
# there. The disk's root is a mount of its own then, which sandboxes can pivot away from; the initramfs is none.
#
#   tools/vm/initramfs.sh MODULE-TREE OUTPUT
set -eu
tree=$1 output=$2
wanted='virtio_pci virtio_blk loop quota_v2 xfs'
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The files of these modules, those that each needs before it. What is built into the kernel has none.
files_of() ( # in a subshell: it calls itself
    for module in "$@"; do
        file=$(find "$tree" -name "$(echo "$module" | sed 's/[-_]/[-_]/g').ko*" | head -n 1)
        [ -n "$file" ] || continue
        # shellcheck disable=SC2046 # a list of words
        files_of $(modinfo -F depends "$file" | tr , ' ')
        echo "$file"
    done
)

mkdir -p "$work/bin" "$work/dev" "$work/root" "$work/modules"
cp "$(command -v busybox)" "$work/bin/busybox"
number=10
# shellcheck disable=SC2086 # a list of words
for file in $(files_of $wanted | awk '!seen[$0]++'); do
    cp "$file" "$work/modules/$number-$(basename "$file")"
    number=$((number + 1))
done
cat >"$work/init" <<'INIT'
#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
for module in /modules/*; do $b insmod "$module"; done
tries=100
until [ -b /dev/vda ] || [ $tries = 0 ]; do
    $b usleep 100000
    tries=$((tries - 1))
done
$b mount -t ext4 -o noatime /dev/vda /root && exec $b switch_root /root /init
echo 'vm: there is no disk to go over to' >/dev/ttyS0
INIT
chmod 755 "$work/init"
(cd "$work" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0) >"$output"
