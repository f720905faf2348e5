//! The root directory of the sandboxes, as a value: what lies where, of which content.
//!
//! Promises: nothing of the host's `/etc` gets in but what is named here, none of which is secret. Planning reads the host
//! and writes nothing; [`place`] makes the plan real, where no sandbox can write.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sys::beneath::Beneath;

use super::args::{INSIDE_ID, PROXY_SOCKET};
use crate::knockout::{Knockout, Knockouts};
use crate::{DriverSettings, DriversError, RootSource};

mod extra;
pub(crate) mod place;

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

/// Those of them that are large, and hold links, certificates and settings of programs that everybody on the host reads.
const LARGE_ETC: [&str; 7] =
    ["alternatives", "fonts", "java-11-openjdk", "java-17-openjdk", "java-21-openjdk", "java-25-openjdk", "ssl/certs"];

/// Where names are asked for: at the name service that the daemon offers in there. Without one that fails at once, so
/// waiting is for a host that is busy.
const RESOLV_CONF: &str = "# Knows the names that may be reached from here, and no others.\nnameserver 127.0.0.1\noptions timeout:2 attempts:3\n";

/// What the sandbox's own /etc says.
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
    ("resolv.conf", RESOLV_CONF),
    ("shells", "/bin/sh\n/bin/bash\n"),
];

/// What the users and groups of a rootfs lack: ssh and others refuse to work for a user without a name.
const OWN_NAMES: [(&str, &str); 2] =
    [("etc/passwd", "nexus:x:1000:1000:nexus:/workspace:/bin/sh\n"), ("etc/group", "nexus:x:1000:\n")];

/// A file of the rootfs that is as large as this is shown as it is.
const MAX_ROOTFS_FILE: u64 = 4 * 1024 * 1024;

/// ssh reaches its hosts through the proxy.
const SSH_CONFIG: &str = "Host *\n    ProxyCommand /.nexus/nexus-init connect %h %p\n";

/// The helper, for those inside who connect through the proxy.
const HELPER: &str = "/.nexus/nexus-init";

/// Where certificates are looked for, most used first; one bundle is made of the host's and the operator's.
const BUNDLES: [&str; 3] = ["ssl/certs/ca-certificates.crt", "pki/tls/certs/ca-bundle.crt", "ssl/cert.pem"];

/// What is at one place of the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// A directory: a mount point, or the folder of others.
    Directory,
    /// A symbolic link with this target.
    Link(PathBuf),
    /// A file of ours, read-only.
    File(Content),
    /// A file or directory of the host, with all that is mounted in it.
    Mount(PathBuf),
}

/// The content of a file of ours.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) bytes: Cow<'static, [u8]>,
    pub(crate) executable: bool,
}

/// How the large folders of the host's /etc get in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LargeEtc {
    /// Mounted: at once, however large they are. Each mount costs every later start some 0.1 ms.
    Mounted,
    /// Copied: a few milliseconds in memory, once, for a daemon that starts many sandboxes.
    Copied,
}

/// The root: each place, by its absolute path inside. Folders above a place go without saying.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Root(BTreeMap<PathBuf, Item>);

impl Root {
    /// What the settings ask for, as this host is now.
    pub(crate) fn plan(settings: &DriverSettings, large: LargeEtc) -> Result<Self, DriversError> {
        let mut root = Self::default();
        for name in MOUNT_POINTS {
            root.put(Path::new("/").join(name), Item::Directory);
        }
        root.put(HELPER, Item::File(Content { bytes: Cow::Borrowed(guest::HELPER), executable: true }));
        root.put(PROXY_SOCKET, Item::File(Content::of(Vec::new())));
        match &settings.root {
            RootSource::HostUsr => root.host_usr(settings, large)?,
            RootSource::Rootfs(rootfs) => root.rootfs(rootfs, settings)?,
            // Nobody builds a root before there is one.
            RootSource::Awaited { reason } => {
                return Err(failed(Path::new("the root"))(io::Error::new(io::ErrorKind::NotFound, reason.clone())));
            }
        }
        for path in &settings.extra_ro_paths {
            extra::check(path).map_err(|reason| DriversError::ExtraPath { path: path.clone(), reason })?;
            if !path.starts_with("/usr") {
                root.put(path, Item::Mount(path.clone()));
            }
        }
        if settings.root == RootSource::HostUsr && Knockouts::of(settings).has(Knockout::Etc) {
            root.0.retain(|at, _| !at.starts_with("/etc"));
            root.put("/etc", Item::Mount("/etc".into()));
        }
        Ok(root)
    }

