//! The Debian packages, built by `tools/build-deb.sh` and lived with in a fresh Debian: installed, upgraded, removed, purged.

use std::fs;
use std::process::Command;

use testkit::require;

use super::chroot::{Chroot, more};
use super::release::{Yard, foreign, native};
use super::{said, verified};

const DPKG: &str = "dpkg --force-unsafe-io";

/// Empty packages by the names that nexusd needs: what is in them the tests of the sandbox say.
fn stand_ins(chroot: &Chroot) {
    for name in ["bubblewrap", "ca-certificates", "git", "procps"] {
        chroot.must(&format!(
            "mkdir -p /tmp/{name}/DEBIAN && cd /tmp && \
             printf 'Package: {name}\\nVersion: 1\\nArchitecture: all\\nMaintainer: x <x@x.invalid>\\nDescription: x\\n' \
             >{name}/DEBIAN/control && dpkg-deb -Znone --build {name} {name}.deb >/dev/null && {DPKG} -i {name}.deb"
        ));
    }
}

/// The packages of a version, in the root's `/release`.
fn build(yard: &Yard, chroot: &Chroot, version: &str) {
    let quick = [("DEB_VERSION", version), ("DPKG_DEB_COMPRESSOR_TYPE", "none")];
    let output = yard.run("build-deb.sh", &[], &quick);
    assert!(output.status.success(), "{}", said(&output));
    for name in ["nexusd", "mothership"] {
        let package = yard.dist().join(format!("{name}_{version}_{}.deb", native().0));
        chroot.bring(&package, &format!("release/{name}-{version}.deb"));
    }
}

#[test]
fn a_life_with_the_package() {
    require!(Root, Rootfs, Apt, Compiler, Systemd);
    let (yard, chroot) = (Yard::with_programs(), Chroot::new());
    build(&yard, &chroot, "0.1.0");
    let refused = chroot.run(&format!("{DPKG} -i /release/nexusd-0.1.0.deb"));
    assert!(!refused.status.success() && said(&refused).contains("depends on bubblewrap"), "{}", said(&refused));
    chroot.must(&format!("{DPKG} --purge nexusd"));
    stand_ins(&chroot);
    let before = chroot.everything();

    // A first installation starts nothing and enables nothing.
    chroot.pretend_systemd();
    let told = chroot.must(&format!("{DPKG} -i /release/nexusd-0.1.0.deb"));
    assert!(told.contains("installed and not started: see /usr/share/doc/nexusd/README"), "{told}");
    assert_eq!(chroot.systemctl(), ["daemon-reload"]);
    chroot.must(
        "test ! -e /etc/nexusd/config.yaml && test ! -e /etc/systemd/system/multi-user.target.wants/nexusd.service",
    );
    in_place(&chroot);

    // The operator's own, and the daemon's.
    chroot.must(
        "cp /usr/share/doc/nexusd/examples/config.yaml /etc/nexusd/ && echo '# mine' >>/etc/nexusd/config.yaml && \
         install -d -o nexusd -g nexusd /var/lib/nexusd/facilities && echo work >/var/lib/nexusd/facilities/work",
    );
    build(&yard, &chroot, "0.1.1");
    chroot.must(&format!("{DPKG} -i /release/nexusd-0.1.1.deb"));
    assert_eq!(chroot.systemctl(), ["daemon-reload", "--no-block try-restart nexusd.service"]);
    let kept = "grep -q '# mine' /etc/nexusd/config.yaml && grep -q work /var/lib/nexusd/facilities/work";
    chroot.must(kept);
    assert!(chroot.must("dpkg -s nexusd").contains("Version: 0.1.1"));

    // Removed, it is stopped, and what is not the package's own is left; what the package brought is gone.
    chroot.must(&format!("{DPKG} --remove nexusd"));
    assert_eq!(chroot.systemctl(), ["disable --now nexusd.service", "daemon-reload"]);
    chroot.must(kept);
    let mut left = more(&chroot.everything(), &before);
    left.dedup();
    let expected = [
        "/etc/nexusd",
        "/etc/nexusd/config.yaml",
        "/usr/local/bin/systemctl",
        "/var/lib/nexusd",
        "/var/lib/nexusd/facilities",
        "/var/lib/nexusd/facilities/work",
        "nexus-sandbox",
        "nexusd",
    ];
    assert_eq!(left, expected);

    // Purged, the configuration goes; people's work stays until it is said that it shall go too.
    let told = chroot.must(&format!("{DPKG} --purge nexusd"));
    assert!(told.contains("/var/lib/nexusd is left as it is, with its user: NEXUS_PURGE_STATE=yes"), "{told}");
    chroot.must("test ! -e /etc/nexusd && grep -q work /var/lib/nexusd/facilities/work && getent passwd nexusd");
    chroot.must(&format!("{DPKG} -i /release/nexusd-0.1.1.deb && NEXUS_PURGE_STATE=yes {DPKG} --purge nexusd"));
    chroot.must("rm -r /usr/local/bin/systemctl /run/systemd");
    let after = chroot.everything();
    assert_eq!((more(&after, &before), more(&before, &after)), (vec![], vec![]));
    the_control_plane_s(&chroot, &before);
}

