// Other processes: tracing, memory, descriptors, signals.

static int attach(char **a) {
    pid_t pid = atoi(a[0]);
    long result = ptrace(PTRACE_ATTACH, pid, 0, 0);
    if (result == 0) {
        waitpid(pid, NULL, __WALL);
        ptrace(PTRACE_DETACH, pid, 0, 0);
    }
    return judge("PTRACE_ATTACH", result);
}

static int seize(char **a) { return judge("PTRACE_SEIZE", ptrace(PTRACE_SEIZE, atoi(a[0]), 0, 0)); }

// A process of the sandbox's own, which is nobody's child to trace.
static pid_t sibling(void) {
    pid_t pid = fork();
    if (pid == 0) {
        pause();
        _exit(0);
    }
    return pid;
}

static int seize_sibling(char **a) {
    (void)a;
    pid_t pid = sibling();
    judge("PTRACE_SEIZE", ptrace(PTRACE_SEIZE, pid, 0, 0));
    return kill(pid, SIGKILL);
}

static int memory_of_sibling(char **a) {
    (void)a;
    static char secret[8] = "secret", copy[8];
    pid_t pid = sibling();
    struct iovec local = {copy, sizeof copy}, remote = {secret, sizeof secret};
    judge("process_vm_readv", process_vm_readv(pid, &local, 1, &remote, 1, 0));
    return kill(pid, SIGKILL);
}

// An address that nobody has: what may be read answers EFAULT.
static int read_memory(char **a) {
    char byte;
    struct iovec local = {&byte, 1}, remote = {(void *)4096, 1};
    return judge("process_vm_readv", process_vm_readv(atoi(a[0]), &local, 1, &remote, 1, 0));
}

static int write_memory(char **a) {
    char byte = 0;
    struct iovec local = {&byte, 1}, remote = {(void *)4096, 1};
    return judge("process_vm_writev", process_vm_writev(atoi(a[0]), &local, 1, &remote, 1, 0));
}

static int open_memory(char **a) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%s/mem", a[0]);
    return judge("opening", open(path, O_RDWR | O_CLOEXEC));
}

static int take_descriptor(char **a) {
    int fd = (int)syscall(SYS_pidfd_open, atoi(a[0]), 0);
    if (fd < 0) return held("pidfd_open: %s", strerror(errno));
    return judge("pidfd_getfd", syscall(SYS_pidfd_getfd, fd, 0, 0));
}

static int send_signal(char **a) { return judge("kill", kill(atoi(a[0]), SIGTERM)); }

static int send_to_all(char **a) {
    (void)a;
    return judge("kill", kill(-1, SIGTERM));
}

static int send_queued(char **a) {
    siginfo_t info = {.si_signo = SIGTERM, .si_code = SI_QUEUE};
    info.si_pid = getpid();
    info.si_uid = getuid();
    return judge("rt_sigqueueinfo", syscall(SYS_rt_sigqueueinfo, atoi(a[0]), SIGTERM, &info));
}

static int send_to_thread(char **a) {
    return judge("tgkill", syscall(SYS_tgkill, atoi(a[0]), atoi(a[0]), SIGTERM));
}

static int send_by_pidfd(char **a) {
    int fd = (int)syscall(SYS_pidfd_open, atoi(a[0]), 0);
    if (fd < 0) return held("pidfd_open: %s", strerror(errno));
    return judge("pidfd_send_signal", syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0));
}

static int scheduling(char **a) {
    return judge("setpriority", setpriority(PRIO_PROCESS, (id_t)atoi(a[0]), 19));
}
