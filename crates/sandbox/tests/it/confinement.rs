//! What a command in the sandbox can see and do. Each attack has a control beside it: the same act where it is allowed.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use sandbox::{Driver, LaunchError, Selected, WorkspaceAccess, WorkspaceCwd};

use crate::bed::{Bed, Run, processes_with, until};

#[tokio::test]
async fn the_user_is_unprivileged_outside_too() {
    let bed = Bed::new();
    let owner = bed.drivers.owner(Driver::Bwrap);
    assert_eq!(bed.sh("id -u; id -g; id -un; touch made").await, "1000\n1000\nnexus\n");
    let made = std::fs::metadata(bed.facility().join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (owner.uid, owner.gid));
    let run = bed.start(Run::sh("sleep 7531")).await.unwrap();
    let (mut handle, _out, _err) = run;
    handle.ready().await.unwrap();
    handle.release().unwrap();
    until("the sleep", || !processes_with("sleep\x007531").is_empty()).await;
    for pid in processes_with("sleep\x007531") {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let ids = format!("Uid:\t{0}\t{0}\t{0}\t{0}\n", owner.uid);
        assert!(status.contains(&ids), "{status}");
        if sys::user::effective_uid() == 0 {
            assert!(owner.uid > 0);
            assert!(status.contains("Groups:\t \n") || status.contains("Groups:\t\n"), "{status}");
        }
        for line in [
            "NoNewPrivs:\t1\n",
            "Seccomp:\t2\n",
            "CapEff:\t0000000000000000\n",
            "CapBnd:\t0000000000000000\n",
            "CapPrm:\t0000000000000000\n",
        ] {
            assert!(status.contains(line), "{line} in {status}");
        }
    }
    handle.abandon();
    until("the end of the sleep", || processes_with("sleep\x007531").is_empty()).await;
}

#[tokio::test]
async fn the_host_is_not_there() {
    let bed = Bed::new();
    let absent = bed.sh("for f in /etc/shadow /etc/nexusd /root /home /var /srv /boot /sys /opt /media /mnt; do [ -e $f ] && echo $f; done; true");
    assert_eq!(absent.await, "");
    // Control: the loop does find what is there.
    assert_eq!(bed.sh("for f in /etc/passwd /usr/bin; do [ -e $f ] && echo $f; done").await, "/etc/passwd\n/usr/bin\n");
    assert_eq!(bed.sh("cut -d: -f1 /etc/passwd | tr '\\n' ' '; hostname").await, "root nexus nobody nexus\n");
}

#[tokio::test]
async fn only_the_writable_places_are_writable() {
    let bed = Bed::new();
    let places = "/ /usr /usr/bin /etc /etc/ssl /.nexus /proc /proc/sys/kernel /dev /bin/";
    let refused = format!("for d in {places}; do touch $d/x 2>/dev/null && echo $d; done; true");
    assert_eq!(bed.sh(&refused).await, "");
    assert_eq!(
        bed.sh("for d in /workspace /tmp /run /dev/shm; do touch $d/x && echo $d; done").await,
        "/workspace\n/tmp\n/run\n/dev/shm\n"
    );
    assert_eq!(bed.sh("echo x > /.nexus/nexus-init || echo refused").await, "refused\n");
    // A hard link or a rename across trees gives no way round.
    assert_eq!(bed.sh("ln /usr/bin/env /workspace/env 2>/dev/null || echo refused").await, "refused\n");
}

#[tokio::test]
async fn kernel_settings_cannot_be_written() {
    let bed = Bed::new();
    let before = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let script = "for f in kernel/core_pattern kernel/hostname vm/overcommit_memory net/ipv4/ip_forward user/max_user_namespaces; do \
        echo 1 > /proc/sys/$f && echo wrote $f; done 2>/dev/null; echo b > /proc/sysrq-trigger; true";
    assert_eq!(bed.sh(script).await, "");
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), before);
    // Control: the file can be read, so it is the writing that is refused.
    assert!(!bed.sh("cat /proc/sys/kernel/core_pattern").await.is_empty());
    assert_eq!(bed.sh("cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | wc -c").await, "0\n");
}

