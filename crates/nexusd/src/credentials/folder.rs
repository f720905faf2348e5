//! Renewed pairs on disk: a folder for each, behind one link that is renamed over the last.
//!
//! A kill or a power cut at any moment leaves the link at a whole pair, the old one or the new one.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use conduits::TerritoryId;
use serde::{Deserialize, Serialize};

use crate::config::Config;

const CERTIFICATE: &str = "client.pem";
const KEY: &str = "client-key.pem";
const CA: &str = "ca.pem";
/// Whose pair it is.
const OWNER: &str = "owner.json";
/// The link to the pair in use.
const CURRENT: &str = "current";
/// What a kill may leave begins like this.
const UNFINISHED: &str = ".new";
/// Longest serial number in a name, in characters; RFC 5280 allows 40.
const MAX_SERIAL: usize = 64;

/// The files of a renewed pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Renewed {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    pub(super) ca: Option<PathBuf>,
}

/// Whose a pair is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owner {
    /// The territory, where it is known here.
    pub(super) territory_id: Option<TerritoryId>,
    /// The mothership that issued it.
    pub(super) server_url: String,
}

impl Owner {
    /// Who this daemon is by its configuration.
    pub(super) fn of(config: &Config) -> Self {
        let territory_id = config.identity().ok().and_then(|identity| identity.territory_id().cloned());
        Self { territory_id, server_url: config.server_url.to_string() }
    }

    /// Whether a pair of `other` is ours. Where one does not know the territory, the mothership decides.
    fn is(&self, other: &Self) -> bool {
        let known = self.territory_id.as_ref().zip(other.territory_id.as_ref());
        self.server_url == other.server_url && known.is_none_or(|(ours, theirs)| ours == theirs)
    }
}

/// A pair to be kept.
pub(super) struct Fresh<'a> {
    pub(super) serial: &'a str,
    pub(super) certificate: &'a str,
    pub(super) key: &'a str,
    pub(super) ca: Option<&'a str>,
    pub(super) owner: &'a Owner,
}

fn home(state: &Path) -> PathBuf {
    state.join("credentials")
}

/// The renewed pair, where there is one of this very territory at this very mothership.
pub(super) fn current(config: &Config, state: &Path) -> Option<Renewed> {
    let home = home(state);
    // Resolved once: certificate and key are of one pair, whatever is renamed meanwhile.
    let target = std::fs::read_link(home.join(CURRENT)).ok()?;
    let folder = home.join(target.file_name()?);
    let owner: Owner = serde_json::from_slice(&std::fs::read(folder.join(OWNER)).ok()?).ok()?;
    if !Owner::of(config).is(&owner) {
        return None;
    }
    let ca = folder.join(CA);
    Some(Renewed { certificate: folder.join(CERTIFICATE), key: folder.join(KEY), ca: ca.exists().then_some(ca) })
}

/// Writes `fresh` and makes it the current pair; what was there before it is removed.
pub(super) fn keep(state: &Path, fresh: &Fresh<'_>) -> io::Result<()> {
    let home = home(state);
    private_folder(&home)?;
    sweep(&home, |name| name.starts_with(UNFINISHED));
    let unfinished = home.join(UNFINISHED);
    DirBuilder::new().mode(0o700).create(&unfinished)?;
    let owner = serde_json::to_vec_pretty(fresh.owner)?;
    write(&unfinished.join(KEY), fresh.key.as_bytes())?;
    write(&unfinished.join(CERTIFICATE), fresh.certificate.as_bytes())?;
    if let Some(ca) = fresh.ca {
        write(&unfinished.join(CA), ca.as_bytes())?;
    }
    write(&unfinished.join(OWNER), &owner)?;
    File::open(&unfinished)?.sync_all()?;
    let name = free_name(&home, fresh.serial);
    std::fs::rename(&unfinished, home.join(&name))?;
    let link = home.join(format!("{UNFINISHED}-link"));
    std::os::unix::fs::symlink(&name, &link)?;
    std::fs::rename(&link, home.join(CURRENT))?;
    File::open(&home)?.sync_all()?;
    sweep(&home, |other| other != CURRENT && other != name);
    Ok(())
}

fn private_folder(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// The serial number as a name that is not taken: another server may give one twice.
fn free_name(home: &Path, serial: &str) -> String {
    let plain: String = serial.chars().filter(char::is_ascii_hexdigit).take(MAX_SERIAL).collect();
    let plain = if plain.is_empty() { "0".to_owned() } else { plain };
    let names = std::iter::once(plain.clone()).chain((2_u32..).map(|n| format!("{plain}-{n}")));
    names.into_iter().find(|name| !home.join(name).exists()).unwrap_or(plain)
}

/// Removes what `is_old` says of the names; what cannot be removed is tried again at the next renewal.
fn sweep(home: &Path, is_old: impl Fn(&str) -> bool) {
    let Ok(entries) = std::fs::read_dir(home) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_str().is_some_and(&is_old) {
            continue;
        }
        let path = entry.path();
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = if is_folder { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        if let Err(error) = removed {
            tracing::warn!(path = %path.display(), %error, "an old certificate's folder cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn config(text: &str) -> Config {
        let surroundings = crate::config::Surroundings {
            platform: crate::config::Platform::Linux,
            environment: &|_| None,
            folder: "/nowhere".into(),
            home: None,
        };
        Config::from_text("c", text, &surroundings).unwrap()
    }

    #[test]
    fn one_pair_is_kept_and_it_is_this_territory_s_at_this_mothership() {
        let dir = tempfile::tempdir().unwrap();
        let ours = config("server_url: https://m.example:3000\nterritory_id: t-1\n");
        let owner = Owner::of(&ours);
        let keep = |serial, certificate| {
            let fresh = Fresh { serial, certificate, key: "k", ca: Some("a"), owner: &owner };
            keep(dir.path(), &fresh).unwrap();
        };
        assert_eq!(current(&ours, dir.path()), None);
        // What a kill left.
        std::fs::create_dir_all(dir.path().join("credentials/.new")).unwrap();
        keep("0a:0b", "one");
        keep("../..", "two");
        keep("0", "three");
        let found = current(&ours, dir.path()).unwrap();
        assert_eq!(found.certificate, dir.path().join("credentials/0-2/client.pem"));
        assert_eq!(std::fs::read_to_string(&found.certificate).unwrap(), "three");
        assert!(found.ca.is_some());
        let mut names: Vec<_> = std::fs::read_dir(dir.path().join("credentials")).unwrap().flatten().collect();
        names.sort_by_key(std::fs::DirEntry::file_name);
        let names: Vec<_> = names.iter().map(|entry| entry.file_name().into_string().unwrap()).collect();
        assert_eq!(names, ["0-2", "current"]);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&found.key), mode(found.key.parent().unwrap())), (0o600, 0o700));
        for other in [
            "server_url: https://m.example:3000\nterritory_id: t-2\n",
            "server_url: https://other.example:3000\nterritory_id: t-1\n",
        ] {
            assert_eq!(current(&config(other), dir.path()), None, "{other}");
        }
        // Credentials that came without a territory.json.
        assert!(current(&config("server_url: https://m.example:3000\n"), dir.path()).is_some());
    }
}
