// The attacks of the escape suite, one function each: a static program, so that the same code runs in every root and,
// as the control, outside of any sandbox. What came of an attack is its last line of output:
//
//   broken …   it did what it is meant to be kept from
//   held …     it was refused, and how
//   absent …   this kernel has nothing of the kind (ENOSYS and the like)
//
// The files of this folder are one translation unit, in the order that program.rs gives.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int say(const char *verdict, const char *format, ...) {
    va_list list;
    va_start(list, format);
    printf("%s ", verdict);
    vprintf(format, list);
    printf("\n");
    fflush(stdout);
    va_end(list);
    return 0;
}

#define broken(...) say("broken", __VA_ARGS__)
#define held(...) say("held", __VA_ARGS__)
#define absent(...) say("absent", __VA_ARGS__)

// A call that is refused says so by its errno. Any other answer means that the call reached what it asked for.
static int refused(int error) {
    return error == EPERM || error == EACCES || error == EROFS || error == ENOENT || error == ESRCH || error == ENXIO ||
        error == ENOSPC; // what a limit of namespaces says
}

static int judge(const char *what, long result) {
    if (result >= 0) return broken("%s worked", what);
    if (errno == ENOSYS || errno == EAFNOSUPPORT || errno == EPROTONOSUPPORT || errno == ENODEV)
        return absent("%s: %s", what, strerror(errno));
    if (refused(errno)) return held("%s: %s", what, strerror(errno));
    return broken("%s reached the kernel's own code: %s", what, strerror(errno));
}

// The same, where only success counts.
static int judge_success(const char *what, long result) {
    if (result >= 0) return broken("%s worked", what);
    if (errno == ENOSYS) return absent("%s: %s", what, strerror(errno));
    return held("%s: %s", what, strerror(errno));
}
