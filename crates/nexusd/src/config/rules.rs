//! The rules across keys, and the settings that deserve a warning.

use std::path::{Path, PathBuf};

use conduits::{DriverKind, SandboxProfile};

use super::problem::quoted;
use super::read::Reader;
use super::scalar::{absolute_folder, show_duration};
use super::settings::{Config, Warning};
use super::words::{Bridge, ContainerNetwork};
use super::{Platform, Surroundings};
use crate::engine::built;

/// Longest path of a Unix socket that every platform of ours takes: Linux has 108 bytes with the closing NUL,
/// macOS 104 (`sun_path`, unix(7)).
const MAX_SOCKET_PATH: usize = 104;

/// Longest name of a socket in `bwrap.proxy_socket_dir`, in bytes. Who makes such a name keeps to it.
pub const MAX_SOCKET_NAME: usize = 24;

/// Folders that never appear in a sandbox, with all they hold: secrets, other people's files, the kernel's
/// and the daemons' sockets, and what any local user can write.
const SECRET_PLACES: &[&str] =
    &["/boot", "/dev", "/etc", "/home", "/proc", "/root", "/run", "/sys", "/tmp", "/var", "/lost+found"];

pub(super) fn check(
    config: &Config,
    reader: &mut Reader<'_>,
    surroundings: &Surroundings<'_>,
    warnings: &mut Vec<Warning>,
) {
    credentials(config, reader, warnings);
    times(config, reader);
    if surroundings.platform == Platform::Linux {
        socket_dir(config, reader);
        extra_paths(config, reader, surroundings);
    }
    counts(config, reader);
    effects(config, warnings);
}

fn credentials(config: &Config, reader: &mut Reader<'_>, warnings: &mut Vec<Warning>) {
    let tls = &config.tls;
    match (&tls.client_cert_file, &tls.client_key_file) {
        (Some(_), None) => reader.complain("tls.client_cert_file", "has no key beside it: set tls.client_key_file"),
        (None, Some(_)) => {
            reader.complain("tls.client_key_file", "has no certificate beside it: set tls.client_cert_file");
        }
        _ => {}
    }
    if tls.insecure_skip_verify {
        warnings.push(Warning {
            key: "tls.insecure_skip_verify",
            text: "the mothership is not verified: whoever answers in its place can run commands here".to_owned(),
        });
    }
    if tls.client_cert_file.is_some() && !config.server_url.is_tls() {
        warnings.push(Warning {
            key: "tls.client_cert_file",
            text: "of no effect over http://: the territory is named by header alone".to_owned(),
        });
    }
}

fn times(config: &Config, reader: &mut Reader<'_>) {
    let limits = &config.limits;
    if limits.default_timeout > limits.max_timeout {
        let (default, max) = (show_duration(limits.default_timeout), show_duration(limits.max_timeout));
        let key =
            if reader.is_named("limits.default_timeout") { "limits.default_timeout" } else { "limits.max_timeout" };
        reader.complain(key, format!("default_timeout {default} is above max_timeout {max}"));
    }
}

/// Too long a folder fails only when the first directive binds its socket: said at start-up instead.
fn socket_dir(config: &Config, reader: &mut Reader<'_>) {
    let dir = &config.bwrap.proxy_socket_dir;
    let longest = dir.as_os_str().len() + 1 + MAX_SOCKET_NAME;
    if longest > MAX_SOCKET_PATH {
        let named = reader.is_named("bwrap.proxy_socket_dir");
        let from = if named { "" } else { " (from work_dir)" };
        let text = format!(
            "socket path too long: {}{from} makes {longest} bytes, {MAX_SOCKET_PATH} is the most; set \
             bwrap.proxy_socket_dir to a short folder such as /run/nexusd",
            quoted(&dir.display().to_string()),
        );
        reader.complain_at(
            reader.place_of(if named { "bwrap.proxy_socket_dir" } else { "work_dir" }),
            "bwrap.proxy_socket_dir",
            text,
        );
    }
}

/// What sandboxes see of the host must hold tools, not secrets: neither a secret place, nor one around it, nor anything of
/// the daemon's own.
fn extra_paths(config: &Config, reader: &mut Reader<'_>, surroundings: &Surroundings<'_>) {
    let own = own_places(config, surroundings);
    let mut places: Vec<Place> = SECRET_PLACES.iter().map(Place::whole).collect();
    places.extend(surroundings.home.as_deref().map(Place::whole));
    places.extend(own.iter().cloned());
    places.extend(tls_folders(config).map(Place::whole));
    for path in &config.bwrap.extra_ro_paths {
        if let Some(text) = shows(path, &places) {
            let key = "bwrap.extra_ro_paths";
            let item = reader.place_of_item(key, |item| absolute_folder(item).is_ok_and(|folder| folder == *path));
            reader.complain_at(item, key, text);
        }
    }
    // A root may well lie in /var or in a home; it is all of what the sandbox has of them.
    if let Some(text) = config.bwrap.rootfs_path.as_deref().and_then(|root| shows(root, &own)) {
        reader.complain("bwrap.rootfs_path", text);
    }
}

/// A folder that no sandbox may see.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    path: PathBuf,
    /// Whether what lies in it is as secret as itself.
    whole: bool,
}

impl Place {
    fn whole(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_owned(), whole: true }
    }

    fn around(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_owned(), whole: false }
    }
}

