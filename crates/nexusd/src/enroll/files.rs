//! The credentials on disk: written aside, synced, then put in place, `territory.json` last.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::EnrollError;
use crate::config::identity::TERRITORY_FILE;

pub(super) const KEY: &str = "client-key.pem";
pub(super) const CERT: &str = "client.pem";
pub(super) const CA: &str = "ca.pem";
pub(super) const TERRITORY: &str = TERRITORY_FILE;

/// The out dir, open: what happens to its path afterwards does not matter.
pub(super) struct OutDir {
    dir: OwnedFd,
    path: PathBuf,
    force: bool,
    readable_by_others: bool,
    /// Files written aside: name in place, name aside.
    aside: Vec<(&'static str, String)>,
}

impl OutDir {
    /// Makes the directory (0700) where it is not there, and refuses one that others can write to or that holds
    /// credentials already.
    pub(super) fn prepare(path: &Path, with_pair: bool, force: bool) -> Result<Self, EnrollError> {
        let path = std::path::absolute(path).map_err(|source| failed(path, source))?;
        let mut builder = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(builder.recursive(true), 0o700);
        builder.create(&path).map_err(|source| failed(&path, source))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(&path, flags, Mode::empty()).map_err(|errno| failed(&path, errno.into()))?;
        let mode = rustix::fs::fstat(&dir).map_err(|errno| failed(&path, errno.into()))?.st_mode;
        if mode & 0o022 != 0 {
            return Err(EnrollError::OpenDirectory { path });
        }
        let out = Self { dir, path, force, readable_by_others: mode & 0o077 != 0, aside: Vec::new() };
        let names: &[&'static str] = if with_pair { &[TERRITORY, CERT, KEY, CA] } else { &[TERRITORY] };
        for name in names {
            if !force && rustix::fs::statat(&out.dir, *name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                return Err(EnrollError::Exists { path: out.path.join(name) });
            }
        }
        Ok(out)
    }

    /// Writes a file aside, readable by its owner alone, and syncs it.
    pub(super) fn write(&mut self, name: &'static str, contents: &[u8]) -> Result<(), EnrollError> {
        let aside = format!(".{name}.{:016x}", rand::random::<u64>());
        let path = self.path.join(&aside);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.dir, aside.as_str(), flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| failed(&path, errno.into()))?;
        self.aside.push((name, aside));
        let mut file = std::fs::File::from(fd);
        file.write_all(contents).and_then(|()| file.sync_all()).map_err(|source| failed(&path, source))
    }

    pub(super) fn notes(&self) -> Vec<String> {
        let path = self.path.display();
        if self.readable_by_others {
            vec![format!("{path} can be listed by others: chmod 700 {path}")]
        } else {
            Vec::new()
        }
    }

    /// Puts everything in place and syncs the directory; answers with its absolute path. Where one file cannot be
    /// put in place, those that newly were are taken back.
    pub(super) fn commit(mut self) -> Result<PathBuf, EnrollError> {
        let flags = if self.force { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        let mut placed: Vec<&'static str> = Vec::new();
        while let Some((name, aside)) = self.aside.first().cloned() {
            let path = self.path.join(name);
            if let Err(errno) = rustix::fs::renameat_with(&self.dir, aside.as_str(), &self.dir, name, flags) {
                if !self.force {
                    self.remove(placed);
                }
                return Err(if errno == Errno::EXIST {
                    EnrollError::Exists { path }
                } else {
                    failed(&path, errno.into())
                });
            }
            placed.push(name);
            self.aside.remove(0);
        }
        rustix::fs::fsync(&self.dir).map_err(|errno| failed(&self.path, errno.into()))?;
        Ok(self.path.clone())
    }

    fn remove<'n>(&self, names: impl IntoIterator<Item = &'n str>) {
        for name in names {
            if let Err(error) = rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()) {
                tracing::warn!(file = %self.path.join(name).display(), %error, "cannot be removed");
            }
        }
    }
}

/// What was written aside and not put in place is removed: above all a key that has no certificate.
impl Drop for OutDir {
    fn drop(&mut self) {
        self.remove(self.aside.iter().map(|(_, aside)| aside.as_str()));
    }
}

fn failed(path: &Path, source: std::io::Error) -> EnrollError {
    EnrollError::Write { path: path.to_path_buf(), source }
}
