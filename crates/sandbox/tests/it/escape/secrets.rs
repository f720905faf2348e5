//! Reading what is the host's.

use super::attack::Control::{Daemon, Inside, Root, User};
use super::attack::Layer::{Capabilities, Etc, Helper, Mounts, Pids, Seccomp, Uid};
use super::attack::probe;

attacks! { Secrets:
    the_shadow_file, [Etc, Uid],
        probe(&["read", "/etc/shadow"], Root).act(),
        "reads `/etc/shadow`";
    the_daemon_s_configuration_in_etc, [Etc],
        probe(&["read", "/etc/opt/nexusd.yaml"], User).act(),
        "reads a configuration in the host's `/etc` that everybody may read";
    the_daemon_s_key_in_etc, [Etc, Uid],
        probe(&["read", "/etc/opt/nexusd.key"], Daemon).act(),
        "reads a private key in the host's `/etc` that belongs to the daemon's user";
    the_host_s_users, [Etc],
        probe(&["read-for", "/etc/passwd", "somebody:"], User).act(),
        "looks the host's users up in `/etc/passwd`";
    the_daemon_s_key_in_its_folder, [Mounts],
        probe(&["read", "{dir}/key"], Daemon).act(),
        "reads a key of the daemon's beside the facility";
    another_facility, [Mounts],
        probe(&["read", "/workspace/../other/file"], Inside(&["read", "/workspace/../workspace/own"])).act(),
        "reads the facility next to its own, by `..` from the workspace";
    the_daemon_s_folder_by_its_path, [Mounts],
        probe(&["list", "{dir}"], User).act(),
        "lists the folder of facilities by its path on the host";
    what_is_in_home, [Mounts],
        probe(&["read", "/home/file"], User).act(),
        "reads somebody's home";
    what_is_in_root, [Mounts],
        probe(&["list", "/root"], Root).act(),
        "lists root's home";
    what_is_in_var, [Mounts],
        probe(&["read", "/var/opt/file"], User).act(),
        "reads the host's `/var`";
    the_helper_s_environment, [Helper],
        probe(&["read", "/proc/1/environ"], Inside(&["read", "/proc/self/status"])).act(),
        "reads the environment of process 1";
    the_helper_s_root, [Helper],
        probe(&["list", "/proc/1/root/"], Inside(&["list", "/proc/self/root/"])).act(),
        "goes to the root directory of process 1";
    the_environment_of_a_process_outside, [Pids],
        probe(&["read", "/proc/{pid}/cmdline"], User).act(),
        "reads the command line of a process of the host, by its pid there";
    a_file_by_its_handle, [Seccomp, Capabilities],
        probe(&["by-handle", "/usr"], Root).act(),
        "opens a directory by its handle, past all mounts (\"shocker\")";
    a_file_of_the_daemon_s_user_in_the_facility, [Uid],
        probe(&["read", "/workspace/closed"], Inside(&["read", "/workspace/own"])).act(),
        "reads a file in the facility that is the daemon's user's alone",
        a user: Nothing "sandboxes have the daemon's own uid, and the facility is theirs";
}
