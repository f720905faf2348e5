//! Changing what is the host's.

use super::attack::Control::{Inside, User};
use super::attack::Layer::{Helper, Mounts, Uid};
use super::attack::{Act, Verdict, probe};
use super::scene::Scene;

fn changed_beside(scene: &Scene) -> bool {
    std::fs::read_to_string(scene.path("beside/file")).unwrap() != "untouched\n"
}

fn made_beside(scene: &Scene) -> bool {
    scene.path("beside/made").exists()
}

/// A descriptor that stays open across exec, unless it is closed on purpose.
fn inherited(scene: &Scene) -> Verdict {
    let left = std::fs::File::open("/dev/null").unwrap();
    rustix::io::fcntl_setfd(&left, rustix::io::FdFlags::empty()).unwrap();
    let verdict = scene.inside(&["inherited"], sandbox::Limits::default());
    let control = scene.outside(&["inherited"], false);
    assert!(control.is_broken(), "the control: {control:?}");
    verdict
}

attacks! { Writing:
    a_file_beside_the_facility, [Mounts],
        probe(&["append", "{dir}/beside/file"], User).seen(changed_beside).act(),
        "appends to a file beside the facility that everybody may write";
    a_new_file_beside_the_facility, [Mounts],
        probe(&["create", "{dir}/beside/made"], User).seen(made_beside).act(),
        "makes a file in a folder beside the facility that everybody may write";
    a_link_out_of_the_facility, [Mounts],
        probe(&["link", "/workspace/own", "/tmp/own"], Inside(&["link", "/workspace/own", "/workspace/linked"])).act(),
        "takes a file of the workspace elsewhere by a hard link";
    a_program_of_the_root, [Mounts, Uid],
        probe(&["append", "/usr/bin/env"], Inside(&["append", "/workspace/own"])).act(),
        "appends to a program in `/usr`";
    the_users_of_the_root, [Mounts],
        probe(&["append", "/etc/passwd"], Inside(&["append", "/workspace/own"])).act(),
        "adds a user to `/etc/passwd`";
    the_helper_on_its_mount, [Mounts],
        probe(&["append", "/.nexus/nexus-init"], Inside(&["append", "/workspace/own"])).act(),
        "writes into the helper that ssh is told to run";
    the_running_helper, [Helper],
        probe(&["append", "/proc/1/exe"], Inside(&["append", "/proc/self/cwd/own"])).act(),
        "writes into the program of process 1, by `/proc/1/exe`";
    the_top_of_the_root, [Mounts],
        probe(&["create", "/made"], Inside(&["create", "/tmp/made"])).act(),
        "makes a file at the top of the root";
    a_descriptor_of_the_daemon_s, [Helper],
        Act::Own(inherited),
        "looks for descriptors that were left open for it";
}