    /// Every place, each after the folders above it.
    pub(crate) fn items(&self) -> impl Iterator<Item = (&Path, &Item)> {
        self.0.iter().map(|(at, item)| (at.as_path(), item))
    }

    /// Whether a folder of the host's is mounted in its own place.
    pub(crate) fn shows(&self, path: &Path) -> bool {
        matches!(self.0.get(path), Some(Item::Mount(source)) if source == path)
    }

    /// Whether a place lies in a folder of the host's that is mounted.
    pub(crate) fn in_a_mount(&self, at: &Path) -> bool {
        at.ancestors().skip(1).any(|above| matches!(self.0.get(above), Some(Item::Mount(_))))
    }

    /// Puts something at a place, instead of what was planned there.
    fn put(&mut self, at: impl Into<PathBuf>, item: Item) {
        self.0.insert(at.into(), item);
    }

    fn text(&mut self, at: impl Into<PathBuf>, text: &[u8]) {
        self.put(at, Item::File(Content::of(text.to_vec())));
    }

    fn host_usr(&mut self, settings: &DriverSettings, large: LargeEtc) -> Result<(), DriversError> {
        self.put("/usr", Item::Mount("/usr".into()));
        for name in PROGRAM_DIRS {
            self.top_level(Path::new("/"), name.as_ref())?;
        }
        for name in HOST_ETC {
            let at = Path::new("/etc").join(name);
            let is_dir = || fs::symlink_metadata(&at).is_ok_and(|kind| kind.is_dir());
            // The operator's certificates are written into the bundle, so that folder must be a copy.
            let as_it_is = settings.ca_bundle.is_none() || *name != "ssl/certs";
            if large == LargeEtc::Mounted && LARGE_ETC.contains(name) && as_it_is && is_dir() {
                self.put(at.clone(), Item::Mount(at));
            } else {
                self.copy(&at, MAX_DEPTH)?;
            }
        }
        for (name, text) in OWN_ETC {
            self.text(Path::new("/etc").join(name), text.as_bytes());
        }
        self.text("/etc/ssh/ssh_config", SSH_CONFIG.as_bytes());
        settings.ca_bundle.as_deref().map_or(Ok(()), |bundle| self.certificates_of_host(bundle))
    }

    /// Appends the operator's certificates to every bundle that there is.
    fn certificates_of_host(&mut self, bundle: &Path) -> Result<(), DriversError> {
        let more = fs::read(bundle).map_err(failed(bundle))?;
        let mut added = false;
        for name in BUNDLES {
            if let Some(Item::File(theirs)) = self.0.get_mut(&Path::new("/etc").join(name)) {
                let bytes = theirs.bytes.to_mut();
                bytes.push(b'\n');
                bytes.extend(&more);
                added = true;
            }
        }
        if !added {
            self.text(Path::new("/etc").join(BUNDLES[0]), &more);
        }
        Ok(())
    }

