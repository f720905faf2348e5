//! What does not work, as `docs/inside-a-sandbox.md` says: it fails at once and says why, and what is left instead works.

use testkit::require;

use super::Everyday;

#[tokio::test]
async fn nothing_attaches_to_a_running_process() {
    require!(Bwrap, Compiler, Debuggers);
    let script = r"
        set +e
        sleep 30 & sleeper=$!
        strace -p $sleeper 2>&1 | grep -o 'Operation not permitted' | sort -u
        gdb -q -batch -p $sleeper 2>&1 | grep -o 'ptrace: Operation not permitted' | sort -u
        kill $sleeper
        printf 'int main(void) { return 0; }' > leak.c && gcc -fsanitize=address -o leak leak.c
        ./leak 2>&1 | grep -o 'LeakSanitizer does not work under ptrace'
        ASAN_OPTIONS=detect_leaks=0 ./leak && echo without leak detection";
    let said = "Operation not permitted\nptrace: Operation not permitted\nLeakSanitizer does not work under ptrace\n\
                without leak detection\n";
    let outcome = Everyday::new().outcome(script).await;
    assert_eq!(outcome.stdout, said, "{}", outcome.stderr);
}

#[tokio::test]
async fn posix_message_queues_are_refused_and_those_of_system_v_work() {
    require!(Bwrap, Venv, Landlock);
    let program = r#"
import ctypes, os
real_time = ctypes.CDLL('librt.so.1', use_errno=True)
print(real_time.mq_open(b'/queue', os.O_CREAT | os.O_RDWR, 0o600, None), os.strerror(ctypes.get_errno()))
libc = ctypes.CDLL(None, use_errno=True)
queue = libc.msgget(0, 0o1600)
class Message(ctypes.Structure):
    _fields_ = [('kind', ctypes.c_long), ('text', ctypes.c_char * 8)]
heard = Message()
libc.msgsnd(queue, ctypes.byref(Message(1, b'text')), 8, 0)
libc.msgrcv(queue, ctypes.byref(heard), 8, 0, 0)
print(heard.text)"#;
    assert_eq!(Everyday::new().python(program).await, "-1 Permission denied\nb'text'\n");
}

#[tokio::test]
async fn there_is_no_way_to_more_rights_or_to_a_sandbox_within() {
    require!(Bwrap);
    let script = r"
        set +e
        unshare --map-root-user true 2>&1 | grep -o 'Operation not permitted'
        bwrap --ro-bind / / true 2>&1 | grep -o 'No permissions to create new namespace'
        find /usr/bin -perm -4000 -name su -exec {} -c id \; 2>/dev/null | grep -c uid=0
        cd /var 2>&1 | grep -o 'No such file or directory'
        cd /sys 2>&1 | grep -o 'No such file or directory'";
    let said = "Operation not permitted\nNo permissions to create new namespace\n0\nNo such file or directory\n\
                No such file or directory\n";
    let outcome = Everyday::new().outcome(script).await;
    assert_eq!(outcome.stdout, said, "{}", outcome.stderr);
}

#[tokio::test]
async fn filters_of_one_s_own_are_refused_as_by_a_kernel_without_them() {
    require!(Bwrap, Venv);
    let program = r#"
import ctypes, os, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
allow = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0x7fff0000))
program = ctypes.create_string_buffer(struct.pack('HxxxxxxP', 1, ctypes.addressof(allow)))
print(libc.prctl(22, 2, program, 0, 0), os.strerror(ctypes.get_errno()))
server = socket.socket()
try:
    server.setsockopt(socket.SOL_SOCKET, 26, program.raw[:16])
except OSError as error:
    print(error.strerror)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
print('other options', libc.prctl(15, b'named', 0, 0, 0), libc.prctl(21, 0, 0, 0, 0))"#;
    let said = "-1 Invalid argument\nProtocol not available\nother options 0 2\n";
    assert_eq!(Everyday::new().python(program).await, said);
}
