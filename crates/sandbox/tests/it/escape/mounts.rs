//! Mounts: other views of the host's files, and what covers them taken away.

use super::attack::Control::Root;
use super::attack::Layer::{Capabilities, Landlock, Seccomp, Userns};
use super::attack::probe;

attacks! { Mounts:
    a_new_file_system, [Seccomp, Capabilities, Landlock],
        probe(&["mount-tmpfs", "/run"], Root).act(),
        "mount(2): a tmpfs over `/run`";
    a_new_proc, [Seccomp, Capabilities, Landlock],
        probe(&["mount-proc", "/run"], Root).act(),
        "mount(2): a `/proc` without masks";
    another_place_for_a_directory, [Seccomp, Capabilities, Landlock],
        probe(&["bind-mount", "/", "/run"], Root).act(),
        "mount(2): binds the root elsewhere";
    the_root_made_writable, [Seccomp, Capabilities, Landlock],
        probe(&["remount", "/run"], Root).act(),
        "mount(2): remounts a read-only tree read-write";
    a_mask_taken_away, [Seccomp, Capabilities, Landlock],
        probe(&["umount", "/run"], Root).act(),
        "umount2(2): takes away what is mounted over something";
    another_root, [Seccomp, Capabilities, Landlock],
        probe(&["pivot", "/run"], Root).act(),
        "pivot_root(2)";
    a_chroot, [Seccomp, Capabilities],
        probe(&["chroot"], Root).act(),
        "chroot(2), the first step of the classic way out of one";
    a_file_system_by_descriptors, [Seccomp, Capabilities],
        probe(&["fsopen", "tmpfs"], Root).act(),
        "fsopen(2), fsconfig(2), fsmount(2)";
    a_tree_by_descriptor, [Seccomp, Capabilities],
        probe(&["open-tree", "/run"], Root).act(),
        "open_tree(2) with OPEN_TREE_CLONE";
    a_tree_moved, [Seccomp, Capabilities, Landlock],
        probe(&["move-mount", "/run", "/home"], Root).act(),
        "move_mount(2)";
    attributes_of_a_mount, [Seccomp, Capabilities],
        probe(&["mount-setattr", "/run"], Root).act(),
        "mount_setattr(2): takes read-only back from a whole tree";
    a_configured_file_system, [Seccomp, Capabilities],
        probe(&["fspick", "/run"], Root).act(),
        "fspick(2) on a mount that is there";
    a_mount_in_a_user_namespace, [Seccomp, Userns, Landlock],
        probe(&["in-userns", "mount-tmpfs", "/tmp"], Root).act(),
        "mount(2) with all the rights of a user namespace of its own";
    a_tree_in_a_user_namespace, [Seccomp, Userns],
        probe(&["in-userns", "open-tree", "/"], Root).act(),
        "open_tree(2) with all the rights of a user namespace of its own";
}
