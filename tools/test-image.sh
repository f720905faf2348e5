#!/bin/sh
# A container image for the tests, from the root directory that tools/test-rootfs.sh makes: podman gets it into a store of
# its own in the cache folder, with a configuration of its own, so that nothing of this user's containers is touched.
# Prints the folder. tools/test.sh calls it.
#
# Needs root, podman and runc; where one is missing it says so and exits with 3: the tests that need the image are then
# skipped aloud.
set -eu
cd "$(dirname "$0")/.."

cache=${XDG_CACHE_HOME:-$HOME/.cache}
folder=$cache/nexus-test-containers
marker=$folder/.complete
export PATH="$PATH:/usr/sbin:/sbin"

missing() {
    echo "test-image: no image in $folder: $*" >&2
    exit 3
}

for program in podman runc; do
    command -v $program >/dev/null || missing "$program is not installed"
done
[ "$(id -u)" = 0 ] || missing 'making it needs root'
rootfs=$(tools/test-rootfs.sh) || missing 'there is no root directory to make it from'

mkdir -p "$folder"
# Two test runs at once make it once.
exec 9>"$folder/lock"
flock -w 600 9 || missing 'another process has been making it for ten minutes'
export CONTAINERS_CONF="$folder/containers.conf" CONTAINERS_STORAGE_CONF="$folder/storage.conf"
# runc bears every kind of cgroups; without systemd there is nobody to ask for them.
cat >"$folder/containers.conf" <<CONF
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
CONF
cat >"$folder/storage.conf" <<CONF
[storage]
driver = "overlay"
graphroot = "$folder/store"
runroot = "/run/nexus-test-containers"
CONF
# What the marker says is what podman says: a store that was cut off half way, or is another version's, is made anew.
if [ ! -e "$marker" ] || ! podman image exists localhost/nexus-test:latest </dev/null 2>/dev/null; then
    echo "test-image: making $folder, once" >&2
    rm -f "$marker"
    tar -C "$rootfs" --exclude ./.complete -c . | timeout 300 podman import --quiet - localhost/nexus-test:latest >"$folder/log" 2>&1 ||
        missing "podman import failed: $(tail -n 1 "$folder/log")"
    date -u +%FT%TZ >"$marker"
fi
echo "$folder"
