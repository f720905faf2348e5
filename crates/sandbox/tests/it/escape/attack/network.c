// Sockets, and what they reach.

static int make_socket(char **a) {
    return judge("socket", socket(atoi(a[0]), atoi(a[1]) | SOCK_CLOEXEC, atoi(a[2])));
}

// The kernel makes the sockets before it finds out that there are no pairs of them (EOPNOTSUPP).
static int make_pair(char **a) {
    int pair[2];
    return judge("socketpair", socketpair(atoi(a[0]), atoi(a[1]) | SOCK_CLOEXEC, atoi(a[2]), pair));
}

static int connect_unix(char **a) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    size_t length = strlen(a[0]);
    memcpy(to.sun_path, a[0], length < sizeof to.sun_path ? length : sizeof to.sun_path);
    if (a[0][0] == '@') to.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + (a[0][0] != '@'));
    return judge_success("connecting", connect(fd, (struct sockaddr *)&to, size));
}

static int address(char **a, struct sockaddr_storage *to, socklen_t *size) {
    struct sockaddr_in *four = (void *)to;
    struct sockaddr_in6 *six = (void *)to;
    memset(to, 0, sizeof *to);
    if (strchr(a[0], ':')) {
        six->sin6_family = AF_INET6;
        six->sin6_port = htons((uint16_t)atoi(a[1]));
        inet_pton(AF_INET6, a[0], &six->sin6_addr);
        *size = sizeof *six;
        return AF_INET6;
    }
    four->sin_family = AF_INET;
    four->sin_port = htons((uint16_t)atoi(a[1]));
    inet_pton(AF_INET, a[0], &four->sin_addr);
    *size = sizeof *four;
    return AF_INET;
}

static int connect_tcp(char **a) {
    struct sockaddr_storage to;
    socklen_t size;
    int fd = socket(address(a, &to, &size), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), error = 0;
    if (connect(fd, (struct sockaddr *)&to, size) < 0 && errno != EINPROGRESS)
        return held("connecting: %s", strerror(errno));
    struct pollfd ready = {fd, POLLOUT, 0};
    if (poll(&ready, 1, 1000) != 1) return held("connecting: no answer");
    socklen_t length = sizeof error;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
    return error ? held("connecting: %s", strerror(error)) : broken("it is connected");
}

static int send_udp(char **a) {
    struct sockaddr_storage to;
    socklen_t size;
    int fd = socket(address(a, &to, &size), SOCK_DGRAM | SOCK_CLOEXEC, 0);
    return judge_success("sending", sendto(fd, "nexus-escape", 12, 0, (struct sockaddr *)&to, size));
}

// The question for an address, as a resolver would send it. Where nobody listens, the network says so at once.
static int ask_dns(char **a) {
    static const unsigned char question[] = "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05nexus\x07""example\x00\x00\x01\x00\x01";
    struct sockaddr_storage to;
    socklen_t size;
    char answer[512];
    int fd = socket(address(a, &to, &size), SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&to, size) < 0 || send(fd, question, sizeof question - 1, 0) < 0)
        return held("asking: %s", strerror(errno));
    struct pollfd ready = {fd, POLLIN, 0};
    if (poll(&ready, 1, 50) == 1 && recv(fd, answer, sizeof answer, 0) < 0) return held("asking: %s", strerror(errno));
    return broken("somebody was asked");
}

static int ping(char **a) {
    char *with_port[] = {a[0], "0"}, answer[512];
    struct sockaddr_storage to;
    socklen_t size;
    int family = address(with_port, &to, &size);
    int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, family == AF_INET ? 1 : 58);
    if (fd < 0) return held("a socket: %s", strerror(errno));
    unsigned char echo[16] = {family == AF_INET ? 8 : 128};
    if (sendto(fd, echo, sizeof echo, 0, (struct sockaddr *)&to, size) < 0) return held("sending: %s", strerror(errno));
    struct pollfd ready = {fd, POLLIN, 0};
    if (poll(&ready, 1, 300) != 1 || recv(fd, answer, sizeof answer, 0) < 0) return held("no answer");
    return broken("an answer came");
}

// Interfaces other than loopback.
static int interfaces(char **a) {
    (void)a;
    char line[256];
    FILE *file = fopen("/proc/net/dev", "r");
    int count = 0;
    while (file && fgets(line, sizeof line, file)) count += strchr(line, ':') && !strstr(line, " lo:");
    return count ? broken("%d of them", count) : held("loopback alone");
}
