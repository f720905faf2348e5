//! Which paths of the host the operator may show to sandboxes (`bwrap.extra_ro_paths`).

use std::fs;
use std::io;
use std::path::Path;

use sys::beneath::Beneath;

/// Places of the host that `extra_ro_paths` may neither name nor contain: they hold secrets or ways to control the host.
const SECRET_PLACES: &[&str] =
    &["/boot", "/dev", "/etc", "/home", "/proc", "/root", "/run", "/srv", "/sys", "/tmp", "/var"];

/// Why a host path may not be shown to sandboxes.
pub(super) fn check(path: &Path) -> Result<(), String> {
    if !path.is_absolute() || path.components().any(|part| matches!(part, std::path::Component::ParentDir)) {
        return Err("it is not an absolute path without ..".to_owned());
    }
    if path == Path::new("/") {
        return Err("it is the whole host: name the folders that are needed".to_owned());
    }
    let secret = SECRET_PLACES.iter().find(|place| path.starts_with(place) || Path::new(place).starts_with(path));
    if let Some(place) = secret {
        return Err(format!("{place} may hold secrets of the host"));
    }
    // A link anywhere in it could lead to a secret place, whatever its name says.
    let host = Beneath::open(Path::new("/")).map_err(|error| error.to_string())?;
    match host.plain(path.strip_prefix("/").unwrap_or(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err("it does not exist".to_owned()),
        Err(_) => return Err("it is a link, or leads through one: name what it leads to".to_owned()),
        Ok(()) => {}
    }
    if fs::symlink_metadata(path).is_ok_and(|kind| kind.is_dir()) {
        Ok(())
    } else {
        Err("it is no directory".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_places_are_refused() {
        for path in [
            "/",
            "/etc",
            "/etc/ssl",
            "/var/lib",
            "/root",
            "/home/u",
            "relative",
            "/opt/../etc",
            "/proc",
            "/tmp/x",
            "/does/not/exist",
        ] {
            assert!(check(Path::new(path)).is_err(), "{path}");
        }
        assert_eq!(check(Path::new("/usr/lib")), Ok(()));
    }

    #[test]
    fn a_link_in_the_middle_is_refused() {
        // Of the files that every Linux has: /proc/self is a link, and in a secret place; one of our own shows the rule.
        let dir = tempfile::tempdir_in("/opt").unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("link")).unwrap();
        fs::create_dir(dir.path().join("plain")).unwrap();
        assert_eq!(check(&dir.path().join("plain")), Ok(()));
        for path in ["link", "link/ssl"] {
            let reason = check(&dir.path().join(path)).unwrap_err();
            assert!(reason.contains("leads through one"), "{reason}");
        }
    }
}
