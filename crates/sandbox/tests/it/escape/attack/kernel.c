// The kernel itself: one call each, with arguments that change nothing where they are taken.

static int add_a_key(char **a) {
    (void)a;
    return judge("add_key", syscall(SYS_add_key, "user", "nexus-escape", "x", 1, -2));
}

static int user_keyring(char **a) {
    (void)a;
    return judge("keyctl", syscall(SYS_keyctl, 0, -4, 0, 0, 0));
}

static int ask_for_a_key(char **a) {
    (void)a;
    long found = syscall(SYS_request_key, "user", a[0], NULL, 0);
    if (found < 0 && errno == ENOKEY) return broken("request_key looked");
    return judge("request_key", found);
}

// A key in the keyring of the uid, for others to find.
static int plant_a_key(char **a) { return judge("add_key", syscall(SYS_add_key, "user", a[0], "x", 1, -4)); }

static int take_the_key_away(char **a) {
    long key = syscall(SYS_keyctl, 10, -4, "user", a[0], 0);
    return judge("unlink", key < 0 ? key : syscall(SYS_keyctl, 9, key, -4, 0, 0));
}

static int bpf_call(int command) {
    static char attributes[64];
    return (int)syscall(SYS_bpf, command, attributes, sizeof attributes);
}

static int bpf_program(char **a) {
    (void)a;
    return judge("BPF_PROG_LOAD", bpf_call(5));
}

static int bpf_walk(char **a) {
    (void)a;
    int next = bpf_call(11);
    if (next < 0 && errno == ENOENT) return broken("the list of programs is empty");
    return judge("BPF_PROG_GET_NEXT_ID", next);
}

// Sampling of the whole of processor 0, the kernel included.
static int perf_events(char **a) {
    (void)a;
    uint64_t attributes[16] = {1 | (uint64_t)128 << 32, 0};
    return judge("perf_event_open", syscall(SYS_perf_event_open, attributes, -1, 0, -1, 0));
}

static int user_faults(char **a) {
    (void)a;
    return judge("userfaultfd", syscall(SYS_userfaultfd, O_CLOEXEC | 1));
}

static int uring(char **a) {
    (void)a;
    uint32_t parameters[30] = {0};
    return judge("io_uring_setup", syscall(425, 1, parameters));
}

static int uring_register(char **a) {
    (void)a;
    long result = syscall(427, -1, 0, NULL, 0);
    return judge("io_uring_register", result);
}

static int old_requests(char **a) {
    (void)a;
    unsigned long context = 0;
    return judge("io_setup", syscall(SYS_io_setup, 16, &context));
}

static int fanotify(char **a) {
    (void)a;
    return judge("fanotify_init", syscall(SYS_fanotify_init, 0x200, O_RDONLY));
}

static int kexec(char **a) {
    (void)a;
    return judge("kexec_load", syscall(SYS_kexec_load, 0, 1000, NULL, 0xffff0000UL));
}

static int kexec_file(char **a) {
    (void)a;
    return judge("kexec_file_load", syscall(320, -1, -1, 0, NULL, ~0UL));
}

static int load_module(char **a) {
    (void)a;
    return judge("init_module", syscall(SYS_init_module, NULL, 0, NULL));
}

static int load_module_file(char **a) {
    (void)a;
    return judge("finit_module", syscall(SYS_finit_module, -1, NULL, ~0));
}

static int unload_module(char **a) {
    (void)a;
    long result = syscall(SYS_delete_module, "nexus_escape_no_such_module", 0x800);
    if (result < 0 && errno == ENOENT) return broken("the module was looked for");
    return judge("delete_module", result);
}

static int read_kernel_log(char **a) {
    (void)a;
    static char buffer[256];
    return judge("syslog", syscall(SYS_syslog, 3, buffer, sizeof buffer));
}

// A tick that no clock takes.
static int set_clock(char **a) {
    (void)a;
    static uint32_t settings[64] = {0x4000};
    return judge("adjtimex", syscall(SYS_adjtimex, settings));
}

static int accounting(char **a) {
    (void)a;
    long result = syscall(SYS_acct, "/nonexistent/nexus-escape");
    if (result < 0 && errno == ENOENT) return broken("the file was looked for");
    return judge("acct", result);
}