    fn rootfs(&mut self, rootfs: &Path, settings: &DriverSettings) -> Result<(), DriversError> {
        let unusable = |source| DriversError::Rootfs { path: rootfs.to_owned(), source };
        let listing = fs::read_dir(rootfs).map_err(unusable)?;
        for entry in listing {
            let name = entry.map_err(failed(rootfs))?.file_name();
            if MOUNT_POINTS.iter().all(|own| name != *own) && name != "sys" {
                self.top_level(rootfs, &name)?;
            }
        }
        let beneath = Beneath::open(rootfs).map_err(failed(rootfs))?;
        if in_rootfs(&beneath, "etc/ssh/ssh_config").is_some() {
            self.text("/etc/ssh/ssh_config", SSH_CONFIG.as_bytes());
        }
        // One that is a link leads to nothing in here, and a resolver without one asks at 127.0.0.1.
        if in_rootfs(&beneath, "etc/resolv.conf").is_some() {
            self.text("/etc/resolv.conf", RESOLV_CONF.as_bytes());
        }
        for (name, line) in OWN_NAMES {
            let text = in_rootfs(&beneath, name).filter(|text| !names_inside_id(text));
            if let Some(mut text) = text {
                if !text.ends_with(b"\n") {
                    text.push(b'\n');
                }
                text.extend(line.as_bytes());
                self.text(Path::new("/").join(name), &text);
            }
        }
        settings.ca_bundle.as_deref().map_or(Ok(()), |bundle| self.certificates_of_rootfs(&beneath, bundle))
    }

    /// Appends the operator's certificates to every bundle of the rootfs.
    fn certificates_of_rootfs(&mut self, rootfs: &Beneath, bundle: &Path) -> Result<(), DriversError> {
        let more = fs::read(bundle).map_err(failed(bundle))?;
        let mut added = false;
        for name in BUNDLES {
            let at = Path::new("/etc").join(name);
            if let Some(mut all) = in_rootfs(rootfs, &format!("etc/{name}")) {
                all.push(b'\n');
                all.extend(&more);
                self.text(at, &all);
                added = true;
            }
        }
        if !added {
            tracing::warn!("the sandboxes' root has no bundle of certificates that egress.ca_bundle could be added to");
        }
        Ok(())
    }

    /// A top-level entry: a link stays one, a directory is mounted, anything else is left out.
    fn top_level(&mut self, from: &Path, name: &std::ffi::OsStr) -> Result<(), DriversError> {
        let source = from.join(name);
        let Ok(kind) = fs::symlink_metadata(&source) else { return Ok(()) };
        let at = Path::new("/").join(name);
        if kind.is_symlink() {
            self.put(at, Item::Link(fs::read_link(&source).map_err(failed(&source))?));
        } else if kind.is_dir() {
            self.put(at, Item::Mount(source));
        }
        Ok(())
    }

    /// Copies from the host, to the same place: links as links, readable regular files, and directories. A private key
    /// or anything else is left out.
    fn copy(&mut self, at: &Path, depth: usize) -> Result<(), DriversError> {
        let Ok(kind) = fs::symlink_metadata(at) else { return Ok(()) };
        if kind.is_symlink() {
            self.put(at, Item::Link(fs::read_link(at).map_err(failed(at))?));
        } else if kind.is_dir() {
            self.put(at, Item::Directory);
            if depth > 0 {
                for entry in fs::read_dir(at).map_err(failed(at))? {
                    self.copy(&at.join(entry.map_err(failed(at))?.file_name()), depth - 1)?;
                }
            }
        } else if kind.is_file()
            // Only what everybody on the host may read anyway: a key that lies in the wrong place stays where it is.
            && kind.permissions().mode() & 0o004 != 0
            && at.extension().is_none_or(|extension| extension != "key")
        {
            self.put(at, Item::File(Content::of(fs::read(at).map_err(failed(at))?)));
        }
        Ok(())
    }
}

impl Content {
    fn of(bytes: Vec<u8>) -> Self {
        Self { bytes: Cow::Owned(bytes), executable: false }
    }

    /// Its permissions.
    pub(crate) fn mode(&self) -> u32 {
        if self.executable { 0o555 } else { 0o444 }
    }
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes, {:o}", self.bytes.len(), self.mode())
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

fn failed(path: &Path) -> impl FnOnce(io::Error) -> DriversError {
    let path = path.to_owned();
    move |source| DriversError::Prepare { path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::{HostHelper, Starts};

    fn settings(root: &Path, ca_bundle: Option<PathBuf>) -> DriverSettings {
        DriverSettings {
            runtime_dir: "/nonexistent".into(),
            bwrap_path: "bwrap".into(),
            search_path: String::new(),
            root: RootSource::Rootfs(root.to_owned()),
            sandbox_user: "nexus-sandbox".into(),
            extra_ro_paths: Vec::new(),
            starts: Starts::Many,
            ca_bundle,
            container: Err("not asked for".to_owned()),
            darwin: Err("not asked for".to_owned()),
            host_helper: HostHelper::Embedded,
            #[cfg(feature = "knockout")]
            knockouts: Vec::new(),
        }
    }

    fn text<'a>(root: &'a Root, at: &str) -> &'a str {
        let Some(Item::File(content)) = root.0.get(Path::new(at)) else { panic!("{at} is no file of ours: {root:?}") };
        std::str::from_utf8(&content.bytes).unwrap()
    }

