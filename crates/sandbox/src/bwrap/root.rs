//! The root directory of the sandboxes: a skeleton of mount points and a synthetic `/etc`, made once per daemon.
//!
//! Promises: nothing of the host's `/etc` gets in but what is named here, none of which is secret. The skeleton lies in a
//! directory that no sandbox can write, and is mounted read-only.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use sys::beneath::Beneath;

use super::args::Tree;
use crate::{DriverSettings, DriversError, RootSource};

/// Mount points that every root has.
const MOUNT_POINTS: [&str; 6] = ["proc", "dev", "tmp", "run", "workspace", ".nexus"];

/// Directories of the host's root that hold programs; on merged-/usr systems they are links.
const PROGRAM_DIRS: [&str; 7] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32", "libexec"];

/// Files and directories of the host's /etc that programs need and that hold no secret. Links are copied as links.
const HOST_ETC: &[&str] = &[
    "alternatives",
    "debian_version",
    "java",
    "java-11-openjdk",
    "java-17-openjdk",
    "java-21-openjdk",
    "java-25-openjdk",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "lsb-release",
    "mime.types",
    "os-release",
    "pki/ca-trust/extracted",
    "pki/tls/certs",
    "protocols",
    "services",
    "ssl/cert.pem",
    "ssl/certs",
    "ssl/openssl.cnf",
    "timezone",
];

/// Those of them that are large and hold nothing but links and certificates: mounted instead of copied, which takes
/// microseconds where hundreds of copies take half a second.
const MOUNTED_ETC: [&str; 2] = ["alternatives", "ssl/certs"];