static int reboot_command(char **a) {
    (void)a;
    return judge("reboot", syscall(SYS_reboot, 0, 0, 0, NULL));
}

// Filters of one's own: one at most, that allows everything.
static struct sock_filter allow[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
static struct sock_fprog program_of_one = {1, allow};

static int filter_by_seccomp(char **a) {
    (void)a;
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return judge_success("seccomp", syscall(SYS_seccomp, 1, 0, &program_of_one));
}

static int filter_by_prctl(char **a) {
    (void)a;
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return judge_success("prctl", prctl(PR_SET_SECCOMP, 2, &program_of_one, 0, 0));
}

static int filter_probe(char **a) {
    (void)a;
    long result = syscall(SYS_seccomp, 1, 0, NULL);
    return result < 0 && errno == EFAULT ? broken("there are filters") : held("%s", strerror(errno));
}

static int socket_filter(char **a) {
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), option = atoi(a[0]), no_program = -1;
    int classic = option == 26 || option == 51;
    long result = setsockopt(fd, SOL_SOCKET, option, classic ? (void *)&program_of_one : &no_program,
                             classic ? sizeof program_of_one : sizeof no_program);
    if (result < 0 && errno == ENOPROTOOPT) return held("there is no such option");
    return judge("setsockopt", result);
}

// Other doors for the same calls: of 32 bits, and of the x32 ABI. Any answer means that the door is open.
static int in_child(const char *what, long (*call)(void)) {
    pid_t pid = fork();
    if (pid == 0) _exit(call() == -ENOSYS ? 3 : 0);
    int status = 0;
    waitpid(pid, &status, 0);
    if (WIFSIGNALED(status))
        return WTERMSIG(status) == SIGSYS ? held("%s: killed", what) : absent("%s: signal %d", what, WTERMSIG(status));
    return WEXITSTATUS(status) ? absent("%s: ENOSYS", what) : broken("%s answered", what);
}

#ifdef __x86_64__
// getpid, and unshare(CLONE_NEWUSER), of 32 bits.
static long gate_getpid(void) {
    long result = 20;
    __asm__ volatile("int $0x80" : "+a"(result) : "b"(0) : "memory", "r8", "r9", "r10", "r11");
    return result;
}

static long gate_unshare(void) {
    long result = 310;
    __asm__ volatile("int $0x80" : "+a"(result) : "b"(0x10000000L) : "memory", "r8", "r9", "r10", "r11");
    return (int)result;
}

static long x32_getpid(void) {
    long result = syscall(0x40000000L + SYS_getpid);
    return result < 0 ? -errno : result;
}

static long x32_unshare(void) {
    long result = syscall(0x40000000L + SYS_unshare, 0x10000000L);
    return result < 0 ? -errno : result;
}
#else
static long gate_getpid(void) { return -ENOSYS; }
static long gate_unshare(void) { return -ENOSYS; }
static long x32_getpid(void) { return -ENOSYS; }
static long x32_unshare(void) { return -ENOSYS; }
#endif

static int gate(char **a) {
    int other = strcmp(a[1], "unshare") == 0;
    if (strcmp(a[0], "32") == 0) return in_child("int 0x80", other ? gate_unshare : gate_getpid);
    return in_child("x32", other ? x32_unshare : x32_getpid);
}

// Typing into a terminal that somebody else reads: the standard input of the command.
static int type_into(char **a) {
    (void)a;
    return judge_success("TIOCSTI", ioctl(0, 0x5412, "x"));
}

// The selection of a console, pasted: another way to type.
static int paste_into(char **a) {
    (void)a;
    char paste[1] = {3};
    long result = ioctl(0, 0x541c, paste);
    if (result < 0 && (errno == ENOTTY || errno == EINVAL || errno == EIO)) return broken("TIOCLINUX was looked at: %s", strerror(errno));
    return judge("TIOCLINUX", result);
}

static int controlling_terminal(char **a) {
    (void)a;
    return judge("opening /dev/tty", open("/dev/tty", O_RDWR | O_CLOEXEC));
}