#[tokio::test]
async fn memory_files_have_a_bound() {
    let bed = Bed::new();
    let limits = sandbox::Limits { tmp_bytes: Some(sandbox::Limit::named(1 << 20)), ..Default::default() };
    for dir in ["/tmp", "/run", "/dev/shm"] {
        let run = Run { limits, ..Run::sh(&format!("head -c 4000000 /dev/zero > {dir}/x; stat -c %s {dir}/x")) };
        let outcome = bed.run(run).await;
        let size: u64 = outcome.stdout.trim().parse().unwrap();
        assert!(size <= 1 << 20, "{dir}: {size}");
        assert!(outcome.stderr.contains("No space left"), "{}", outcome.stderr);
    }
    assert_eq!(bed.sh("head -c 4000000 /dev/zero > /tmp/x; stat -c %s /tmp/x").await, "4000000\n");
}

#[tokio::test]
async fn no_further_namespace_mount_or_root() {
    let bed = Bed::new();
    for script in [
        "unshare -U true",
        "unshare -r true",
        "unshare -m true",
        "unshare -n true",
        "mount -t tmpfs x /tmp",
        "/usr/sbin/chroot / true",
        "nsenter -t 1 -m true",
    ] {
        let outcome = bed.run(Run::sh(script)).await;
        assert_ne!(outcome.exit.code, 0, "{script}");
        assert!(
            ["not permitted", "denied", "must be superuser", "cannot change"]
                .iter()
                .any(|word| outcome.stderr.contains(word)),
            "{script}: {}",
            outcome.stderr
        );
    }
    // Control: what needs no namespace works, threads (clone by way of a refused clone3) included.
    assert_eq!(bed.sh("unshare true && python3 -c 'import threading as t; x=t.Thread(target=lambda: print(1)); x.start(); x.join()'").await, "1\n");
}

/// A system call by number, made by python's ctypes: what it returned and errno.
fn call(number: i64, arguments: &str) -> String {
    format!(
        "python3 -c 'import ctypes; l=ctypes.CDLL(None,use_errno=True); \
         print(l.syscall({number}{arguments}), ctypes.get_errno())'"
    )
}

#[tokio::test]
async fn refused_system_calls_are_refused() {
    let bed = Bed::new();
    // Number, arguments, errno; 1 is EPERM, 38 ENOSYS, 97 EAFNOSUPPORT.
    for (number, arguments, errno) in [
        (libc_number("bpf"), ",0,0,0", 1),
        (libc_number("perf_event_open"), ",0,0,0,0,0", 1),
        (libc_number("userfaultfd"), ",0", 1),
        (libc_number("keyctl"), ",0,0,0,0,0", 1),
        (libc_number("add_key"), ",0,0,0,0,0", 1),
        (libc_number("io_uring_setup"), ",1,0", 38),
        (libc_number("clone3"), ",0,0", 38),
        (libc_number("kexec_load"), ",0,0,0,0", 1),
        (libc_number("init_module"), ",0,0,0", 1),
        (libc_number("open_tree"), ",-100,0,0", 1),
        (libc_number("setns"), ",0,0", 1),
        (libc_number("process_vm_readv"), ",1,0,0,0,0,0", 1),
        (libc_number("ptrace"), ",16,1,0,0", 1),
        (libc_number("socket"), ",40,1,0", 97),
        (libc_number("socket"), ",17,3,0", 97),
        (libc_number("socket"), ",2,3,255", 97),
        (libc_number("socket"), ",16,3,15", 97),
        (libc_number("ioctl"), ",0,0x5412,0", 1),
        (libc_number("ioctl"), ",0,0x541c,0", 1),
        // The kernel looks at 32 bits of the command, so a filter that compares 64 would be passed by this.
        (libc_number("ioctl"), ",0,ctypes.c_ulong(0x100005412),0", 1),
    ] {
        assert_eq!(bed.sh(&call(number, arguments)).await, format!("-1 {errno}\n"), "{number}{arguments}");
    }
    // Controls: the same calls with what tools use.
    for (number, arguments) in
        [(libc_number("socket"), ",2,1,0"), (libc_number("socket"), ",16,3,0"), (libc_number("socket"), ",1,1,0")]
    {
        assert!(!bed.sh(&call(number, arguments)).await.starts_with("-1"), "{number}{arguments}");
    }
    // An x32 call kills: no output at all.
    let outcome = bed.run(Run::sh(&call(0x4000_0000 + 39, ""))).await;
    assert_eq!((outcome.exit.code, outcome.stdout.as_str()), (159, ""));
}