/// The daemon's own: facilities, state and credentials in `work_dir`, sockets, TLS files, and the configuration itself,
/// which may hold the password of a proxy. Other files may lie beside the last two.
fn own_places(config: &Config, surroundings: &Surroundings<'_>) -> Vec<Place> {
    let mut places = vec![Place::whole(&config.work_dir), Place::whole(&config.bwrap.proxy_socket_dir)];
    places.extend(tls_folders(config).map(Place::around));
    places.push(Place::around(&surroundings.folder));
    places
}

fn tls_folders(config: &Config) -> impl Iterator<Item = &Path> {
    let tls = &config.tls;
    [&tls.ca_file, &tls.client_cert_file, &tls.client_key_file].into_iter().flatten().filter_map(|file| file.parent())
}

/// Why no sandbox may see `path`, where it may not. By the paths as they are written: what links make of them is the
/// operator's own doing.
fn shows(path: &Path, places: &[Place]) -> Option<String> {
    let shown = quoted(&path.display().to_string());
    places.iter().find_map(|place| {
        let held = place.path.display();
        if place.path != path && place.path.starts_with(path) {
            Some(format!("{shown} holds {held}, which no sandbox may see"))
        } else if place.path == path || place.whole && path.starts_with(&place.path) {
            Some(format!("{shown} lies in {held}, which no sandbox may see"))
        } else {
            None
        }
    })
}

fn counts(config: &Config, reader: &mut Reader<'_>) {
    if let Some(dir) = config.log_overflow.dir.to_str().filter(|dir| dir.split('/').next() != Some(".nexus")) {
        let text = format!("{} is not beneath .nexus, which diffs and snapshots leave out", quoted(dir));
        reader.complain("log_overflow.dir", text);
    }
    let claim = usize::from(config.poll.max_directives_to_claim);
    if claim > config.max_concurrent_directives {
        let text = format!(
            "{claim} is above max_concurrent_directives {}: what is claimed must have a slot",
            config.max_concurrent_directives
        );
        reader.complain("poll.max_directives_to_claim", text);
    }
}

/// Settings that say something and do nothing.
fn effects(config: &Config, warnings: &mut Vec<Warning>) {
    let mut warn = |key: &'static str, text: &str| warnings.push(Warning { key, text: text.to_owned() });
    let untrusted = config.supported_sandbox_profiles.contains(&SandboxProfile::Untrusted);
    if !untrusted && config.untrusted_driver == DriverKind::Firecracker {
        warn("untrusted_driver", "of no effect: supported_sandbox_profiles does not list untrusted");
    }
    if config.rootfs.auto && config.bwrap.rootfs_path.is_some() {
        warn("rootfs.auto", "of no effect: bwrap.rootfs_path is the root");
    }
    if config.bwrap.bridge == Bridge::Builtin && config.bwrap.socat_path != Path::new("socat") {
        warn("bwrap.socat_path", "of no effect: the bridge is builtin");
    }
    if config.supported_sandbox_profiles.contains(&SandboxProfile::Trusted)
        && config.container.network == ContainerNetwork::Host
        && built(DriverKind::Container)
    {
        // The guide's soft constraint, said once where the operator reads it.
        warn("container.network", "host: containers are asked to use the proxy, not made to; isolated makes them");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_advised_about_a_driver_that_this_build_does_not_have() {
        let surroundings = Surroundings {
            platform: Platform::Linux,
            environment: &|_| None,
            folder: PathBuf::from("/etc/nexusd"),
            home: None,
        };
        let config = Config::from_text("c", "supported_sandbox_profiles: [trusted]\n", &surroundings).unwrap();
        let advised = config.warnings.iter().any(|warning| warning.key == "container.network");
        assert_eq!(advised, built(DriverKind::Container), "{:?}", config.warnings);
    }

    #[test]
    fn what_would_show_the_daemons_own_files() {
        let text = "work_dir: /srv/nexus/facilities\nbwrap: {proxy_socket_dir: /srv/sockets}\n\
            tls: {ca_file: /opt/ca/ca.pem, client_cert_file: /opt/keys/c.pem, client_key_file: /opt/keys/k.pem}\n";
        let surroundings = Surroundings {
            platform: Platform::Linux,
            environment: &|_| None,
            folder: PathBuf::from("/usr/local/nexus"),
            home: None,
        };
        let config = Config::from_text("c", text, &surroundings).unwrap();
        let places = own_places(&config, &surroundings);
        for (path, why) in [
            ("/", Some("holds")),
            ("/srv", Some("holds")),
            ("/srv/nexus", Some("holds")),
            ("/srv/nexus/facilities", Some("lies in")),
            ("/srv/nexus/facilities/.nexus/credentials", Some("lies in")),
            ("/srv/nexus/facilities2", None),
            ("/srv/sockets/x", Some("lies in")),
            ("/opt", Some("holds")),
            ("/opt/keys", Some("lies in")),
            ("/opt/ca", Some("lies in")),
            // Nothing of what lies beside a key is shown with it.
            ("/opt/keys/tools", None),
            ("/usr/local", Some("holds")),
            ("/usr/local/nexus", Some("lies in")),
            ("/usr/local/nexus/root", None),
            ("/usr/local/go", None),
        ] {
            let found = shows(Path::new(path), &places);
            assert_eq!(found.is_some(), why.is_some(), "{path}: {found:?}");
            assert!(why.is_none_or(|why| found.as_ref().is_some_and(|text| text.contains(why))), "{path}: {found:?}");
        }
    }
}
