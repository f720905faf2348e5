// What a command may use up. Every attack has an end of its own, for where nothing ends it.

// Processes that wait, up to a number.
static int forks(char **a) {
    int most = atoi(a[0]), made = 0, error = 0, hold[2];
    if (pipe(hold) < 0) return held("pipe: %s", strerror(errno));
    while (made < most) {
        pid_t pid = fork();
        if (pid == 0) {
            char byte;
            close(hold[1]);
            _exit((int)read(hold[0], &byte, 1));
        }
        if (pid < 0) {
            error = errno;
            break;
        }
        made++;
    }
    close(hold[1]);
    while (wait(NULL) > 0) continue;
    return made < most ? held("%d, then %s", made, strerror(error)) : broken("%d processes", made);
}

// The same, once the limit has been raised as far as that goes.
static int forks_after_raising(char **a) {
    struct rlimit none = {RLIM_INFINITY, RLIM_INFINITY};
    setrlimit(RLIMIT_NPROC, &none);
    return forks(a);
}

static void *thread_stack(void) { return mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }

static int thread_waits(void *pointer) {
    volatile int *go = pointer;
    while (!*go) usleep(1000);
    return 0;
}

// The same by threads, which a limit of processes that counts processes alone would miss.
static int threads(char **a) {
    int most = atoi(a[0]), made = 0, error = 0;
    volatile int go = 0;
    while (made < most) {
        char *stack = thread_stack();
        int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
        if (stack == MAP_FAILED || clone(thread_waits, stack + 16384, flags, (void *)&go) < 0) {
            error = errno;
            break;
        }
        made++;
    }
    go = 1;
    made < most ? held("%d, then %s", made, strerror(error)) : broken("%d threads", made);
    _exit(0);
}

static int memory(char **a) {
    size_t size = (size_t)atoi(a[0]) << 20;
    char *all = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) return held("mmap: %s", strerror(errno));
    for (size_t at = 0; at < size; at += 4096) all[at] = 1;
    return broken("%s MiB", a[0]);
}

static int fill_fd(int fd, size_t size) {
    static char block[1 << 20];
    size_t written = 0;
    memset(block, 1, sizeof block);
    while (written < size) {
        ssize_t count = write(fd, block, sizeof block);
        if (count <= 0) return held("%zu MiB, then %s", written >> 20, strerror(errno));
        written += (size_t)count;
    }
    return broken("%zu MiB", written >> 20);
}

// Memory that belongs to no process, only to a file without a name.
static int memory_file(char **a) {
    int fd = (int)syscall(SYS_memfd_create, "x", 1);
    return fd < 0 ? held("memfd_create: %s", strerror(errno)) : fill_fd(fd, (size_t)atoi(a[0]) << 20);
}

static int fill(char **a) {
    signal(SIGXFSZ, SIG_IGN);
    int fd = open(a[0], O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    return fd < 0 ? held("opening: %s", strerror(errno)) : fill_fd(fd, (size_t)atoi(a[1]) << 20);
}

static int open_files(char **a) {
    struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
    int most = atoi(a[0]), count = 0;
    setrlimit(RLIMIT_NOFILE, &all);
    while (count < most && open("/dev/null", O_RDONLY | O_CLOEXEC) >= 0) count++;
    return count < most ? held("%d, then %s", count, strerror(errno)) : broken("%d open files", count);
}

// Takes back a limit that was set.
static int raise_limit(char **a) {
    int number = atoi(a[0]);
    struct rlimit is, more = {RLIM_INFINITY, RLIM_INFINITY};
    getrlimit(number, &is);
    if (is.rlim_cur == RLIM_INFINITY) return broken("there is none");
    return judge("setrlimit", setrlimit(number, &more));
}

static int dump_core(char **a) {
    (void)a;
    pid_t pid = fork();
    if (pid == 0) {
        struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
        setrlimit(RLIMIT_CORE, &all);
        /* A shell's background jobs ignore it, and what they start does. */
        signal(SIGQUIT, SIG_DFL);
        raise(SIGQUIT);
        _exit(0);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    return WCOREDUMP(status) ? broken("a core was dumped") : held("none was");
}

static int flood(char **a) {
    size_t size = (size_t)atoi(a[0]) << 20;
    return fill_fd(1, size);
}

// What stays behind: out of the session, the group and the parent's sight, deaf to SIGTERM and SIGHUP.
static int linger(char **a) {
    int deaf = strcmp(a[0], "deaf") == 0, twice = strcmp(a[0], "twice") == 0, hang = strcmp(a[0], "nohup") == 0;
    pid_t pid = fork();
    if (pid == 0) {
        if (!hang) setsid();
        if (twice && fork() > 0) _exit(0);
        if (deaf) signal(SIGTERM, SIG_IGN);
        signal(SIGHUP, SIG_IGN);
        if (strcmp(a[2], "close") == 0)
            for (int fd = 0; fd < 3; fd++) close(fd);
        int made = open(a[3], O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        close(made);
        for (int second = 0; second < 60; second++) sleep(1);
        _exit(0);
    }
    if (strcmp(a[1], "stay") == 0) {
        if (deaf) signal(SIGTERM, SIG_IGN);
        for (int second = 0; second < 60; second++) sleep(1);
    }
    struct stat there;
    for (int tries = 0; stat(a[3], &there) < 0 && tries < 2000; tries++) usleep(1000);
    return held("it is on its own");
}
