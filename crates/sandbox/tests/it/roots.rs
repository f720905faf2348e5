//! Roots: a bare rootfs, the host's /usr, further paths.

use std::os::unix::fs::PermissionsExt;

use sandbox::{Driver, DriverSettings, Drivers, DriversError, RootSource};
use testkit::require;

use crate::bed::{Bed, Run, settings};

/// A root with one static program and nothing else: no shell, no libc, no /workspace, no /proc.
fn bare(dir: &std::path::Path) -> std::path::PathBuf {
    let root = dir.join("bare-rootfs");
    std::fs::create_dir_all(root.join("opt")).unwrap();
    let program = root.join("opt/program");
    std::fs::write(&program, guest::HELPER).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    root
}

#[tokio::test]
async fn a_bare_rootfs_runs_its_program() {
    let bed = Bed::with(|settings| {
        let rootfs = bare(settings.runtime_dir.parent().unwrap());
        settings.root = RootSource::Rootfs(rootfs);
    });
    let outcome = bed.run(Run { shell: "/opt/program".into(), ..Run::sh("x") }).await;
    assert_eq!(outcome.exit.code, 2);
    assert!(outcome.stderr.starts_with("usage: nexus-init"), "{}", outcome.stderr);
    let outcome = bed.run(Run::sh("true")).await;
    assert_eq!((outcome.exit.code, outcome.stderr.as_str()), (127, "nexus: /bin/bash: No such file or directory\n"));
}

#[tokio::test]
async fn secret_extra_paths_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for path in ["/etc", "/root", "/var/lib", "/"] {
        let wrong = DriverSettings { extra_ro_paths: vec![path.into()], ..settings(dir.path()) };
        assert!(matches!(Drivers::new(wrong), Err(DriversError::ExtraPath { .. })), "{path}");
    }
}

#[tokio::test]
async fn an_extra_path_is_there_and_read_only() {
    let opt = tempfile::tempdir_in("/opt").unwrap();
    std::fs::set_permissions(opt.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    std::fs::write(opt.path().join("tool"), "x").unwrap();
    let bed = Bed::with(|settings| settings.extra_ro_paths = vec![opt.path().to_owned()]);
    let path = opt.path().display();
    assert_eq!(
        bed.sh(&format!("ls {path}; touch {path}/y 2>/dev/null || echo refused; ls -A /opt | wc -l")).await,
        "tool\nrefused\n1\n"
    );
}

#[tokio::test]
async fn a_ca_bundle_is_added() {
    let bundle = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(bundle.path(), "-----BEGIN CERTIFICATE-----\nOPERATOR\n-----END CERTIFICATE-----\n").unwrap();
    let bed = Bed::with(|settings| settings.ca_bundle = Some(bundle.path().to_owned()));
    assert_eq!(bed.sh("grep -c OPERATOR /etc/ssl/certs/ca-certificates.crt").await, "1\n");
}

#[tokio::test]
async fn an_ordinary_user_s_daemon_has_the_same_sandbox() {
    // The drivers of a process that is not root: this test's own program, run again as nobody.
    if sys::user::effective_uid() != 0 {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("it");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    for path in [dir.path(), &program] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let home = dir.path().join("tmp");
    std::fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(65_534), Some(65_534)).unwrap();
    let output = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .args([
            "--exact",
            "--test-threads=2",
            "confinement::the_user_is_unprivileged_outside_too",
            "confinement::the_host_is_not_there",
        ])
        .args(["confinement::only_the_writable_places_are_writable", "confinement::no_further_namespace_mount_or_root"])
        .args(["confinement::capabilities_narrow_the_workspace", "network::socat_can_be_the_bridge"])
        .args([
            "network::the_proxy_accepts_on_the_sandbox_s_own_socket",
            "output::codes_and_signals",
            "endings::nobody_survives_an_end",
        ])
        .env("TMPDIR", &home)
        .current_dir(&home)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("9 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_privileged_sandbox_user_is_refused() {
    if sys::user::effective_uid() != 0 {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let wrong = DriverSettings { sandbox_user: "root".into(), ..settings(dir.path()) };
    assert!(matches!(Drivers::new(wrong), Err(DriversError::PrivilegedUser { .. })));
    let right = Drivers::new(settings(dir.path())).unwrap();
    assert!(right.owner(Driver::Bwrap).uid > 0);
}

#[tokio::test]
async fn the_sandbox_s_user_is_the_one_that_is_named() {
    require!(Root, Bwrap);
    let dir = tempfile::tempdir().unwrap();
    for (named, expected) in
        [("65533", Some((65_533, 65_533))), ("65534", Some((65_534, 65_534))), ("nobody-here", None)]
    {
        let drivers = Drivers::new(DriverSettings { sandbox_user: named.into(), ..settings(dir.path()) });
        match (drivers, expected) {
            (Ok(drivers), Some(owner)) => {
                let made = drivers.owner(Driver::Bwrap);
                assert_eq!((made.uid, made.gid), owner, "{named}");
            }
            (Err(error), None) => {
                assert!(error.to_string().contains("sandbox_user nobody-here does not exist"), "{error}");
            }
            (made, _) => panic!("{named}: {made:?}"),
        }
    }
}

#[test]
fn a_root_that_is_not_there_names_the_keys() {
    let dir = tempfile::tempdir().unwrap();
    let settings = DriverSettings { root: RootSource::Rootfs("/nosuch".into()), ..settings(dir.path()) };
    let error = Drivers::new(settings).unwrap_err().to_string();
    assert!(error.contains("/nosuch") && error.contains("bwrap.rootfs_path"), "{error}");
}
