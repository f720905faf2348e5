//! What a command may use up. Each attack has an end of its own, well below what the host would notice.

use sandbox::{Limit, Limits};

use super::attack::Control::{Inside, User};
use super::attack::Layer::{Capabilities, Cgroup, Rlimits, Sizes};
use super::attack::probe;
use super::scene::{Setting, in_the_machine, within};
use crate::bed::{Run, text};

fn few_processes() -> Limits {
    Limits { pids: Some(Limit::named(64)), ..Limits::default() }
}

fn little_memory() -> Limits {
    Limits { memory_bytes: Some(Limit::named(64 << 20)), ..Limits::default() }
}

fn little_tmp() -> Limits {
    Limits { tmp_bytes: Some(Limit::named(4 << 20)), ..Limits::default() }
}

fn small_files() -> Limits {
    Limits { fsize_bytes: Some(Limit::named(4 << 20)), ..Limits::default() }
}

fn few_files() -> Limits {
    Limits { nofile: Some(Limit::named(128)), ..Limits::default() }
}

attacks! { Resources:
    a_fork_bomb, [Cgroup],
        probe(&["forks", "200"], Inside(&["forks", "200"])).limits(few_processes).act(),
        "starts more processes than the limit says",
        a user: Otherwise "a resource limit instead, counted in the sandbox's own user namespace (Linux 5.14; else a run with a named limit is refused)";
    a_thread_bomb, [Cgroup],
        probe(&["threads", "200"], Inside(&["threads", "200"])).limits(few_processes).act(),
        "starts more threads than the limit of processes says",
        a user: Otherwise "as for processes";
    a_limit_of_processes_taken_back, [Cgroup],
        probe(&["forks-after-raising", "200"], Inside(&["forks", "200"])).limits(few_processes).act(),
        "raises its own limit of processes before it starts more",
        a user: Otherwise "as for processes: without capabilities the limit only sinks";
    a_memory_bomb, [Cgroup],
        probe(&["memory", "200"], Inside(&["memory", "200"])).limits(little_memory).act(),
        "takes more memory than the limit says",
        a user: Otherwise "a run with a named limit is refused; the default is not in force, and the report says so";
    memory_without_a_process, [Cgroup],
        probe(&["memory-file", "200"], Inside(&["memory-file", "200"])).limits(little_memory).act(),
        "the same in a file of memory that has no name",
        a user: Otherwise "as for memory";
    a_disk_bomb_in_tmp, [Sizes],
        probe(&["fill", "/tmp/x", "8"], Inside(&["fill", "/tmp/x", "8"])).limits(little_tmp).act(),
        "fills `/tmp`, which is memory of the host's";
    a_disk_bomb_in_run, [Sizes],
        probe(&["fill", "/run/x", "80"], Inside(&["fill", "/tmp/x", "80"])).act(),
        "fills `/run`";
    a_disk_bomb_in_shm, [Sizes],
        probe(&["fill", "/dev/shm/x", "80"], Inside(&["fill", "/tmp/x", "80"])).act(),
        "fills `/dev/shm`";
    a_large_file, [Rlimits],
        probe(&["fill", "/workspace/x", "8"], Inside(&["fill", "/workspace/x", "8"])).limits(small_files).act(),
        "makes a larger file than the limit says";
    an_open_file_bomb, [Rlimits],
        probe(&["open-files", "300"], Inside(&["open-files", "300"])).limits(few_files).act(),
        "opens more files than the limit says, after asking for more";
    a_limit_taken_back, [Rlimits, Capabilities],
        probe(&["raise-limit", "7"], Inside(&["raise-limit", "3"])).limits(few_files).act(),
        "raises the limit of open files again";
    a_core_dump, [Rlimits],
        probe(&["core"], User).act(),
        "has the host write a core dump of it";
}

/// What an ordinary user's sandboxes have instead of a cgroup counts each of them by itself, and not what else that user runs.
#[test]
fn each_sandbox_of_a_user_has_its_own_number_of_processes() {
    testkit::require!(Root, Bwrap);
    if !in_the_machine() {
        testkit::require!(Compiler);
    }
    let setting = Setting { rootfs: false, ordinary: true };
    within(setting, false, &[], |scene| {
        let many = |count: u32| {
            let script = format!("n=0; while [ $n -lt {count} ]; do sleep 60 & n=$((n+1)); done; echo all; read line");
            Run { limits: few_processes(), shell: "/bin/sh".into(), ..Run::sh(&script) }
        };
        scene.block_on(async {
            // Each waits for its standard input: all three are there at the same time, with 50 of 64 each.
            let mut holding = Vec::new();
            for _ in 0..3 {
                let (input, held) = std::io::pipe().unwrap();
                let run = Run { stdin: Some(input.into()), ..many(50) };
                let (mut handle, stdout, stderr) = scene.bed.start(run).await.unwrap();
                handle.ready().await.unwrap();
                let by = handle.layers().limits.iter().find(|limit| limit.name == "pids").unwrap().by;
                assert_eq!(by, Some("rlimit"));
                handle.release().unwrap();
                holding.push((held, handle, stdout, stderr));
            }
            let too_many = scene.bed.run(many(70)).await;
            assert!(too_many.stderr.contains("fork") && !too_many.stdout.contains("all"), "{}", too_many.stderr);
            for (held, mut handle, stdout, stderr) in holding {
                drop(held);
                let (_keep, stop) = tokio::sync::watch::channel(None);
                handle.wait(stop).await;
                assert_eq!((text(stdout).await.as_str(), text(stderr).await.as_str()), ("all\n", ""));
            }
        });
    });
}
