//! Makes a planned root real: in the memory of a mount namespace, or on the disk where only root could mount.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use sys::mount::Entry;

use super::{Item, Root, failed};
use crate::DriversError;
use crate::bwrap::args::Tree;

/// Files of ours that stand in the place of a mounted folder's are kept here, and mounted there.
const OWN: &str = ".nexus";

/// What is put into a mount namespace so that the root is at `at` there.
pub(crate) fn in_memory(root: &Root, at: &Path) -> Vec<Entry> {
    let mut entries = vec![Entry::Directory(at.to_owned())];
    for (path, item) in root.items() {
        let place = beneath(at, path);
        match item {
            Item::Directory => entries.push(Entry::Directory(place)),
            Item::Link(target) => entries.push(Entry::Link { at: place, target: target.clone() }),
            Item::Mount(source) => entries.push(Entry::Tree { source: source.clone(), at: place }),
            Item::File(content) => {
                let own = if root.in_a_mount(path) { beneath(at, &kept(path)) } else { place.clone() };
                let (content, mode) = (content.bytes.clone(), content.mode());
                entries.push(Entry::File { at: own.clone(), content, mode });
                if own != place {
                    entries.push(Entry::Again { from: own, at: place });
                }
            }
        }
    }
    entries
}

/// Writes the root into `dir`, which must not exist; what has to be mounted on it, in this order.
pub(crate) fn on_disk(root: &Root, dir: &Path) -> Result<Vec<Tree>, DriversError> {
    let mut trees = Vec::new();
    make_dir(dir)?;
    for (path, item) in root.items() {
        let place = beneath(dir, path);
        match item {
            Item::Directory => make_dir(&place)?,
            Item::Link(target) => {
                make_parent(&place)?;
                symlink(target, &place).map_err(failed(&place))?;
            }
            Item::Mount(source) => {
                make_dir(&place)?;
                trees.push(Tree { source: source.clone(), at: path.to_owned() });
            }
            Item::File(content) => {
                let covered = root.in_a_mount(path);
                let own = if covered { beneath(dir, &kept(path)) } else { place };
                make_parent(&own)?;
                fs::write(&own, &content.bytes).map_err(failed(&own))?;
                fs::set_permissions(&own, fs::Permissions::from_mode(content.mode())).map_err(failed(&own))?;
                if covered {
                    trees.push(Tree { source: own, at: path.to_owned() });
                }
            }
        }
    }
    Ok(trees)
}

fn beneath(dir: &Path, path: &Path) -> PathBuf {
    dir.join(path.strip_prefix("/").unwrap_or(path))
}

/// The place of the file that is shown at `path`: `/.nexus/etc-passwd`.
fn kept(path: &Path) -> PathBuf {
    let name = path.to_string_lossy().trim_start_matches('/').replace('/', "-");
    Path::new("/").join(OWN).join(name)
}

fn make_parent(path: &Path) -> Result<(), DriversError> {
    path.parent().map_or(Ok(()), make_dir)
}

/// A directory that the sandbox's user can look into, and those above it, whatever the daemon's umask is.
fn make_dir(path: &Path) -> Result<(), DriversError> {
    if path.is_dir() {
        return Ok(());
    }
    make_parent(path)?;
    fs::create_dir(path).map_err(failed(path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(failed(path))
}
