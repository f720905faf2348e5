//! Archives for tests: whole ones, and ones that no honest program makes.

use lzma_rust2::{XzOptions, XzWriter};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::require::test_rootfs;

/// A tar archive that is being made, entry by entry. Names and targets are written as they are given.
#[derive(Debug, Clone, Default)]
pub struct TarBytes {
    bytes: Vec<u8>,
}

/// A block of a tar archive.
const BLOCK: usize = 512;

impl TarBytes {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A directory.
    #[must_use]
    pub fn dir(self, name: &str, mode: u32) -> Self {
        self.entry(b'5', name, "", mode, b"")
    }

    /// A file.
    #[must_use]
    pub fn file(self, name: &str, mode: u32, content: &[u8]) -> Self {
        self.entry(b'0', name, "", mode, content)
    }

    /// A symbolic link.
    #[must_use]
    pub fn link(self, name: &str, target: &str) -> Self {
        self.entry(b'2', name, target, 0o777, b"")
    }

    /// A hard link.
    #[must_use]
    pub fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(b'1', name, target, 0o644, b"")
    }

    /// A record of POSIX about the next entry.
    #[must_use]
    pub fn record(self, key: &str, value: &str) -> Self {
        let rest = format!(" {key}={value}\n");
        // The length counts its own digits.
        let length = (1..9).map(|digits| rest.len() + digits).find(|n| n.to_string().len() + rest.len() == *n);
        let record = format!("{}{rest}", length.unwrap());
        self.entry(b'x', "record", "", 0o644, record.as_bytes())
    }

    /// A long name (`L`) or long target (`K`) of GNU for the next entry.
    #[must_use]
    pub fn gnu(self, kind: u8, name: &str) -> Self {
        self.entry(kind, "././@LongLink", "", 0o644, format!("{name}\0").as_bytes())
    }

    /// An entry of any type.
    #[must_use]
    pub fn entry(self, kind: u8, name: &str, target: &str, mode: u32, content: &[u8]) -> Self {
        let mut all = self.header(kind, name, target, mode, content.len() as u64);
        all.bytes.extend_from_slice(content);
        all.bytes.resize(all.bytes.len().next_multiple_of(BLOCK), 0);
        all
    }

    /// A header alone, which promises `size` bytes.
    #[must_use]
    pub fn header(mut self, kind: u8, name: &str, target: &str, mode: u32, size: u64) -> Self {
        let mut header = tar::Header::new_gnu();
        let fields = header.as_gnu_mut().unwrap();
        fields.name[..name.len()].copy_from_slice(name.as_bytes());
        fields.linkname[..target.len()].copy_from_slice(target.as_bytes());
        fields.typeflag = [kind];
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(1_000_000_007);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        self.bytes.extend_from_slice(header.as_bytes());
        self
    }

    /// What there is, without an end.
    #[must_use]
    pub fn unfinished(self) -> Vec<u8> {
        self.bytes
    }

    /// The whole archive.
    #[must_use]
    pub fn tar(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }

    /// The whole archive, packed.
    #[must_use]
    pub fn tar_xz(self) -> Vec<u8> {
        xz(&self.tar())
    }
}

/// Packs bytes as `xz -0` would.
#[must_use]
pub fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut writer = XzWriter::new(Vec::new(), XzOptions::with_preset(0)).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

/// The Debian root directory for tests as a distribution would ship it, a `.tar.xz`: packed once, then found beside the
/// directory. Only where `Need::Rootfs` is met.
#[must_use]
pub fn debian_archive() -> PathBuf {
    let tree = test_rootfs();
    let archive = tree.with_extension("tar.xz");
    let lock = File::create(tree.with_extension("tar.lock")).unwrap();
    lock.lock().unwrap();
    let age = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    if age(&archive) < age(&tree.join(".complete")) {
        // As the makers of cloud images do it: sorted, with the records of POSIX, without a top directory.
        let mut tar = Command::new("tar");
        tar.args(["--create", "--format=posix", "--sort=name", "--xattrs", "--exclude=./.complete", "--directory"]);
        let mut tar = tar.arg(&tree).arg(".").stdout(Stdio::piped()).spawn().unwrap();
        let fresh = tree.with_extension("tar.xz.new");
        let mut writer = XzWriter::new(File::create(&fresh).unwrap(), XzOptions::with_preset(0)).unwrap();
        std::io::copy(&mut tar.stdout.take().unwrap(), &mut writer).unwrap();
        writer.finish().unwrap();
        assert!(tar.wait().unwrap().success(), "tar does not pack {}", tree.display());
        std::fs::rename(fresh, &archive).unwrap();
    }
    archive
}

/// SHA-256.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// SHA-256 in hexadecimal digits.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    sha256(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Every path beneath a directory with what is there, sorted: what a test compares a whole tree by. Links are not followed.
#[must_use]
pub fn listing(dir: &Path) -> Vec<String> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(folder) = left.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = std::fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(dir).unwrap().display().to_string();
            let mode = meta.permissions().mode() & 0o7777;
            found.push(match std::fs::read_link(&path) {
                Ok(target) => format!("{name} -> {}", target.display()),
                Err(_) if meta.is_dir() => format!("{name}/ {mode:o}"),
                Err(_) if meta.is_file() => format!("{name} {mode:o} {}", meta.len()),
                Err(_) => format!("{name} {:?}", meta.file_type()),
            });
            if meta.is_dir() {
                left.push(path);
            }
        }
    }
    found.sort();
    found
}
