// Files: what is there, what can be read, what can be changed.

static int read_file(char **a) {
    char buffer[64];
    int fd = open(a[0], O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return held("opening: %s", strerror(errno));
    ssize_t count = read(fd, buffer, sizeof buffer);
    if (count < 0) return held("reading: %s", strerror(errno));
    if (count == 0) return held("it is empty");
    return broken("it was read");
}

// A file is read, and this text is in it.
static int read_for(char **a) {
    static char buffer[1 << 16];
    int fd = open(a[0], O_RDONLY | O_CLOEXEC);
    if (fd < 0) return held("opening: %s", strerror(errno));
    ssize_t count, all = 0;
    while ((count = read(fd, buffer + all, sizeof buffer - 1 - all)) > 0) all += count;
    buffer[all] = 0;
    return strstr(buffer, a[1]) ? broken("it was found") : held("not among %zd bytes", all);
}

static int list_directory(char **a) {
    DIR *directory = opendir(a[0]);
    if (!directory) return held("opening: %s", strerror(errno));
    struct dirent *entry;
    int count = 0;
    while ((entry = readdir(directory))) count += strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
    return count ? broken("%d entries", count) : held("it is empty");
}

static int append(char **a) {
    int fd = open(a[0], O_WRONLY | O_APPEND | O_CLOEXEC);
    if (fd < 0) return held("opening: %s", strerror(errno));
    return judge("appending", write(fd, "changed\n", 8));
}

static int create(char **a) {
    return judge("making a file", open(a[0], O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
}

// Opens the first setting of several that can be opened, and writes what it says already.
static int rewrite(char **a) {
    static char buffer[4096];
    ssize_t count = 0;
    int reader = open(a[0], O_RDONLY | O_CLOEXEC);
    if (reader >= 0) count = read(reader, buffer, sizeof buffer);
    int fd = open(a[0], O_WRONLY | O_CLOEXEC);
    if (fd < 0 && a[1]) return rewrite(a + 1);
    if (fd < 0) return held("opening: %s", strerror(errno));
    return count <= 0 ? broken("it was opened for writing") : judge("writing", write(fd, buffer, count));
}

static int write_text(char **a) {
    int fd = open(a[0], O_WRONLY | O_CLOEXEC);
    if (fd < 0) return held("opening: %s", strerror(errno));
    return judge("writing", write(fd, a[1], strlen(a[1])));
}

static int hard_link(char **a) { return judge_success("linking", link(a[0], a[1])); }

static int move(char **a) { return judge_success("moving", rename(a[0], a[1])); }

static int change_mode(char **a) { return judge("changing the mode", chmod(a[0], 0777)); }

// The "shocker": the root of a file system by its handle, whatever is mounted.
static int by_handle(char **a) {
    struct { struct file_handle head; unsigned char bytes[128]; } handle = {.head = {.handle_bytes = 128}};
    int mount_id, at = open(a[0], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (at < 0 || name_to_handle_at(at, "", &handle.head, &mount_id, AT_EMPTY_PATH) < 0) {
        if (errno == EOPNOTSUPP) return absent("handles: %s", strerror(errno));
        return held("a handle: %s", strerror(errno));
    }
    return judge("opening by handle", open_by_handle_at(at, &handle.head, O_RDONLY));
}

// A descriptor that was not closed before the command started.
static int inherited(char **a) {
    (void)a;
    struct stat kind;
    int found = 0;
    for (int fd = 3; fd < 1024; fd++) found += fstat(fd, &kind) == 0;
    return found ? broken("%d descriptors", found) : held("there are three");
}

// Leaves a root directory by the classic way: a descriptor outside of a chroot below it.
static int chroot_out(char **a) {
    (void)a;
    mkdir("/tmp/chroot", 0700);
    int root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return root < 0 ? held("the root: %s", strerror(errno)) : judge("chroot", chroot("/tmp"));
}

static int privileged(char **a);

// Executes a program that somebody with more rights has left; it says what it was given.
static int run_planted(char **a) {
    char *arguments[] = {a[0], "privileged", NULL};
    for (int tries = 0; tries < 1000 && execv(a[0], arguments) < 0 && errno == ETXTBSY; tries++) usleep(1000);
    return held("executing: %s", strerror(errno));
}

static int privileged(char **a) {
    (void)a;
    struct { uint32_t version; int pid; } head = {0x20080522, 0};
    struct { uint32_t effective, permitted, inheritable; } caps[2] = {{0}};
    syscall(SYS_capget, &head, caps);
    if (geteuid() != getuid()) return broken("the effective uid is %d", (int)geteuid());
    if (caps[0].effective | caps[1].effective) return broken("capabilities %x", caps[0].effective);
    return held("nothing was gained");
}

static int may_be_setuid(char **a) {
    for (; *a; a++) {
        struct statvfs mounted;
        if (statvfs(*a, &mounted) < 0) return held("%s: %s", *a, strerror(errno));
        if (!(mounted.f_flag & ST_NOSUID)) return broken("%s takes setuid bits seriously", *a);
    }
    return held("nosuid everywhere");
}

static int make_node(char **a) {
    mode_t kind = a[1][0] == 'b' ? S_IFBLK : S_IFCHR;
    return judge("mknod", mknod(a[0], kind | 0666, (dev_t)(atoi(a[2]) << 8 | atoi(a[3]))));
}

static int open_device(char **a) {
    int fd = open(a[0], O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) fd = open(a[0], O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    return judge("opening", fd);
}

// Every node that there is in /dev, but for those that everybody needs.
static int strange_devices(char **a) {
    static const char *known[] = {"null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", NULL};
    DIR *directory = opendir(a[0]);
    struct dirent *entry;
    while (directory && (entry = readdir(directory))) {
        struct stat kind;
        int plain = fstatat(dirfd(directory), entry->d_name, &kind, AT_SYMLINK_NOFOLLOW) < 0 ||
            !(S_ISCHR(kind.st_mode) || S_ISBLK(kind.st_mode));
        for (const char **name = known; *name; name++) plain |= strcmp(*name, entry->d_name) == 0;
        if (!plain) return broken("there is %s", entry->d_name);
    }
    return held("none but the usual");
}
