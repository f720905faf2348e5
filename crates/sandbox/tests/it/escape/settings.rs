//! Settings of the kernel: what is written is what was there, so that the control changes nothing either.

use super::attack::Control::{Inside, Root, User};
use super::attack::Layer::{Capabilities, Mounts, Pids, Proc, Uid};
use super::attack::probe;

attacks! { Settings:
    the_handler_of_core_dumps, [Proc, Uid],
        probe(&["rewrite", "/proc/sys/kernel/core_pattern"], Root).act(),
        "writes `/proc/sys/kernel/core_pattern`: a program that the kernel starts as root";
    the_command_of_the_power_button, [Proc, Uid],
        probe(&["rewrite", "/proc/sys/kernel/poweroff_cmd"], Root).act(),
        "writes `/proc/sys/kernel/poweroff_cmd`, another such program";
    how_memory_is_given_out, [Proc, Uid],
        probe(&["rewrite", "/proc/sys/vm/overcommit_memory"], Root).act(),
        "writes `/proc/sys/vm/overcommit_memory`";
    the_magic_key, [Proc, Uid],
        probe(&["rewrite", "/proc/sysrq-trigger", "/proc/sys/kernel/panic"], Root).act(),
        "writes `/proc/sysrq-trigger`, or what the kernel does when it panics";
    the_host_s_sys, [Mounts],
        probe(&["list", "/sys"], User).act(),
        "lists `/sys` (`uevent_helper`, cgroups, devices)";
    the_uevent_helper, [Mounts],
        probe(&["rewrite", "/sys/kernel/uevent_helper", "/sys/kernel/rcu_expedited"], Root).act(),
        "writes `/sys/kernel/uevent_helper`, a program that the kernel starts as root, and another setting there";
    the_last_to_be_killed, [Capabilities],
        probe(&["write", "/proc/self/oom_score_adj", "-1000"], Inside(&["write", "/proc/self/oom_score_adj", "900"])).act(),
        "keeps the kernel from choosing it when memory runs out";
    the_score_of_the_helper, [Uid],
        probe(&["write", "/proc/1/oom_score_adj", "1000"], Inside(&["write", "/proc/self/oom_score_adj", "1000"])).act(),
        "writes `/proc/1/oom_score_adj`",
        a user: Otherwise "the helper cannot be dumped, so its files in `/proc` are root's";
    the_score_of_a_process_outside, [Pids],
        probe(&["write", "/proc/{pid}/oom_score_adj", "1000"], User).act(),
        "writes `oom_score_adj` of a process of the host";
}