    fn mounts(root: &Root) -> Vec<&str> {
        root.items().filter(|(_, item)| matches!(item, Item::Mount(_))).map(|(at, _)| at.to_str().unwrap()).collect()
    }

    /// Its own top-level entries, and files of ours that stand in the place of some of its own.
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
        let root = Root::plan(&settings(&rootfs, Some(bundle)), LargeEtc::Copied).unwrap();
        assert_eq!(root.0.get(Path::new("/bin")), Some(&Item::Link("usr/bin".into())));
        assert_eq!(root.0.get(Path::new("/a-file")), None);
        assert_eq!(mounts(&root), ["/etc", "/usr"]);
        assert_eq!(
            text(&root, "/etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\nnexus:x:1000:1000:nexus:/workspace:/bin/sh\n"
        );
        assert_eq!(text(&root, "/etc/ssh/ssh_config"), SSH_CONFIG);
        assert_eq!(text(&root, "/etc/ssl/certs/ca-certificates.crt"), "THEIRS\n\nOPERATOR\n");
        assert_eq!(root.0.get(Path::new("/etc/group")), None, "it has the id already");
        assert!(root.in_a_mount(Path::new("/etc/passwd")) && !root.in_a_mount(Path::new("/etc")));
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
        let planned = |places: &[&str]| {
            let root = Root::plan(&settings(&rootfs, None), LargeEtc::Copied).unwrap();
            assert_eq!(mounts(&root), places);
            assert!(root.items().all(|(at, item)| !(at.starts_with("/etc") && matches!(item, Item::File(_)))));
        };
        symlink(&host, rootfs.join("etc")).unwrap();
        planned(&["/usr"]);
        // The same with each file a link.
        fs::remove_file(rootfs.join("etc")).unwrap();
        fs::create_dir(rootfs.join("etc")).unwrap();
        for name in ["passwd", "group", "ssh"] {
            symlink(host.join(name), rootfs.join("etc").join(name)).unwrap();
        }
        planned(&["/etc", "/usr"]);
    }

    #[test]
    fn of_the_host_s_etc_comes_what_is_named_and_no_key() {
        let own: Vec<_> = OWN_ETC.iter().map(|(name, _)| *name).chain(["ssh/ssh_config"]).collect();
        for large in [LargeEtc::Copied, LargeEtc::Mounted] {
            let settings = DriverSettings { root: RootSource::HostUsr, ..settings(Path::new("/"), None) };
            let root = Root::plan(&settings, large).unwrap();
            let inside = |at: &Path| at.strip_prefix("/etc").ok().map(|name| name.to_str().unwrap().to_owned());
            for name in root.items().filter_map(|(at, _)| inside(at)) {
                let named = own.iter().chain(HOST_ETC).any(|known| Path::new(&name).starts_with(known));
                assert!(named && !name.ends_with(".key") && !name.contains("shadow"), "{name}");
            }
            assert_eq!(mounts(&root).iter().any(|at| at.starts_with("/etc")), large == LargeEtc::Mounted);
        }
    }

    #[test]
    fn the_inside_id_is_looked_for_in_its_column() {
        assert!(names_inside_id(b"root:x:0:0\nubuntu:x:1000:1000::/home/ubuntu:/bin/sh\n"));
        assert!(!names_inside_id(b"root:x:0:1000:1000:/root:/bin/sh\na:1000:10000:0\n"));
        for (_, line) in OWN_NAMES {
            assert!(names_inside_id(line.as_bytes()), "{line}");
        }
    }
}
