//! Artifacts: which files of the workspace match `artifacts.collect`, with size, digest and mode.
//!
//! The workspace was written by somebody hostile: every directory and file is opened beneath its descriptor, links are
//! neither followed nor listed, and the walk is bounded in depth, in entries and in bytes.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};
use rustix::fs::{Dir, FileType};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sys::beneath::Beneath;

/// Entries looked at, at most.
const MOST_ENTRIES: usize = 200_000;

/// Files listed, at most.
const MOST_FILES: usize = 10_000;

/// Bytes read for digests, at most.
const MOST_BYTES: u64 = 4 << 30;

/// Directories deep, at most.
const DEEPEST: usize = 64;

/// Why there is no manifest.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArtifactError {
    /// A pattern that is none.
    #[error("artifacts.collect: {0}")]
    Pattern(#[from] globset::Error),
    /// More than is looked at.
    #[error("the workspace holds more than {limit} {what}; name fewer files in artifacts.collect")]
    TooMuch {
        /// The bound.
        limit: u64,
        /// Of what.
        what: &'static str,
    },
    /// The file system refused.
    #[error("cannot read the workspace: {0}")]
    Io(#[from] io::Error),
}

/// The manifest of all regular files beneath `workspace` that match one of `patterns`, by path.
///
/// # Errors
/// [`ArtifactError`]; a file that vanishes or cannot be read meanwhile is left out.
pub(super) fn manifest(workspace: &Path, patterns: &[String]) -> Result<Vec<Value>, ArtifactError> {
    let globs = compile(patterns)?;
    let root = Beneath::open(workspace)?;
    let mut folders = vec![(PathBuf::new(), 0)];
    let (mut matching, mut seen) = (Vec::new(), 0_usize);
    while let Some((folder, depth)) = folders.pop() {
        let Ok(fd) = root.dir(if depth == 0 { Path::new(".") } else { &folder }) else { continue };
        for entry in Dir::new(fd).map_err(io::Error::from)?.flatten() {
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            seen += 1;
            if seen > MOST_ENTRIES {
                return Err(ArtifactError::TooMuch { limit: MOST_ENTRIES as u64, what: "entries" });
            }
            // A name that is no text cannot stand in JSON as it is, and matches no pattern.
            let Ok(name) = std::str::from_utf8(name) else { continue };
            let path = folder.join(name);
            match entry.file_type() {
                FileType::Directory if depth < DEEPEST => folders.push((path, depth + 1)),
                FileType::RegularFile if globs.is_match(&path) => matching.push(path),
                _ => {}
            }
        }
    }
    if matching.len() > MOST_FILES {
        return Err(ArtifactError::TooMuch { limit: MOST_FILES as u64, what: "matching files" });
    }
    matching.sort();
    let mut left = MOST_BYTES;
    let mut files = Vec::with_capacity(matching.len());
    for path in matching {
        if let Ok(file) = root.read(&path) {
            files.push(describe(&path, file, &mut left)?);
        }
    }
    Ok(files)
}

fn compile(patterns: &[String]) -> Result<GlobSet, globset::Error> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let relative = pattern.strip_prefix("/workspace/").unwrap_or(pattern);
        let glob: Glob = GlobBuilder::new(relative).literal_separator(true).build()?;
        set.add(glob);
    }
    set.build()
}

fn describe(path: &Path, mut file: File, left: &mut u64) -> Result<Value, ArtifactError> {
    let mode = file.metadata()?.permissions().mode() & 0o7777;
    let mut digest = Sha256::new();
    let mut size = 0_u64;
    let mut buffer = vec![0; 128 * 1024];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        digest.update(&buffer[..read]);
        size += read as u64;
        // Counted as read, not as the size says: a sparse file or one that still grows ends here, too.
        *left = left
            .checked_sub(read as u64)
            .ok_or(ArtifactError::TooMuch { limit: MOST_BYTES, what: "bytes of matching files" })?;
    }
    let sha256 = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    Ok(json!({ "path": path.to_string_lossy(), "size": size, "sha256": sha256, "mode": format!("{mode:04o}") }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn matching_files_are_listed_and_links_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let secret = tempfile::tempdir().unwrap();
        fs::write(secret.path().join("key.txt"), "secret").unwrap();
        fs::create_dir_all(dir.path().join("out/deep")).unwrap();
        fs::write(dir.path().join("out/a.txt"), "abc").unwrap();
        fs::write(dir.path().join("out/deep/b.txt"), "").unwrap();
        fs::write(dir.path().join("out/c.bin"), "x").unwrap();
        symlink(secret.path().join("key.txt"), dir.path().join("out/link.txt")).unwrap();
        symlink(secret.path(), dir.path().join("linked")).unwrap();
        let paths = |patterns: &[&str]| -> Vec<String> {
            let patterns: Vec<String> = patterns.iter().map(|&p| p.to_owned()).collect();
            let files = manifest(dir.path(), &patterns).unwrap();
            files.iter().map(|file| file["path"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(paths(&["out/*.txt"]), ["out/a.txt"]);
        assert_eq!(paths(&["**/*.txt"]), ["out/a.txt", "out/deep/b.txt"]);
        assert_eq!(paths(&["/workspace/out/c.bin", "out/a.txt"]), ["out/a.txt", "out/c.bin"]);
        assert_eq!(paths(&["linked/*", "out/link.txt"]), Vec::<String>::new());
    }

    #[test]
    fn the_digest_is_of_the_bytes() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "abc").unwrap();
        let files = manifest(dir.path(), &["a".to_owned()]).unwrap();
        assert_eq!(files[0]["sha256"], "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!((&files[0]["size"], &files[0]["path"]), (&json!(3), &json!("a")));
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = manifest(dir.path(), &["a[".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("a["), "{error}");
    }
}
