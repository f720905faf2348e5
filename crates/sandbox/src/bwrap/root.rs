//! The root directory of the sandboxes: a skeleton of mount points and a synthetic `/etc`, made once per daemon.
//!
//! Promises: nothing of the host's `/etc` gets in but what is named here, none of which is secret. The skeleton lies in a
//! directory that no sandbox can write, and is mounted read-only.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use sys::beneath::Beneath;

use super::args::{INSIDE_ID, Tree};
use crate::{DriverSettings, DriversError, RootSource};

/// Mount points that every root has.
const MOUNT_POINTS: [&str; 6] = ["proc", "dev", "tmp", "run", "workspace", ".nexus"];

/// Directories of the host's root that hold programs; on merged-/usr systems they are links.
const PROGRAM_DIRS: [&str; 7] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32", "libexec"];

/// Files and directories of the host's /etc that programs need and that hold no secret. Links are copied as links.
const HOST_ETC: &[&str] = &[
    "alternatives",
    "debian_version",
    "fonts",
    "groff",
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
    "man_db.conf",
    "manpath.config",
    "maven/logging",
    "maven/m2.conf",
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

/// Those of them that are large, and hold links, certificates and settings of programs that everybody on the host reads:
/// mounted instead of copied, which takes microseconds where hundreds of copies take half a second.
const MOUNTED_ETC: [&str; 7] =
    ["alternatives", "fonts", "java-11-openjdk", "java-17-openjdk", "java-21-openjdk", "java-25-openjdk", "ssl/certs"];

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

/// What the users and groups of a rootfs lack: ssh and others refuse to work for a user without a name.
const OWN_NAMES: [(&str, &str); 2] =
    [("etc/passwd", "nexus:x:1000:1000:nexus:/workspace:/bin/sh\n"), ("etc/group", "nexus:x:1000:\n")];

/// A file of the rootfs that is as large as this is shown as it is.
const MAX_ROOTFS_FILE: u64 = 4 * 1024 * 1024;

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
            RootSource::Rootfs(rootfs) => root.rootfs(rootfs, settings)?,
            // Nobody builds a root before there is one.
            RootSource::Awaited { reason } => {
                return Err(failed(dir)(io::Error::new(io::ErrorKind::NotFound, reason.clone())));
            }
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

    fn rootfs(&mut self, rootfs: &Path, settings: &DriverSettings) -> Result<(), DriversError> {
        let listing = fs::read_dir(rootfs).map_err(failed(rootfs))?;
        for entry in listing {
            let name = entry.map_err(failed(rootfs))?.file_name();
            if MOUNT_POINTS.iter().all(|own| name != *own) && name != "sys" {
                self.top_level(rootfs, &name)?;
            }
        }
        let beneath = Beneath::open(rootfs).map_err(failed(rootfs))?;
        if in_rootfs(&beneath, "etc/ssh/ssh_config").is_some() {
            self.instead("/etc/ssh/ssh_config", SSH_CONFIG.as_bytes())?;
        }
        for (name, line) in OWN_NAMES {
            let text = in_rootfs(&beneath, name).filter(|text| !names_inside_id(text));
            if let Some(mut text) = text {
                if !text.ends_with(b"\n") {
                    text.push(b'\n');
                }
                text.extend(line.as_bytes());
                self.instead(&format!("/{name}"), &text)?;
            }
        }
        settings.ca_bundle.as_deref().map_or(Ok(()), |bundle| self.certificates_of(&beneath, bundle))
    }

    /// Appends the operator's certificates to every bundle of the rootfs.
    fn certificates_of(&mut self, rootfs: &Beneath, bundle: &Path) -> Result<(), DriversError> {
        let more = fs::read(bundle).map_err(failed(bundle))?;
        let mut added = false;
        for name in BUNDLES {
            let name = format!("etc/{name}");
            if let Some(mut all) = in_rootfs(rootfs, &name) {
                all.push(b'\n');
                all.extend(&more);
                self.instead(&format!("/{name}"), &all)?;
                added = true;
            }
        }
        if !added {
            tracing::warn!("the sandboxes' root has no bundle of certificates that egress.ca_bundle could be added to");
        }
        Ok(())
    }

    /// Shows a file of our own in the place of one that the rootfs has.
    fn instead(&mut self, at: &str, content: &[u8]) -> Result<(), DriversError> {
        let own = self.skeleton.join(".nexus").join(at.trim_start_matches('/').replace('/', "-"));
        write(&own, content, 0o444)?;
        self.trees.push(Tree { source: own, at: at.into() });
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
            make_dir(&self.skeleton.join(below))?;
            self.trees.push(Tree { source: path.to_owned(), at: path.to_owned() });
        }
        Ok(())
    }
}

/// The content of a regular file of the rootfs that no link stands before: what is mounted there stays where it says.
fn in_rootfs(rootfs: &Beneath, name: &str) -> Option<Vec<u8>> {
    let path = Path::new(name);
    rootfs.plain(path).ok()?;
    let mut content = Vec::new();
    let count = rootfs.read(path).ok()?.take(MAX_ROOTFS_FILE).read_to_end(&mut content).ok()?;
    (u64::try_from(count).ok()? < MAX_ROOTFS_FILE).then_some(content)
}

