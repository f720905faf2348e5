//! Devices of the host.

use super::attack::Control::{Inside, Root, User};
use super::attack::Layer::{Capabilities, Mounts};
use super::attack::probe;

attacks! { Devices:
    a_node_for_the_memory, [Capabilities],
        probe(&["mknod", "/workspace/node", "c", "1", "1"], Root).act(),
        "makes a node for the machine's memory in the workspace";
    a_node_for_a_disk_in_tmp, [Capabilities],
        probe(&["mknod", "/tmp/node", "b", "8", "0"], Root).act(),
        "makes a node for a disk in `/tmp`";
    a_planted_node, [Mounts],
        probe(&["open-device", "/workspace/node-for-all"], Inside(&["open-device", "/dev/zero"])).act(),
        "opens a device node that somebody left in the facility for everybody";
    the_machine_s_disk, [Mounts],
        probe(&["open-device", "/run/nodes/disk"], User).act(),
        "opens a disk by the path that it has on the host";
    devices_of_the_host, [Mounts],
        probe(&["strange-devices", "/dev"], Root).act(),
        "looks in `/dev` for more than what every program needs (kvm, mem, fuse, loop, vsock, disks)";
    a_file_in_dev, [Mounts],
        probe(&["create", "/dev/made"], Inside(&["create", "/dev/shm/made"])).act(),
        "fills the file system of `/dev`, which has no size of its own";
}
