// Mounts and namespaces.

static int mount_tmpfs(char **a) { return judge("mount", mount("none", a[0], "tmpfs", 0, NULL)); }

static int mount_proc(char **a) { return judge("mount", mount("none", a[0], "proc", 0, NULL)); }


static int bind_mount(char **a) { return judge("mount", mount(a[0], a[1], NULL, MS_BIND | MS_REC, NULL)); }

static int remount(char **a) {
    return judge("remount", mount("none", a[0], NULL, MS_REMOUNT | MS_BIND, NULL));
}

static int unmount(char **a) { return judge("umount", umount2(a[0], MNT_DETACH)); }

static int pivot(char **a) { return judge("pivot_root", syscall(SYS_pivot_root, a[0], a[0])); }

static int fs_open(char **a) {
    int fs = syscall(428 + 2, a[0], 1);
    if (fs < 0) return judge("fsopen", -1);
    syscall(428 + 3, fs, 6, NULL, NULL, 0);
    return judge("fsmount", syscall(428 + 4, fs, 1, 0));
}

static int tree_of(char **a) { return judge("open_tree", syscall(428, AT_FDCWD, a[0], 1)); }

static int move_mounted(char **a) { return judge("move_mount", syscall(429, AT_FDCWD, a[0], AT_FDCWD, a[1], 0)); }

static int set_attributes(char **a) {
    uint64_t attributes[4] = {0, 1, 0, 0};
    return judge("mount_setattr", syscall(442, AT_FDCWD, a[0], 0x8000, attributes, sizeof attributes));
}

static int fs_pick(char **a) { return judge("fspick", syscall(428 + 5, AT_FDCWD, a[0], 0)); }

static int unshare_these(char **a) { return judge("unshare", unshare((int)strtoul(a[0], NULL, 0))); }

static int child_of_clone(void *unused) {
    (void)unused;
    return 7;
}

static int clone_with(char **a) {
    static char stack[65536] __attribute__((aligned(16)));
    int flags = (int)strtoul(a[0], NULL, 0), status = 0;
    int pid = clone(child_of_clone, stack + sizeof stack, flags | SIGCHLD, NULL);
    if (pid > 0) waitpid(pid, &status, 0);
    return judge("clone", pid);
}

static int clone3_with(char **a) {
    uint64_t arguments[11] = {strtoul(a[0], NULL, 0), 0, 0, 0, SIGCHLD};
    long pid = syscall(435, arguments, sizeof arguments);
    if (pid == 0) _exit(0);
    if (pid > 0) waitpid((pid_t)pid, NULL, 0);
    return judge("clone3", pid);
}

static int enter_namespace(char **a) {
    int fd = open(a[0], O_RDONLY | O_CLOEXEC);
    if (fd < 0) return held("opening: %s", strerror(errno));
    return judge("setns", setns(fd, 0));
}

static int enter_by_pidfd(char **a) {
    int fd = (int)syscall(SYS_pidfd_open, atoi(a[0]), 0);
    if (fd < 0) return held("pidfd_open: %s", strerror(errno));
    return judge("setns", setns(fd, CLONE_NEWNS | CLONE_NEWNET));
}
