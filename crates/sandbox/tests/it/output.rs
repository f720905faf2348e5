//! Bytes and codes come out as the command made them.

use sandbox::{Driver, EndedBy, LaunchError};

use crate::bed::{Bed, Run, text};

const EACH: [Driver; 3] = [Driver::Bwrap, Driver::Host, Driver::DarwinAutomation];

#[tokio::test]
async fn streams_are_kept_apart_and_untouched() {
    let bed = Bed::new();
    for driver in EACH {
        let script = r"printf 'o\0\377\n'; printf 'e\1' >&2";
        let (mut handle, stdout, stderr) = bed.start(Run { driver, ..Run::sh(script) }).await.unwrap();
        handle.ready().await.unwrap();
        handle.release().unwrap();
        let (_keep, stop) = tokio::sync::watch::channel(None);
        assert_eq!(handle.wait(stop).await.code, 0);
        assert_eq!(stdout.await.unwrap(), b"o\0\xff\n");
        assert_eq!(stderr.await.unwrap(), b"e\x01");
    }
}

#[tokio::test]
async fn a_command_that_begins_like_an_option_is_a_command() {
    let bed = Bed::new();
    let make = "mkdir bin && for name in -x +e -; do printf '#!/bin/sh\\necho ran %s $0 $*' > bin/$name; chmod 755 bin/$name; done";
    bed.sh(make).await;
    for driver in EACH {
        for shell in ["/bin/dash", "/bin/bash"] {
            for (script, ran) in [("-x a b", "-x a b"), ("+e; exit 0", "+e"), ("- x", "- x")] {
                let run = Run { driver, shell: shell.into(), ..Run::sh(script) };
                let path = match driver {
                    Driver::Host | Driver::DarwinAutomation => bed.facility().join("bin").display().to_string(),
                    Driver::Bwrap | Driver::Container => "/workspace/bin".to_owned(),
                };
                let run = Run { environment: vec![("PATH".to_owned(), path.clone())], ..run };
                let outcome = bed.run(run).await;
                assert_eq!((outcome.exit.code, outcome.stdout), (0, format!("ran {path}/{ran}\n")), "{shell} {script}");
            }
        }
    }
}

#[tokio::test]
async fn ten_megabytes_come_whole() {
    let bed = Bed::new();
    for driver in EACH {
        let (mut handle, stdout, _stderr) =
            bed.start(Run { driver, ..Run::sh("head -c 10485760 /dev/zero | tr '\\0' 'x'") }).await.unwrap();
        handle.ready().await.unwrap();
        handle.release().unwrap();
        let (_keep, stop) = tokio::sync::watch::channel(None);
        assert_eq!(handle.wait(stop).await.code, 0);
        let all = stdout.await.unwrap();
        assert!(all.len() == 10_485_760 && all.iter().all(|&byte| byte == b'x'), "{}", all.len());
    }
}

#[tokio::test]
async fn codes_and_signals() {
    let bed = Bed::new();
    for driver in EACH {
        for (script, code, ended) in [
            ("true", 0, EndedBy::Exited),
            ("exit 1", 1, EndedBy::Exited),
            ("exit 255", 255, EndedBy::Exited),
            ("nosuchcommand", 127, EndedBy::Exited),
            ("/etc/passwd", 126, EndedBy::Exited),
            ("kill -KILL $$", 137, EndedBy::Signal(9)),
            ("kill -TERM $$", 143, EndedBy::Signal(15)),
        ] {
            let outcome = bed.run(Run { driver, ..Run::sh(script) }).await;
            assert_eq!(
                (outcome.exit.code, outcome.exit.ended),
                (code, ended),
                "{driver:?} {script}: {}",
                outcome.stderr
            );
        }
    }
}

#[tokio::test]
async fn a_missing_shell_is_127_with_its_line() {
    let bed = Bed::new();
    for driver in EACH {
        let outcome = bed.run(Run { driver, shell: "/no/such/shell".into(), ..Run::sh("true") }).await;
        assert_eq!(outcome.exit.code, 127);
        assert_eq!(outcome.stderr, "nexus: /no/such/shell: No such file or directory\n");
        let outcome = bed.run(Run { driver, shell: "/etc/passwd".into(), ..Run::sh("true") }).await;
        assert_eq!(outcome.exit.code, 126);
        assert_eq!(outcome.stderr, "nexus: /etc/passwd: Permission denied\n");
    }
}

#[tokio::test]
async fn the_command_is_data_and_the_environment_is_exact() {
    let bed = Bed::new();
    let odd = "a'b\"c $(id) `id`\nüber \\ %s";
    for driver in EACH {
        let run = Run {
            driver,
            environment: vec![("ODD".into(), odd.into())],
            ..Run::sh("printf %s \"$ODD\"; echo; echo '$x'\"\\\\\"")
        };
        assert_eq!(bed.run(run).await.stdout, format!("{odd}\n$x\\\n"));
        let script = "mapfile -d '' all < /proc/self/environ; printf '%s\\n' \"${all[@]}\"";
        let run = Run { driver, environment: vec![("A".into(), "b".into())], ..Run::sh(script) };
        let outcome = bed.run(run).await;
        assert_eq!(outcome.stdout, "A=b\nPATH=/usr/bin:/bin\n", "{driver:?} {}", outcome.stderr);
    }
}

#[tokio::test]
async fn outputs_open_by_name() {
    let bed = Bed::new();
    let outcome = bed.run(Run::sh("echo out > /dev/stdout; echo err > /dev/stderr; cat < /dev/stdin")).await;
    assert_eq!((outcome.exit.code, outcome.stdout.as_str(), outcome.stderr.as_str()), (0, "out\n", "err\n"));
}

#[tokio::test]
async fn cwd_is_beneath_the_workspace() {
    let bed = Bed::new();
    std::fs::create_dir_all(bed.facility().join("a/b")).unwrap();
    std::os::unix::fs::symlink("a/b", bed.facility().join("good")).unwrap();
    std::os::unix::fs::symlink("/etc", bed.facility().join("etc")).unwrap();
    std::os::unix::fs::symlink("../..", bed.facility().join("up")).unwrap();
    for driver in EACH {
        for (cwd, ends) in [("", ""), ("a/b", "/a/b"), ("/workspace/a", "/a"), ("good", "/a/b")] {
            let outcome = bed.run(Run { driver, cwd: cwd.into(), ..Run::sh("pwd -P") }).await;
            let base =
                if driver == Driver::Bwrap { "/workspace".to_owned() } else { bed.facility().display().to_string() };
            assert_eq!(outcome.stdout.trim_end(), format!("{base}{ends}"));
        }
        for cwd in ["etc", "up", "missing", "a/b/../../missing"] {
            let refused = bed.start(Run { driver, cwd: cwd.into(), ..Run::sh("pwd") }).await;
            assert!(matches!(refused, Err(LaunchError::Cwd { .. })), "{cwd}");
        }
    }
}

#[tokio::test]
async fn nothing_runs_before_its_release() {
    let bed = Bed::new();
    for driver in EACH {
        let marker = bed.facility().join("ran");
        let (mut handle, stdout, stderr) = bed.start(Run { driver, ..Run::sh("touch ran") }).await.unwrap();
        handle.ready().await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        assert!(!marker.exists());
        handle.abandon();
        assert_eq!((text(stdout).await, text(stderr).await), (String::new(), String::new()));
        assert!(!marker.exists());
        assert_eq!(bed.run(Run { driver, ..Run::sh("touch ran") }).await.exit.code, 0);
        assert!(marker.exists());
        std::fs::remove_file(marker).unwrap();
    }
}
