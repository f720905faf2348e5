use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use super::*;
use crate::pipe::pipe;

fn null() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

fn shell(script: &str, stages: Vec<Stage>) -> (Program, File) {
    let out = pipe().unwrap();
    let program = Program {
        image: Image::Path(c"/bin/sh".to_owned()),
        argv: vec![c"sh".to_owned(), c"-c".to_owned(), CString::new(script).unwrap()],
        env: vec![c"A=b".to_owned()],
        stages,
        fds: vec![null(), out.write.try_clone().unwrap(), out.write],
    };
    (program, File::from(out.read))
}

fn output(script: &str, stages: Vec<Stage>) -> (String, Status) {
    let spawner = Spawner::start().unwrap();
    let (program, mut read) = shell(script, stages);
    let mut child = spawner.spawn_and_wait(program).unwrap();
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    (text, wait(&mut child))
}

fn wait(child: &mut Child) -> Status {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "the child did not end");
        std::thread::yield_now();
    }
}

#[test]
fn the_child_gets_its_descriptors_and_environment_and_nothing_else() {
    let leaked = File::open("/dev/null").unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    assert!(leaked.as_raw_fd() > 2);
    let script =
        "echo $A-$HOME; n=0; while [ $n -lt 300 ]; do [ -e /proc/$$/fd/$n ] && echo $n; n=$((n+1)); done; exit 7";
    let (text, status) = output(script, vec![]);
    assert_eq!((text.as_str(), status), ("b-\n0\n1\n2\n", Status::Exited(7)));
}

#[test]
fn signals_are_default() {
    let (text, _) = output("grep -E 'Sig(Blk|Ign)' /proc/self/status", vec![]);
    assert_eq!(text, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
    let (_, status) = output("kill -TERM $$", vec![]);
    assert_eq!(status, Status::Killed(15));
}

#[test]
fn stages_happen() {
    let dir = tempfile::tempdir().unwrap();
    let stages = vec![
        Stage::NewSession,
        Stage::Limit(Resource::OpenFiles, 99),
        Stage::Limit(Resource::Core, 0),
        Stage::WorkingDirectory(File::open(dir.path()).unwrap().into()),
        Stage::DieWithParent,
    ];
    let (text, _) =
        output("ulimit -n; ulimit -c; pwd; test $(cut -d' ' -f6 /proc/$$/stat) = $$ && echo leader", stages);
    assert_eq!(text, format!("99\n0\n{}\nleader\n", dir.path().display()));
}

/// However few files the program may open, and however many the daemon has.
#[test]
fn few_open_files_are_no_obstacle_to_the_start() {
    let many: Vec<File> = (0..100).map(|_| File::open("/dev/null").unwrap()).collect();
    let (text, _) = output("ulimit -n", vec![Stage::Limit(Resource::OpenFiles, 10)]);
    assert_eq!((text.as_str(), many.len()), ("10\n", 100));
}

#[test]
fn a_failed_stage_and_a_missing_program_are_told_apart() {
    let spawner = Spawner::start().unwrap();
    let (program, _out) = shell("true", vec![Stage::NewSession, Stage::WorkingDirectory(null())]);
    let error = spawner.spawn_and_wait(program).unwrap_err();
    assert_eq!(error.to_string(), "entering the working directory failed: Not a directory (os error 20)");
    let (mut program, _out) = shell("true", vec![]);
    program.image = Image::Path(c"/does/not/exist".to_owned());
    assert!(matches!(spawner.spawn_and_wait(program), Err(SpawnError::Exec { .. })));
}

#[test]
fn children_die_with_the_thread_and_others_do_not() {
    for (stages, dies) in [(vec![Stage::DieWithParent], true), (vec![], false)] {
        let spawner = Spawner::start().unwrap();
        let (program, mut read) = shell("echo up; exec sleep 30", stages);
        let mut child = spawner.spawn_and_wait(program).unwrap();
        let mut up = [0; 3];
        read.read_exact(&mut up).unwrap();
        drop(spawner);
        if dies {
            assert_eq!(wait(&mut child), Status::Killed(9));
        } else {
            assert_eq!(child.try_wait().unwrap(), None);
        }
    }
}

#[test]
fn a_dropped_child_is_killed() {
    let spawner = Spawner::start().unwrap();
    let (program, mut read) = shell("echo up; exec sleep 30", vec![]);
    let child = spawner.spawn_and_wait(program).unwrap();
    let mut text = String::new();
    drop(child);
    read.read_to_string(&mut text).unwrap();
}

#[test]
fn another_user_is_another_user() {
    if crate::user::effective_uid() != 0 {
        return;
    }
    let (text, _) = output("id -u; id -g; id -G", vec![Stage::ChangeUser { uid: 64_321, gid: 64_322 }]);
    assert_eq!(text, "64321\n64322\n64322\n");
}

/// What the child started and left in its group, for each way that the child may go.
#[test]
fn the_group_ends_with_the_child() {
    let spawner = Spawner::start().unwrap();
    let script = "sleep 60 & echo up; wait";
    for (script, go) in [
        (script, (|child| drop(child)) as fn(Child)),
        (script, |mut child| {
            child.kill().unwrap();
            assert_eq!(wait(&mut child), Status::Killed(9));
        }),
        ("sleep 60 & echo up; exit 3", |mut child| assert_eq!(wait(&mut child), Status::Exited(3))),
    ] {
        let (program, mut read) = shell(script, vec![Stage::NewSession]);
        let child = spawner.spawn_and_wait(program).unwrap();
        let mut up = [0; 3];
        read.read_exact(&mut up).unwrap();
        go(child);
        // Its end of the pipe is held for a minute otherwise.
        let begin = Instant::now();
        read.read_to_end(&mut Vec::new()).unwrap();
        assert!(begin.elapsed() < Duration::from_secs(10), "{script}: the sleep lived on");
    }
}
