//! A wall clock that a test sets while a real process looks at it.

use std::path::PathBuf;
use std::process::Command;

/// The wall clock of one process. libfaketime, loaded into it, reads a file at every look; its other clocks go on as they are.
#[derive(Debug, Clone)]
pub(crate) struct WallClock {
    file: PathBuf,
}

impl WallClock {
    /// A clock that is right, set by this file.
    pub(crate) fn new(file: PathBuf) -> Self {
        let clock = Self { file };
        clock.set(0);
        clock
    }

    /// Sets it so many seconds off, for everybody who wears it.
    pub(crate) fn set(&self, seconds_off: i64) {
        let temporary = self.file.with_extension("new");
        std::fs::write(&temporary, format!("{seconds_off:+}\n")).unwrap();
        std::fs::rename(&temporary, &self.file).unwrap();
    }

    /// Has the command look at it.
    pub(crate) fn wear(&self, command: &mut Command) {
        // `$LIB` is the dynamic linker's: the folder of this machine's libraries (ld.so(8)).
        command.env("LD_PRELOAD", "/usr/$LIB/faketime/libfaketimeMT.so.1");
        command.env("FAKETIME_TIMESTAMP_FILE", &self.file).env("FAKETIME_NO_CACHE", "1");
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1").env("NO_FAKE_STAT", "1");
    }
}

/// A process that is killed leaves what libfaketime made for it in /dev/shm.
impl Drop for WallClock {
    fn drop(&mut self) {
        for item in std::fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
            let name = item.file_name().to_string_lossy().into_owned();
            let owner = name.strip_prefix("faketime_shm_").or_else(|| name.strip_prefix("sem.faketime_sem_"));
            if owner.is_some_and(|pid| !std::path::Path::new("/proc").join(pid).exists()) {
                drop(std::fs::remove_file(item.path()));
            }
        }
    }
}