/// Whether a file of users or groups has the id that commands run as.
fn names_inside_id(text: &[u8]) -> bool {
    let id = INSIDE_ID.to_string();
    text.split(|byte| *byte == b'\n').any(|line| line.split(|byte| *byte == b':').nth(2) == Some(id.as_bytes()))
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
    if let Some(parent) = to.parent().filter(|parent| !parent.exists()) {
        make_dir(parent)?;
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
        make_dir(&etc.join("ssl/certs"))?;
        replace(&place, &more)?;
    }
    Ok(())
}

/// A directory that the sandbox's user can look into, and those above it, whatever the daemon's umask is.
fn make_dir(path: &Path) -> Result<(), DriversError> {
    if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
        make_dir(parent)?;
    }
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

    fn settings(root: &Path, ca_bundle: Option<PathBuf>) -> DriverSettings {
        DriverSettings {
            runtime_dir: "/nonexistent".into(),
            bwrap_path: "bwrap".into(),
            search_path: String::new(),
            root: RootSource::Rootfs(root.to_owned()),
            sandbox_user: "nexus-sandbox".into(),
            extra_ro_paths: Vec::new(),
            ca_bundle,
        }
    }

    /// Its own top-level entries, and beside them files that stand in the place of some of its own.
    #[test]
    fn a_rootfs_gets_what_it_lacks() {
        let dir = tempfile::tempdir().unwrap();
        let rootfs = dir.path().join("rootfs");
        let bundle = dir.path().join("ca.pem");
        fs::write(&bundle, "OPERATOR\n").unwrap();
        for (name, text) in [
            ("usr/bin/tool", ""),
            ("etc/passwd", "root:x:0:0:root:/root:/bin/sh"),
            ("etc/group", "root:x:0:\nmine:x:1000:\n"),
            ("etc/ssh/ssh_config", "Host *\n"),
            ("etc/ssl/certs/ca-certificates.crt", "THEIRS\n"),
            ("workspace/theirs", ""),
            ("a-file", ""),
        ] {
            fs::create_dir_all(rootfs.join(name).parent().unwrap()).unwrap();
            fs::write(rootfs.join(name), text).unwrap();
        }
        symlink("usr/bin", rootfs.join("bin")).unwrap();
        let root = Root::build(&dir.path().join("skeleton"), &settings(&rootfs, Some(bundle))).unwrap();
        assert_eq!(fs::read_link(root.skeleton.join("bin")).unwrap(), Path::new("usr/bin"));
        assert!(!root.skeleton.join("a-file").exists());
        let mut trees: Vec<_> = root.trees.iter().map(|tree| (tree.at.to_str().unwrap(), &tree.source)).collect();
        trees.sort();
        let places: Vec<_> = trees.iter().map(|(at, _)| *at).collect();
        let own = ["/etc/passwd", "/etc/ssh/ssh_config", "/etc/ssl/certs/ca-certificates.crt"];
        assert_eq!(places, ["/etc", own[0], own[1], own[2], "/usr"]);
        let text = |place: usize| fs::read_to_string(trees[place].1).unwrap();
        assert_eq!(text(1), "root:x:0:0:root:/root:/bin/sh\nnexus:x:1000:1000:nexus:/workspace:/bin/sh\n");
        assert_eq!(text(2), SSH_CONFIG);
        assert_eq!(text(3), "THEIRS\n\nOPERATOR\n");
    }

    /// A rootfs may hold links that lead to the host: nothing is read through them, and nothing mounted.
    #[test]
    fn links_of_a_rootfs_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (rootfs, host) = (dir.path().join("rootfs"), dir.path().join("host"));
        fs::create_dir_all(rootfs.join("usr")).unwrap();
        fs::create_dir_all(host.join("ssh")).unwrap();
        for name in ["passwd", "group", "ssh/ssh_config"] {
            fs::write(host.join(name), "SECRET").unwrap();
        }
        symlink(&host, rootfs.join("etc")).unwrap();
        let root = Root::build(&dir.path().join("skeleton"), &settings(&rootfs, None)).unwrap();
        assert_eq!(root.trees, [Tree { source: rootfs.join("usr"), at: "/usr".into() }]);
        // The same with each file a link.
        fs::remove_file(rootfs.join("etc")).unwrap();
        fs::create_dir(rootfs.join("etc")).unwrap();
        for name in ["passwd", "group", "ssh"] {
            symlink(host.join(name), rootfs.join("etc").join(name)).unwrap();
        }
        let root = Root::build(&dir.path().join("second"), &settings(&rootfs, None)).unwrap();
        assert_eq!(root.trees.len(), 2, "{:?}", root.trees);
    }

    #[test]
    fn the_inside_id_is_looked_for_in_its_column() {
        assert!(names_inside_id(b"root:x:0:0\nubuntu:x:1000:1000::/home/ubuntu:/bin/sh\n"));
        assert!(!names_inside_id(b"root:x:0:1000:1000:/root:/bin/sh\na:1000:10000:0\n"));
        for (_, line) in OWN_NAMES {
            assert!(names_inside_id(line.as_bytes()), "{line}");
        }
    }

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