/// Whether all is where the unit, the shells and man look for it, and works there.
fn in_place(chroot: &Chroot) {
    let stat = chroot.must(
        "stat -c '%n %A %U:%G' /usr/bin/nexusd /etc/nexusd /var/lib/nexusd /usr/share/man/man5/nexusd.yaml.5.gz \
         /usr/share/man/man1/nexusd-run.1.gz /usr/share/bash-completion/completions/nexusd \
         /usr/share/zsh/vendor-completions/_nexusd /usr/share/fish/vendor_completions.d/nexusd.fish \
         /usr/share/doc/nexusd/copyright /usr/share/doc/nexusd/examples/as-root.conf",
    );
    let expected = "/usr/bin/nexusd -rwxr-xr-x root:root
/etc/nexusd drwxr-xr-x root:root
/var/lib/nexusd drwx------ nexusd:nexusd
/usr/share/man/man5/nexusd.yaml.5.gz -rw-r--r-- root:root
/usr/share/man/man1/nexusd-run.1.gz -rw-r--r-- root:root
/usr/share/bash-completion/completions/nexusd -rw-r--r-- root:root
/usr/share/zsh/vendor-completions/_nexusd -rw-r--r-- root:root
/usr/share/fish/vendor_completions.d/nexusd.fish -rw-r--r-- root:root
/usr/share/doc/nexusd/copyright -rw-r--r-- root:root
/usr/share/doc/nexusd/examples/as-root.conf -rw-r--r-- root:root
";
    assert_eq!(stat, expected);
    let users = chroot.must("getent passwd nexusd nexus-sandbox | sed 's/:[0-9]*:[0-9]*:/:/'");
    assert_eq!(
        users,
        "nexusd:x:Nexus daemon:/var/lib/nexusd:/usr/sbin/nologin\n\
         nexus-sandbox:x:Nexus sandboxes, as root:/nonexistent:/usr/sbin/nologin\n"
    );
    // systemd, where it is, makes the same of that file.
    let sysusers =
        chroot.beside("systemd-sysusers --dry-run --root=\"$ROOT\" - <\"$ROOT/usr/lib/sysusers.d/nexusd.conf\"");
    assert_eq!((sysusers.status.code(), said(&sysusers)), (Some(0), String::new()), "they are there already");
    assert_eq!(verified(chroot, "nexusd.service"), Vec::<String>::new());
    // Control: what the unit starts is looked for there.
    chroot.must("mv /usr/bin/nexusd /usr/bin/nexusd.away");
    assert!(verified(chroot, "nexusd.service").concat().contains("Command /usr/bin/nexusd is not executable"));
    chroot.must("mv /usr/bin/nexusd.away /usr/bin/nexusd");
    assert!(chroot.must("nexusd -version").starts_with("nexusd 0."));
    let checked = chroot.must("nexusd config check --config /usr/share/doc/nexusd/examples/config.yaml");
    assert!(checked.contains("examples/config.yaml: ok\n"), "{checked}");
    chroot.must("runuser -u nexusd -- nexusd config example --platform linux >/tmp/x && cmp /tmp/x /usr/share/doc/nexusd/examples/config.yaml");
}

fn the_control_plane_s(chroot: &Chroot, before: &[String]) {
    chroot.must(&format!("{DPKG} -i /release/mothership-0.1.0.deb && {DPKG} -i /release/mothership-0.1.1.deb"));
    assert!(chroot.must("mothership --version").starts_with("mothership 0."));
    assert_eq!(chroot.must("stat -c '%A %U:%G' /var/lib/mothership"), "drwx------ mothership:mothership\n");
    assert_eq!(verified(chroot, "mothership.service"), Vec::<String>::new());
    // Without a systemd at work, the link that enabled it goes all the same.
    chroot.must(
        "ln -sr /usr/lib/systemd/system/mothership.service /etc/systemd/system/multi-user.target.wants/ && \
         echo x >/etc/default/mothership",
    );
    chroot.must(&format!("{DPKG} --purge mothership"));
    let mut left = more(&chroot.everything(), before);
    left.dedup();
    assert_eq!(left, ["mothership"], "an empty state folder is nobody's work; the user may own files elsewhere");
}

#[test]
fn a_package_for_a_machine_that_cannot_be_built_for() {
    require!(Apt);
    let yard = Yard::new(&[&format!("{}-unknown-linux-gnu", native().1)]);
    let output = yard.run("build-deb.sh", &[foreign().0], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).starts_with(&format!("linux-{} cannot be built here: ", foreign().0)), "{}", said(&output));
    assert_eq!(yard.run("build-deb.sh", &["sparc"], &[]).status.code(), Some(2));
    let debs = fs::read_dir(yard.dist())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "deb"));
    assert_eq!(debs.count(), 0);
}

#[test]
fn the_scripts_are_clean() {
    require!(Shellcheck);
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let scripts = [
        "nexus-linux/packaging/install.sh",
        "nexus-linux/packaging/deb/postinst",
        "nexus-linux/packaging/deb/prerm",
        "nexus-linux/packaging/deb/postrm",
        "tools/build-deb.sh",
        "tools/build-release.sh",
        "tools/release-sums.sh",
    ];
    let output = Command::new("shellcheck").arg("--shell=sh").args(scripts).current_dir(root).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    assert!(output.status.success(), "{}", said(&output));
}
