//! Processes, threads, signals, and those who watch them.

use testkit::require;

use super::Everyday;

#[tokio::test]
async fn many_processes_and_threads_fit_the_defaults() {
    require!(Bwrap, Venv);
    let everyday = Everyday::new();
    let script = r"
        for n in {1..800}; do sleep 3 & done
        ls /proc | grep -c '^[0-9]*$'
        kill $(jobs -p) && { wait || true; }
        seq 200 | xargs -P 50 -n 1 echo | sort -n | tail -n 1";
    let said = everyday.work(script).await;
    let mut lines = said.lines();
    assert!(lines.next().unwrap().parse::<u32>().unwrap() > 800, "{said}");
    assert_eq!(lines.next(), Some("200"));
    let program = r"
import threading
barrier = threading.Barrier(801)
threads = [threading.Thread(target=barrier.wait) for n in range(800)]
for thread in threads: thread.start()
print(threading.active_count())
barrier.wait()
for thread in threads: thread.join()
print(threading.active_count())";
    assert_eq!(everyday.python(program).await, "801\n1\n");
}

#[tokio::test]
async fn as_many_files_as_the_default_allows_can_be_open() {
    require!(Bwrap, Venv);
    let program = r"
import os, resource
print(resource.getrlimit(resource.RLIMIT_NOFILE))
files = [os.open('/dev/null', os.O_RDONLY) for n in range(4096 - 16)]
print(len(files))";
    assert_eq!(Everyday::new().python(program).await, "(4096, 4096)\n4080\n");
}

#[tokio::test]
async fn signals_are_caught_ignored_and_reported() {
    require!(Bwrap);
    let script = r#"
        set +e
        trap 'echo usr1' USR1; kill -USR1 $$
        (trap '' TERM; kill -TERM $BASHPID; echo ignored)
        (kill -SEGV $BASHPID) 2>/dev/null; echo $?
        bash -c 'kill -INT $$'; echo $?
        timeout 0.2 sleep 30; echo $?
        timeout --signal KILL 0.2 sleep 30 2>/dev/null; echo $?
        (trap 'echo cleaned up' EXIT; exit 3); echo $?
        yes | head -n 1; echo "${PIPESTATUS[@]}""#;
    let outcome = Everyday::new().outcome(script).await;
    // 141: SIGPIPE has its default effect, which a program started with it ignored would not show.
    let said = "usr1\nignored\n139\n130\n124\n137\ncleaned up\n3\ny\n141 0\n";
    assert_eq!(outcome.stdout, said, "{}", outcome.stderr);
}

#[tokio::test]
async fn job_control_works_without_a_terminal() {
    require!(Bwrap);
    let script = r#"
        set +e -m
        sleep 30 & jobs -r | wc -l
        kill -STOP %1; while [ -z "$(jobs -s)" ]; do sleep 0.01; done; echo stopped
        bg %1 >/dev/null; while [ -z "$(jobs -r)" ]; do sleep 0.01; done; echo runs again
        kill %1; wait %1; echo $?
        sleep 0.1 & fg %1 >/dev/null; echo $?
        set +m
        nohup setsid sh -c 'echo in a session of its own' 2>/dev/null
        coproc cat; echo through a coprocess >&"${COPROC[1]}"; read -r line <&"${COPROC[0]}"; echo "$line"
        cat <(echo a substitution)
        (sleep 0.2; echo late) & wait $!"#;
    let script = script.replace("r\"", "");
    let outcome = Everyday::new().outcome(&script).await;
    let said = "1\nstopped\nruns again\n143\n0\nin a session of its own\nthrough a coprocess\na substitution\nlate\n";
    assert_eq!(outcome.stdout, said, "{}", outcome.stderr);
}

#[tokio::test]
async fn gdb_and_strace_watch_what_they_start() {
    require!(Bwrap, Compiler, Debuggers);
    let script = r"
        cat > d.c <<'END'
#include <unistd.h>
#include <sys/wait.h>
int twice(int x) { return x * 2; }
int main(void) { if (!fork()) _exit(twice(21)); int status; wait(&status); return WEXITSTATUS(status) != twice(21); }
END
        gcc -g -o d d.c
        gdb -q -batch -ex 'break twice' -ex run -ex 'print x' -ex finish -ex continue ./d 2>/dev/null |
            grep -E '^\$1 = 21|^Value returned|exited normally' | cut -d' ' -f1-4
        strace -f -e trace=wait4,exit_group -o trace ./d
        grep -c 'exit_group(42' trace
        strace -c -o counts ls / >/dev/null && grep -c openat counts";
    let said = Everyday::new().work(script).await;
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..2], ["$1 = 21", "Value returned is $2"], "{said}");
    assert!(lines[2].starts_with("[Inferior 1 (process"), "{said}");
    assert_eq!(lines[3..], ["1", "1"], "{said}");
}
