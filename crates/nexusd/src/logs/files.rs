//! Opening what an earlier process left: a file of ours, and nothing that only has its name.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Opens a file, not what a link leads to, and not a pipe, which whoever opens it would wait for.
pub(super) fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = options.custom_flags(flags.bits().cast_signed()).open(path).map_err(|error| {
        match rustix::io::Errno::from_io_error(&error) {
            Some(rustix::io::Errno::LOOP) => no_file("a link"),
            Some(rustix::io::Errno::NXIO) => no_file("a pipe or a socket"),
            _ => error,
        }
    })?;
    if !file.metadata()?.is_file() {
        return Err(no_file("something else"));
    }
    Ok(file)
}

fn no_file(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("it is no file but {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_are_opened_and_nobody_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "x").unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        std::fs::create_dir(at("folder")).unwrap();
        let mode = rustix::fs::Mode::RWXU;
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        for write in [false, true] {
            let can = |name: &str| open(File::options().read(true).write(write), &at(name)).is_ok();
            assert_eq!(["file", "link", "folder", "pipe", "none"].map(can), [true, false, false, false, false]);
        }
        assert!(open(File::options().write(true), &at("pipe")).unwrap_err().to_string().contains("no file"));
        assert_eq!(open(File::options().read(true), &at("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
