//! Artifacts: which files of the workspace match `artifacts.collect`, with size, digest and mode.
//!
//! The workspace was written by somebody hostile: every directory and file is opened beneath its descriptor, links are
//! neither followed nor listed, and the walk is bounded in depth, in entries, in bytes, in time and in what it may list.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};
use rustix::fs::{Dir, FileType};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sys::beneath::Beneath;
use tokio_util::sync::CancellationToken;

/// Entries looked at, at most.
const MOST_ENTRIES: usize = 200_000;

/// Files listed, at most.
const MOST_FILES: usize = 10_000;

/// Bytes read for digests, at most.
const MOST_BYTES: u64 = 4 << 30;

/// Bytes that the list may have as JSON: the report has it beside a diff, in a body that servers bound to some MiB.
const MOST_LISTED_BYTES: usize = 2 << 20;

/// Patterns, and bytes of one, at most.
const MOST_PATTERNS: usize = 1000;
const LONGEST_PATTERN: usize = 4096;

/// Directories deep, at most.
const DEEPEST: usize = 64;

/// Why there is no manifest.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArtifactError {
    /// A pattern that is none.
    #[error("artifacts.collect: {0}")]
    Pattern(#[from] globset::Error),
    /// More than is compiled.
    #[error("artifacts.collect: more than {limit} {what}")]
    Patterns {
        /// Of what.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// More than is looked at.
    #[error("the workspace holds more than {limit} {what}; name fewer files in artifacts.collect")]
    TooMuch {
        /// The bound.
        limit: u64,
        /// Of what.
        what: &'static str,
    },
    /// Nobody waits so long.
    #[error("looking through the workspace took too long; name fewer or smaller files in artifacts.collect")]
    TooSlow,
    /// Nobody waits any more.
    #[error("the directive was stopped meanwhile")]
    GivenUp,
    /// The file system refused.
    #[error("cannot read the workspace: {0}")]
    Io(#[from] io::Error),
}

/// How long the list is waited for.
#[derive(Debug, Clone)]
pub(super) struct Patience {
    /// Not beyond this.
    pub(super) until: Instant,
    /// Not once this is cancelled.
    pub(super) given_up: CancellationToken,
}

impl Patience {
    fn check(&self) -> Result<(), ArtifactError> {
        if self.given_up.is_cancelled() {
            return Err(ArtifactError::GivenUp);
        }
        if Instant::now() >= self.until {
            return Err(ArtifactError::TooSlow);
        }
        Ok(())
    }
}

/// The manifest of all regular files beneath `workspace` that match one of `patterns`, by path.
///
/// # Errors
/// [`ArtifactError`]; a file that vanishes or cannot be read meanwhile is left out.
pub(super) fn manifest(
    workspace: &Path,
    patterns: &[String],
    patience: &Patience,
) -> Result<Vec<Value>, ArtifactError> {
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
            patience.check()?;
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
    let (mut left, mut listed) = (MOST_BYTES, 0);
    let mut files = Vec::with_capacity(matching.len());
    for path in matching {
        let Ok(file) = root.read(&path) else { continue };
        let described = describe(&path, file, &mut left, patience)?;
        // As it will be sent: a character of a name can be six there.
        listed += described.to_string().len() + 1;
        if listed > MOST_LISTED_BYTES {
            return Err(ArtifactError::TooMuch { limit: MOST_LISTED_BYTES as u64, what: "bytes of names to list" });
        }
        files.push(described);
    }
    Ok(files)
}

fn compile(patterns: &[String]) -> Result<GlobSet, ArtifactError> {
    if patterns.len() > MOST_PATTERNS {
        return Err(ArtifactError::Patterns { what: "patterns", limit: MOST_PATTERNS });
    }
    if patterns.iter().any(|pattern| pattern.len() > LONGEST_PATTERN) {
        return Err(ArtifactError::Patterns { what: "bytes in one pattern", limit: LONGEST_PATTERN });
    }
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let relative = pattern.strip_prefix("/workspace/").unwrap_or(pattern);
        let glob: Glob = GlobBuilder::new(relative).literal_separator(true).build()?;
        set.add(glob);
    }
    Ok(set.build()?)
}

fn describe(path: &Path, mut file: File, left: &mut u64, patience: &Patience) -> Result<Value, ArtifactError> {
    let mode = file.metadata()?.permissions().mode() & 0o7777;
    let mut digest = Sha256::new();
    let mut size = 0_u64;
    let mut buffer = vec![0; 128 * 1024];
    loop {
        patience.check()?;
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
    use std::time::Duration;

    fn patience() -> Patience {
        Patience { until: Instant::now() + Duration::from_secs(60), given_up: CancellationToken::new() }
    }

    fn listed(dir: &Path, pattern: &str, patience: &Patience) -> Result<usize, String> {
        let files = manifest(dir, &[pattern.to_owned()], patience).map_err(|error| error.to_string())?;
        Ok(files.len())
    }

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
            let files = manifest(dir.path(), &patterns, &patience()).unwrap();
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
        let files = manifest(dir.path(), &["a".to_owned()], &patience()).unwrap();
        assert_eq!(files[0]["sha256"], "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!((&files[0]["size"], &files[0]["path"]), (&json!(3), &json!("a")));
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = manifest(dir.path(), &["a[".to_owned()], &patience()).unwrap_err();
        assert!(error.to_string().contains("a["), "{error}");
    }

    #[test]
    fn the_list_fits_a_report_whatever_the_names() {
        let dir = tempfile::tempdir().unwrap();
        // Names of 250 characters that JSON writes with six each.
        for number in 0..1500 {
            fs::write(dir.path().join(format!("{number:04}{}", "\u{1}".repeat(246))), "").unwrap();
        }
        let error = listed(dir.path(), "*", &patience()).unwrap_err();
        assert!(error.contains("bytes of names to list"), "{error}");
        assert_eq!(listed(dir.path(), "0*", &patience()), Ok(1000), "control: fewer of the same fit");
        let patterns = vec!["x".to_owned(); MOST_PATTERNS + 1];
        assert!(manifest(dir.path(), &patterns, &patience()).unwrap_err().to_string().contains("1000 patterns"));
        assert!(listed(dir.path(), &"x".repeat(LONGEST_PATTERN + 1), &patience()).is_err());
    }

    /// A sparse file of 3 GiB takes seconds to read.
    #[test]
    fn hashing_ends_in_time_and_when_it_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        fs::File::create(dir.path().join("large")).unwrap().set_len(3 << 30).unwrap();
        let began = Instant::now();
        let hurried = Patience { until: began + Duration::from_millis(100), ..patience() };
        assert!(listed(dir.path(), "*", &hurried).unwrap_err().contains("took too long"));
        let stopped = patience();
        let stop = stopped.given_up.clone();
        std::thread::scope(|scope| {
            let listing = scope.spawn(|| listed(dir.path(), "*", &stopped));
            stop.cancel();
            assert!(listing.join().unwrap().unwrap_err().contains("stopped meanwhile"));
        });
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
}
