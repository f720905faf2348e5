//! Deep parts of the kernel: one call each, with arguments that change nothing where they are taken.

use super::attack::Control::{Root, User};
use super::attack::Layer::{Capabilities, Seccomp};
use super::attack::probe;

attacks! { Kernel:
    load_a_bpf_program, [Seccomp, Capabilities],
        probe(&["bpf-program"], Root).act(),
        "bpf(BPF_PROG_LOAD)";
    walk_the_bpf_programs, [Seccomp, Capabilities],
        probe(&["bpf-walk"], Root).act(),
        "bpf(BPF_PROG_GET_NEXT_ID): the programs of the host";
    performance_counters, [Seccomp, Capabilities],
        probe(&["perf"], Root).act(),
        "perf_event_open(2) on a whole processor";
    page_faults_in_user_space, [Seccomp],
        probe(&["userfaultfd"], User).act(),
        "userfaultfd(2)";
    rings_of_calls, [Seccomp],
        probe(&["io-uring"], User).act(),
        "io_uring_setup(2), by which calls pass every filter";
    rings_without_set_up, [Seccomp],
        probe(&["io-uring-register"], User).act(),
        "io_uring_register(2) on no ring at all";
    contexts_of_requests, [Seccomp],
        probe(&["io-setup"], User).act(),
        "io_setup(2): takes contexts of asynchronous requests, of which the whole host has one number";
    watching_file_systems, [Seccomp],
        probe(&["fanotify"], User).act(),
        "fanotify_init(2)";
    another_kernel, [Seccomp, Capabilities],
        probe(&["kexec"], Root).act(),
        "kexec_load(2)";
    another_kernel_by_file, [Seccomp, Capabilities],
        probe(&["kexec-file"], Root).act(),
        "kexec_file_load(2)";
    a_module, [Seccomp, Capabilities],
        probe(&["init-module"], Root).act(),
        "init_module(2)";
    a_module_by_file, [Seccomp, Capabilities],
        probe(&["finit-module"], Root).act(),
        "finit_module(2)";
    a_module_taken_out, [Seccomp, Capabilities],
        probe(&["delete-module"], Root).act(),
        "delete_module(2)";
    the_kernel_s_log, [Seccomp, Capabilities],
        probe(&["syslog"], Root).act(),
        "syslog(2)";
    the_clock, [Seccomp, Capabilities],
        probe(&["set-clock"], Root).act(),
        "adjtimex(2)";
    process_accounting, [Seccomp, Capabilities],
        probe(&["acct"], Root).act(),
        "acct(2): a file that the kernel writes";
    a_reboot, [Seccomp, Capabilities],
        probe(&["reboot"], Root).act(),
        "reboot(2)";
}
