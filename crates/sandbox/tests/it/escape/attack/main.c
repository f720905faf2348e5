// The list of attacks, and the two ways they are asked for: as arguments, and as a shell's `-c`, a line an argument.

static int in_user_namespace(char **a);

static const struct {
    const char *name;
    int (*run)(char **);
    int arguments;
} attacks[] = {
    {"read", read_file, 1}, {"read-for", read_for, 2}, {"list", list_directory, 1}, {"append", append, 1},
    {"create", create, 1}, {"rewrite", rewrite, 1}, {"write", write_text, 2}, {"link", hard_link, 2},
    {"move", move, 2}, {"chmod", change_mode, 1}, {"by-handle", by_handle, 1}, {"inherited", inherited, 0},
    {"chroot", chroot_out, 0}, {"run-planted", run_planted, 1}, {"privileged", privileged, 0},
    {"may-be-setuid", may_be_setuid, 1}, {"mknod", make_node, 4}, {"open-device", open_device, 1},
    {"strange-devices", strange_devices, 1},
    {"mount-tmpfs", mount_tmpfs, 1}, {"mount-proc", mount_proc, 1}, {"bind-mount", bind_mount, 2},
    {"remount", remount, 1}, {"umount", unmount, 1}, {"pivot", pivot, 1}, {"fsopen", fs_open, 1},
    {"open-tree", tree_of, 1}, {"move-mount", move_mounted, 2}, {"mount-setattr", set_attributes, 1},
    {"fspick", fs_pick, 1}, {"unshare", unshare_these, 1}, {"clone", clone_with, 1}, {"clone3", clone3_with, 1},
    {"setns", enter_namespace, 1}, {"setns-pidfd", enter_by_pidfd, 1}, {"in-userns", in_user_namespace, 1},
    {"attach", attach, 1}, {"seize", seize, 1}, {"seize-sibling", seize_sibling, 0},
    {"memory-of-sibling", memory_of_sibling, 0}, {"read-memory", read_memory, 1}, {"write-memory", write_memory, 1},
    {"open-memory", open_memory, 1}, {"take-descriptor", take_descriptor, 1}, {"kill", send_signal, 1},
    {"kill-all", send_to_all, 0}, {"sigqueue", send_queued, 1}, {"tgkill", send_to_thread, 1},
    {"pidfd-signal", send_by_pidfd, 1}, {"setpriority", scheduling, 1},
    {"add-key", add_a_key, 0}, {"user-keyring", user_keyring, 0}, {"request-key", ask_for_a_key, 1},
    {"plant-key", plant_a_key, 1}, {"unlink-key", take_the_key_away, 1},
    {"bpf-program", bpf_program, 0}, {"bpf-walk", bpf_walk, 0}, {"perf", perf_events, 0},
    {"userfaultfd", user_faults, 0}, {"io-uring", uring, 0}, {"io-uring-register", uring_register, 0},
    {"io-setup", old_requests, 0},
    {"fanotify", fanotify, 0}, {"kexec", kexec, 0}, {"kexec-file", kexec_file, 0}, {"init-module", load_module, 0},
    {"finit-module", load_module_file, 0}, {"delete-module", unload_module, 0}, {"syslog", read_kernel_log, 0},
    {"set-clock", set_clock, 0}, {"acct", accounting, 0}, {"reboot", reboot_command, 0},
    {"filter-seccomp", filter_by_seccomp, 0}, {"filter-prctl", filter_by_prctl, 0}, {"filter-probe", filter_probe, 0},
    {"socket-filter", socket_filter, 1}, {"gate", gate, 2}, {"tiocsti", type_into, 0}, {"tioclinux", paste_into, 0},
    {"tty", controlling_terminal, 0},
    {"socket", make_socket, 3}, {"socketpair", make_pair, 3}, {"unix", connect_unix, 1}, {"tcp", connect_tcp, 2},
    {"udp", send_udp, 2}, {"dns", ask_dns, 2}, {"ping", ping, 1}, {"interfaces", interfaces, 0},
    {"forks", forks, 1}, {"forks-after-raising", forks_after_raising, 1},
    {"threads", threads, 1}, {"memory", memory, 1}, {"memory-file", memory_file, 1},
    {"fill", fill, 2}, {"open-files", open_files, 1}, {"raise-limit", raise_limit, 1}, {"core", dump_core, 0},
    {"flood", flood, 1}, {"linger", linger, 4},
};

static int run(int count, char **words) {
    for (size_t index = 0; index < sizeof attacks / sizeof *attacks; index++)
        if (count > 0 && strcmp(attacks[index].name, words[0]) == 0) {
            if (count - 1 < attacks[index].arguments) break;
            attacks[index].run(words + 1);
            return 0;
        }
    fprintf(stderr, "no attack of this name and number of arguments: %s\n", count > 0 ? words[0] : "");
    return 2;
}

// An attack with all the rights that a user namespace of one's own gives.
static int in_user_namespace(char **a) {
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0) return held("unshare: %s", strerror(errno));
    int count = 0;
    while (a[count]) count++;
    return run(count, a);
}

int main(int argc, char **argv) {
    char *words[16] = {0};
    if (argc == 3 && strcmp(argv[1], "-c") == 0) {
        int count = 0;
        for (char *word = strtok(argv[2], "\n"); word && count < 15; word = strtok(NULL, "\n")) words[count++] = word;
        return run(count, words);
    }
    return run(argc - 1, argv + 1);
}