/// Numbers on x86-64.
fn libc_number(name: &str) -> i64 {
    let table = [
        ("ioctl", 16),
        ("socket", 41),
        ("ptrace", 101),
        ("init_module", 175),
        ("kexec_load", 246),
        ("add_key", 248),
        ("keyctl", 250),
        ("perf_event_open", 298),
        ("setns", 308),
        ("process_vm_readv", 310),
        ("bpf", 321),
        ("userfaultfd", 323),
        ("io_uring_setup", 425),
        ("open_tree", 428),
        ("clone3", 435),
    ];
    table.iter().find(|(known, _)| *known == name).unwrap().1
}

#[tokio::test]
async fn the_helper_is_out_of_reach() {
    let bed = Bed::new();
    let script = "ls /proc/1/fd; readlink /proc/1/exe; cat /proc/1/mem; kill -9 1; kill -15 1; sleep 0.2; echo alive";
    let outcome = bed.run(Run::sh(script)).await;
    assert_eq!((outcome.exit.code, outcome.stdout.as_str()), (0, "alive\n"), "{}", outcome.stderr);
    // Control: its own are in reach, and there are exactly three.
    assert_eq!(bed.sh("for n in {0..300}; do [ -e /proc/$$/fd/$n ] && echo $n; done; true").await, "0\n1\n2\n");
    assert_eq!(bed.sh("ulimit -c").await, "0\n");
    assert_eq!(bed.sh("cat /proc/self/oom_score_adj").await, "500\n");
}

#[tokio::test]
async fn the_landlock_rules_hold_where_there_are_any() {
    let bed = Bed::new();
    if sys::facts::KernelFacts::read().landlock_abi.is_none() {
        return;
    }
    // Moving between two writable trees is asked of Landlock too (EXDEV), within one it is allowed.
    assert_eq!(bed.sh("mkdir a b && touch a/x && mv a/x b/x && ls b").await, "x\n");
}

#[tokio::test]
async fn capabilities_narrow_the_workspace() {
    let bed = Bed::new();
    for dir in ["src", "out", "other"] {
        let path = bed.facility().join(dir);
        std::fs::create_dir(&path).unwrap();
        let owner = bed.drivers.owner(Driver::Bwrap);
        std::os::unix::fs::chown(&path, Some(owner.uid), Some(owner.gid)).unwrap();
    }
    std::fs::write(bed.facility().join("src/file"), "text\n").unwrap();
    let write = "for d in . src out; do touch $d/x 2>/dev/null && echo $d; done; true";
    let read_only = bed.run(Run { access: WorkspaceAccess::ReadOnly, ..Run::sh(write) }).await;
    assert_eq!(read_only.stdout, "", "{}", read_only.stderr);
    assert_eq!(bed.sh(write).await, ".\nsrc\nout\n");
    let select = |path: &str, writable| Selected { path: WorkspaceCwd::parse(path).unwrap(), writable };
    let only = || WorkspaceAccess::Only(vec![select("src", false), select("out", true), select("new/deep", true)]);
    let script = format!("{write}; ls; cat src/file; touch new/deep/y");
    let narrowed = bed.run(Run { access: only(), ..Run::sh(&script) }).await;
    assert_eq!(narrowed.stdout, "out\nnew\nout\nsrc\ntext\n", "{}", narrowed.stderr);
    assert!(bed.facility().join("new/deep/y").exists());
    std::os::unix::fs::symlink("/etc", bed.facility().join("link")).unwrap();
    let link = WorkspaceAccess::Only(vec![select("link", false)]);
    assert!(matches!(bed.start(Run { access: link, ..Run::sh("true") }).await, Err(LaunchError::Unsupported { .. })));
}

#[tokio::test]
async fn several_at_once_do_not_meet() {
    let bed = Bed::new();
    let runs = (0..8).map(|number| {
        bed.run(Run {
            timeout: Duration::from_secs(20),
            ..Run::sh(&format!("echo {number}; ls /proc | grep -c '^[0-9]'"))
        })
    });
    let mut all = Vec::new();
    for outcome in futures_in_order(runs.collect()).await {
        all.push(outcome.stdout.lines().next().unwrap().to_owned());
        // PID 1, the shell, and the two programs of the pipeline.
        assert!(outcome.stdout.lines().nth(1).unwrap().parse::<u32>().unwrap() <= 4, "{}", outcome.stdout);
    }
    assert_eq!(all, ["0", "1", "2", "3", "4", "5", "6", "7"]);
}

async fn futures_in_order<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut pinned: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        for (future, output) in &mut pinned {
            if output.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *output = Some(value);
            }
        }
        if pinned.iter().all(|(_, output)| output.is_some()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    pinned.into_iter().filter_map(|(_, output)| output).collect()
}
