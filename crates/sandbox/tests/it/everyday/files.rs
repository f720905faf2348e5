//! Files of every kind in the workspace.

use testkit::require;

use super::Everyday;

#[tokio::test]
async fn files_may_be_large_linked_piped_and_renamed() {
    require!(Bwrap);
    let script = r"
        truncate --size 5G large && printf end | dd of=large bs=1 seek=5368709117 conv=notrunc status=none
        stat --format %s large && tail -c 3 large && echo
        head -c 64M /dev/zero > zeroes && sha256sum zeroes | cut -c 1-16
        mkdir dir && echo text > dir/file
        ln -s file dir/soft && ln dir/file hard && cat dir/soft && stat --format %h hard
        mkfifo fifo && (echo through a fifo > fifo &) && cat fifo
        mv dir/file moved && mv moved /tmp/elsewhere && cat /tmp/elsewhere hard
        touch -d '2001-02-03 UTC' hard && stat --format %Y hard
        chmod 4751 hard && stat --format %a hard && umask
        touch $'two\nlines' 'ünï cödé' ./-dash && ls -1 | wc -l
        echo out > /dev/stdout && echo err > /dev/stderr && echo in | cat /dev/stdin
        cp --archive --reflink=auto dir copy && readlink copy/soft
        df --output=target /workspace | tail -n 1
        rm -r dir copy && find . -xdev -name 'dir' | wc -l";
    let outcome = Everyday::new().outcome(script).await;
    let said = "5368709120\nend\n3b6a07d0d404fab4\ntext\n2\nthrough a fifo\ntext\ntext\n981158400\n4751\n0022\n\
                9\nout\nin\nfile\n/workspace\n0\n";
    assert_eq!((outcome.exit.code, outcome.stdout.as_str()), (0, said), "{}", outcome.stderr);
    assert_eq!(outcome.stderr, "err\n");
}

#[tokio::test]
async fn locks_of_all_three_kinds_hold() {
    require!(Bwrap, Venv);
    let script = r"
        exec 9>lock && flock --nonblock 9 && { flock --nonblock lock true || echo held; }
        flock --unlock 9 && flock --nonblock lock echo free
        python3 - <<'END'
import fcntl, os, struct
def taken(lock):
    child = os.fork()
    if child == 0:
        try:
            lock(open('lock', 'r+'))
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
def posix(file):
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
def by_description(file):
    fcntl.fcntl(file, 37, struct.pack('hhqqi', fcntl.F_WRLCK, 0, 0, 0, 0))
for lock in (posix, by_description):
    before = taken(lock)
    with open('lock', 'r+') as file:
        lock(file)
        print(lock.__name__, before, taken(lock))
END";
    let said = "held\nfree\nposix False True\nby_description False True\n";
    assert_eq!(Everyday::new().work(script).await, said);
}

#[tokio::test]
async fn programs_run_from_every_writable_place_and_files_can_be_mapped() {
    require!(Bwrap, Venv);
    let everyday = Everyday::new();
    let script = r#"
        for place in /workspace /tmp /run /dev/shm; do
            cp "$(command -v true)" $place/program && $place/program
            printf '#!/bin/sh\necho "$0"\n' > $place/script && chmod +x $place/script && $place/script
        done"#;
    assert_eq!(everyday.work(script).await, "/workspace/script\n/tmp/script\n/run/script\n/dev/shm/script\n");
    let program = r"
import mmap, os
with open('mapped', 'w+b') as file:
    file.truncate(8192)
    shared = mmap.mmap(file.fileno(), 8192)
    shared[4096:4100] = b'text'
    shared.flush()
    file.seek(4096)
    print(file.read(4))
os.setxattr('mapped', 'user.note', b'kept')
print(os.getxattr('mapped', 'user.note'))";
    assert_eq!(everyday.python(program).await, "b'text'\nb'kept'\n");
}