/// What the sandbox's own /etc says. The resolver stub fails at once: names are looked up by the proxy.
const OWN_ETC: &[(&str, &str)] = &[
    (
        "passwd",
        "root:x:0:0:root:/nonexistent:/usr/sbin/nologin\nnexus:x:1000:1000:nexus:/workspace:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    ),
    ("group", "root:x:0:\ntty:x:5:\nnexus:x:1000:\nnogroup:x:65534:\n"),
    (
        "nsswitch.conf",
        "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\n",
    ),
    ("hosts", "127.0.0.1 localhost nexus\n::1 localhost ip6-localhost ip6-loopback\n"),
    ("hostname", "nexus\n"),
    (
        "resolv.conf",
        "# There is no name service here: the proxy looks names up.\nnameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
    ),
    ("shells", "/bin/sh\n/bin/bash\n"),
];

/// ssh reaches its hosts through the proxy.
const SSH_CONFIG: &str = "Host *\n    ProxyCommand /.nexus/nexus-init connect %h %p\n";

/// Places of the host that `extra_ro_paths` may neither name nor contain: they hold secrets or ways to control the host.
const SECRET_PLACES: &[&str] =
    &["/boot", "/dev", "/etc", "/home", "/proc", "/root", "/run", "/srv", "/sys", "/tmp", "/var"];

/// Where certificates are looked for, most used first; one bundle is made of the host's and the operator's.
const BUNDLES: [&str; 3] = ["ssl/certs/ca-certificates.crt", "pki/tls/certs/ca-bundle.crt", "ssl/cert.pem"];

/// The root directory: the skeleton, and what is mounted on it.
#[derive(Debug)]
pub(crate) struct Root {
    /// The skeleton on the host.
    pub(crate) skeleton: PathBuf,
    /// What is mounted on it, in this order.
    pub(crate) trees: Vec<Tree>,
}

impl Root {
    /// Makes the skeleton in `dir`, which must not exist.
    pub(crate) fn build(dir: &Path, settings: &DriverSettings) -> Result<Self, DriversError> {
        let mut root = Self { skeleton: dir.to_owned(), trees: Vec::new() };
        make_dir(dir)?;
        for name in MOUNT_POINTS {
            make_dir(&dir.join(name))?;
        }
        write(&dir.join(".nexus/nexus-init"), guest::HELPER, 0o555)?;
        write(&dir.join(".nexus/proxy.sock"), b"", 0o444)?;
        match &settings.root {
            RootSource::HostUsr => root.host_usr(settings)?,
            RootSource::Rootfs(rootfs) => root.rootfs(rootfs)?,
        }
        for path in &settings.extra_ro_paths {
            root.extra(path)?;
        }
        Ok(root)
    }

    fn host_usr(&mut self, settings: &DriverSettings) -> Result<(), DriversError> {
        make_dir(&self.skeleton.join("usr"))?;
        self.trees.push(Tree { source: "/usr".into(), at: "/usr".into() });
        for name in PROGRAM_DIRS {
            self.top_level(Path::new("/"), name.as_ref())?;
        }
        let etc = self.skeleton.join("etc");
        make_dir(&etc)?;
        for name in HOST_ETC {
            let source = Path::new("/etc").join(name);
            let is_dir = fs::symlink_metadata(&source).is_ok_and(|kind| kind.is_dir());
            // The operator's certificates are written into the bundle, so that folder must be a copy.
            let mounted = MOUNTED_ETC.contains(name) && (settings.ca_bundle.is_none() || *name != "ssl/certs");
            if mounted && is_dir {
                make_dir(&etc.join(name))?;
                self.trees.push(Tree { at: source.clone(), source });
            } else {
                copy(&source, &etc.join(name), MAX_DEPTH)?;
            }
        }
        for (name, text) in OWN_ETC {
            replace(&etc.join(name), text.as_bytes())?;
        }
        make_dir(&etc.join("ssh"))?;
        replace(&etc.join("ssh/ssh_config"), SSH_CONFIG.as_bytes())?;
        match &settings.ca_bundle {
            Some(bundle) => add_certificates(&etc, bundle),
            None => Ok(()),
        }
    }

    fn rootfs(&mut self, rootfs: &Path) -> Result<(), DriversError> {
        let listing = fs::read_dir(rootfs).map_err(failed(rootfs))?;
        for entry in listing {
            let name = entry.map_err(failed(rootfs))?.file_name();
            if MOUNT_POINTS.iter().all(|own| name != *own) && name != "sys" {
                self.top_level(rootfs, &name)?;
            }
        }
        if fs::symlink_metadata(rootfs.join("etc/ssh/ssh_config")).is_ok_and(|file| file.is_file()) {
            let config = self.skeleton.join(".nexus/ssh_config");
            write(&config, SSH_CONFIG.as_bytes(), 0o444)?;
            self.trees.push(Tree { source: config, at: "/etc/ssh/ssh_config".into() });
        }
        Ok(())
    }

    /// A top-level entry: a link stays one, a directory is mounted, anything else is left out.
    fn top_level(&mut self, from: &Path, name: &std::ffi::OsStr) -> Result<(), DriversError> {
        let source = from.join(name);
        let Ok(kind) = fs::symlink_metadata(&source) else { return Ok(()) };
        let place = self.skeleton.join(name);
        if kind.is_symlink() {
            let target = fs::read_link(&source).map_err(failed(&source))?;
            symlink(target, &place).map_err(failed(&place))?;
        } else if kind.is_dir() {
            make_dir(&place)?;
            self.trees.push(Tree { source, at: Path::new("/").join(name) });
        }
        Ok(())
    }

    fn extra(&mut self, path: &Path) -> Result<(), DriversError> {
        check_extra(path).map_err(|reason| DriversError::ExtraPath { path: path.to_owned(), reason })?;
        let below = path.strip_prefix("/").unwrap_or(path);
        if !path.starts_with("/usr") {
            fs::create_dir_all(self.skeleton.join(below)).map_err(failed(path))?;
            self.trees.push(Tree { source: path.to_owned(), at: path.to_owned() });
        }
        Ok(())
    }
}

/// How deep directories of the host's /etc are copied.
const MAX_DEPTH: usize = 6;

/// Why a host path may not be shown to sandboxes.
fn check_extra(path: &Path) -> Result<(), String> {
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

/// Copies links as links, readable regular files, and directories; a private key or anything else is left out.
fn copy(from: &Path, to: &Path, depth: usize) -> Result<(), DriversError> {
    let Ok(kind) = fs::symlink_metadata(from) else { return Ok(()) };
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(failed(parent))?;
    }
    if kind.is_symlink() {
        let target = fs::read_link(from).map_err(failed(from))?;
        return symlink(target, to).map_err(failed(to));
    }
    if kind.is_dir() {
        make_dir(to)?;
        if depth == 0 {
            return Ok(());
        }
        for entry in fs::read_dir(from).map_err(failed(from))? {
            let name = entry.map_err(failed(from))?.file_name();
            copy(&from.join(&name), &to.join(&name), depth - 1)?;
        }
        return Ok(());
    }
    // Only what everybody on the host may read anyway: a key that lies in the wrong place stays where it is.
    if kind.is_file()
        && kind.permissions().mode() & 0o004 != 0
        && from.extension().is_none_or(|extension| extension != "key")
    {
        fs::copy(from, to).map_err(failed(to))?;
        fs::set_permissions(to, fs::Permissions::from_mode(0o444)).map_err(failed(to))?;
    }
    Ok(())
}

/// Appends the operator's certificates to every bundle that there is.
fn add_certificates(etc: &Path, bundle: &Path) -> Result<(), DriversError> {
    let more = fs::read(bundle).map_err(failed(bundle))?;
    let mut added = false;
    for name in BUNDLES {
        let place = etc.join(name);
        if fs::symlink_metadata(&place).is_ok_and(|kind| kind.is_file()) {
            let mut all = fs::read(&place).map_err(failed(&place))?;
            all.push(b'\n');
            all.extend(&more);
            replace(&place, &all)?;
            added = true;
        }
    }
    if !added {
        let place = etc.join(BUNDLES[0]);
        fs::create_dir_all(etc.join("ssl/certs")).map_err(failed(&place))?;
        replace(&place, &more)?;
    }
    Ok(())
}

fn make_dir(path: &Path) -> Result<(), DriversError> {
    fs::create_dir_all(path).map_err(failed(path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(failed(path))
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), DriversError> {
    fs::write(path, content).map_err(failed(path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed(path))
}

/// Writes a file in the place of whatever was copied there.
fn replace(path: &Path, content: &[u8]) -> Result<(), DriversError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path)(error)),
        _ => write(path, content, 0o444),
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> DriversError {
    let path = path.to_owned();
    move |source| DriversError::Prepare { path, source }
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
            assert!(check_extra(Path::new(path)).is_err(), "{path}");
        }
        assert_eq!(check_extra(Path::new("/usr/lib")), Ok(()));
    }

    #[test]
    fn a_link_in_the_middle_is_refused() {
        // Of the files that every Linux has: /proc/self is a link, and in a secret place; one of our own shows the rule.
        let dir = tempfile::tempdir_in("/opt").unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("link")).unwrap();
        fs::create_dir(dir.path().join("plain")).unwrap();
        assert_eq!(check_extra(&dir.path().join("plain")), Ok(()));
        for path in ["link", "link/ssl"] {
            let reason = check_extra(&dir.path().join(path)).unwrap_err();
            assert!(reason.contains("leads through one"), "{reason}");
        }
    }
}
