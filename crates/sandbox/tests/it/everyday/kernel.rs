//! What programs ask of the kernel directly.

use testkit::require;

use super::Everyday;

#[tokio::test]
async fn memory_may_be_executable_shared_locked_and_nameless() {
    require!(Bwrap, Venv);
    let program = r"
import ctypes, mmap, os, platform, tempfile
code = {'x86_64': b'\xb8\x2a\x00\x00\x00\xc3', 'aarch64': b'\x40\x05\x80\x52\xc0\x03\x5f\xd6'}[platform.machine()]
def call(memory):
    return ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))()
memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
memory.write(code)
print('written and executed', call(memory))
libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
later = mmap.mmap(-1, 4096)
later.write(code)
address = ctypes.addressof(ctypes.c_char.from_buffer(later))
print('made executable', libc.mprotect(address, 4096, mmap.PROT_READ | mmap.PROT_EXEC),
      ctypes.CFUNCTYPE(ctypes.c_int)(address)())
nameless = os.memfd_create('nameless')
os.write(nameless, b'\0' * 4096)
both = mmap.mmap(nameless, 4096)
if os.fork() == 0:
    both[0] = 7
    os._exit(0)
os.wait()
print('shared', both[0], os.pread(nameless, 1, 0)[0])
print('locked', libc.mlock(ctypes.create_string_buffer(4096), 4096))";
    let said = "written and executed 42\nmade executable 0 42\nshared 7 7\nlocked 0\n";
    assert_eq!(Everyday::new().python(program).await, said);
}

#[tokio::test]
async fn files_can_be_watched_and_descriptors_waited_for() {
    require!(Bwrap, Venv);
    let program = r"
import ctypes, os, select, signal, socket
libc = ctypes.CDLL(None, use_errno=True)
watch = libc.inotify_init1(os.O_NONBLOCK)
for place in (b'/workspace', b'/tmp'):
    libc.inotify_add_watch(watch, place, 0x100)
open('/workspace/made-in-workspace', 'w').close()
open('/tmp/made-in-tmp', 'w').close()
seen = os.read(watch, 4096)
print('inotify', b'made-in-workspace' in seen, b'made-in-tmp' in seen)
ours, theirs = socket.socketpair()
poll = select.epoll()
poll.register(theirs, select.EPOLLIN | select.EPOLLET)
print('epoll before', poll.poll(0.05))
ours.send(b'x')
print('epoll after', [descriptor == theirs.fileno() for descriptor, event in poll.poll(5)])
event = libc.eventfd(0, 0)
os.write(event, (3).to_bytes(8, 'little'))
print('eventfd', int.from_bytes(os.read(event, 8), 'little'))
timer = libc.timerfd_create(1, 0)
libc.timerfd_settime(timer, 0, (ctypes.c_long * 4)(0, 0, 0, 1000000), None)
print('timerfd', int.from_bytes(os.read(timer, 8), 'little') > 0)
child = os.fork()
if child == 0:
    signal.pause()
pidfd = os.pidfd_open(child)
signal.pidfd_send_signal(pidfd, signal.SIGTERM)
print('pidfd', os.WTERMSIG(os.waitid(os.P_PIDFD, pidfd, os.WEXITED).si_status))";
    let said = "inotify True True\nepoll before []\nepoll after [True]\neventfd 3\ntimerfd True\npidfd 15\n";
    assert_eq!(Everyday::new().python(program).await, said);
}

#[tokio::test]
async fn processes_talk_by_sockets_and_shared_memory() {
    require!(Bwrap, Venv);
    let program = r"
import ctypes, multiprocessing, os, socket, threading
from multiprocessing import shared_memory
def serve(server):
    peer = server.accept()[0]
    peer.sendall(peer.recv(100).upper())
    peer.close()
def ask(family, address):
    server = socket.socket(family)
    server.bind(address)
    server.listen()
    thread = threading.Thread(target=serve, args=(server,))
    thread.start()
    client = socket.socket(family)
    client.connect(server.getsockname())
    client.sendall(b'heard')
    answer = client.recv(100).decode()
    thread.join()
    return answer
print('pathname', ask(socket.AF_UNIX, '/tmp/socket'), ask(socket.AF_UNIX, '/workspace/socket'))
print('abstract', ask(socket.AF_UNIX, '\0socket'))
print('loopback', ask(socket.AF_INET, ('127.0.0.1', 0)), ask(socket.AF_INET6, ('::1', 0)))
print('by name', socket.getaddrinfo('localhost', 80, socket.AF_INET)[0][4], socket.gethostbyname(socket.gethostname()))
left, right = socket.socketpair()
socket.send_fds(left, [b'x'], [os.open('/etc/hostname', os.O_RDONLY)])
print('descriptor', os.read(socket.recv_fds(right, 1, 1)[1][0], 100).decode().strip())
def put(queue, name):
    block = shared_memory.SharedMemory(name)
    block.buf[0] = 7
    block.close()
    queue.put(os.getpid())
block = shared_memory.SharedMemory(create=True, size=32 << 20)
queue = multiprocessing.Queue()
process = multiprocessing.Process(target=put, args=(queue, block.name))
process.start()
print('queue', queue.get() == process.pid)
process.join()
print('shared memory', block.buf[0], os.path.exists('/dev/shm/' + block.name))
block.close()
block.unlink()
with multiprocessing.Pool(4) as pool:
    print('pool', sum(pool.map(abs, range(-100, 1))))
libc = ctypes.CDLL(None, use_errno=True)
print('System V', [libc.shmget(0, 4096, 0o1600) >= 0, libc.semget(0, 1, 0o1600) >= 0, libc.msgget(0, 0o1600) >= 0])";
    let said = "pathname HEARD HEARD\nabstract HEARD\nloopback HEARD HEARD\nby name ('127.0.0.1', 80) 127.0.0.1\n\
                descriptor nexus\nqueue True\nshared memory 7 True\npool 5050\nSystem V [True, True, True]\n";
    assert_eq!(Everyday::new().python(program).await, said);
}

#[tokio::test]
async fn a_command_can_make_a_terminal_of_its_own() {
    require!(Bwrap, Venv);
    let script = r#"
        script --quiet --return --command 'tty; stty size >/dev/null; exit 3' /dev/null | tr -d '\r' || echo "${PIPESTATUS[0]}"
        python3 -c 'import pty, sys; sys.exit(pty.spawn(["sh", "-c", "test -t 0 && test -t 1"]))' && echo a terminal"#;
    assert_eq!(Everyday::new().work(script).await, "/dev/pts/0\n3\na terminal\n");
}
