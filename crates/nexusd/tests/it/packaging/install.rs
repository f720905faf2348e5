//! `install.sh` of a release, lived with in a fresh Debian: run, run again, run from a newer release, and taken back.

use std::fs;

use testkit::require;

use super::chroot::{Chroot, more};
use super::release::{Yard, native};
use super::{said, verified};

/// A release in the root's `/release`, and one that came later in `/newer`.
fn releases(chroot: &Chroot) {
    let yard = Yard::with_programs();
    let output = yard.run("build-release.sh", &["linux", native().0], &[]);
    assert!(output.status.success(), "{}", said(&output));
    chroot.bring(&yard.dist(), "release/first");
    // Another unit, and nothing else.
    let unit = yard.dist().join("nexusd.service");
    fs::write(&unit, fs::read_to_string(&unit).unwrap() + "# newer\n").unwrap();
    let dist = yard.dist().display().to_string();
    assert!(yard.run("release-sums.sh", &[&dist], &[]).status.success());
    chroot.bring(&yard.dist(), "release/newer");
}

#[test]
fn a_life_with_the_script() {
    require!(Root, Rootfs, Compiler, Systemd);
    let chroot = Chroot::new();
    releases(&chroot);
    chroot.must("mkdir -p /usr/local/share/man && echo theirs >/usr/local/bin/theirs");
    let before = chroot.everything();

    // What is not as SHA256SUMS says is not installed, nor is anything else; nor is a file of somebody else's replaced.
    let binary = format!("mothership-linux-{}", native().0);
    chroot.must(&format!("cp -R /release/first /release/bad && echo x >>/release/bad/{binary}"));
    let refused = chroot.run("/release/bad/install.sh");
    assert!(
        said(&refused).contains(&format!("{binary} is not what SHA256SUMS says: nothing was changed")),
        "{refused:?}"
    );
    chroot.must("echo '[Service]' >/etc/systemd/system/nexusd.service");
    let refused = chroot.run("/release/first/install.sh nexusd");
    assert!(said(&refused).contains("/etc/systemd/system/nexusd.service is there, and not from here"), "{refused:?}");
    chroot.must("grep -qx '\\[Service\\]' /etc/systemd/system/nexusd.service && rm /etc/systemd/system/nexusd.service");
    assert_eq!(chroot.everything(), before);

    // Once, and once more: the same.
    let told = chroot.must("/release/first/install.sh");
    assert!(told.contains("next: write /etc/nexusd/config.yaml"), "{told}");
    let installed = chroot.everything();
    in_place(&chroot);
    chroot.must("mkdir -p /etc/nexusd && cp /usr/local/share/doc/nexusd/examples/config.yaml /etc/nexusd/");
    chroot.must("echo '# mine' >>/etc/nexusd/config.yaml && echo work >/var/lib/nexusd/work");
    chroot.pretend_systemd();
    chroot.must("/release/first/install.sh");
    let again = ["daemon-reload", "--no-block try-restart nexusd.service", "daemon-reload"];
    assert_eq!(chroot.systemctl()[..3], again);
    // From a newer release: what that brings, and what it no longer brings is gone.
    chroot.must(
        "echo /usr/local/share/man/man1/nexusd-old.1 >>/usr/local/share/nexus/nexusd.files && \
         echo old >/usr/local/share/man/man1/nexusd-old.1 && /release/newer/install.sh nexusd",
    );
    chroot.must(
        "grep -qx '# newer' /etc/systemd/system/nexusd.service && test ! -e /usr/local/share/man/man1/nexusd-old.1",
    );
    let mine = ["/etc/nexusd", "/etc/nexusd/config.yaml", "/usr/local/bin/systemctl", "/var/lib/nexusd/work"];
    assert_eq!(more(&chroot.everything(), &installed), mine);
    chroot.systemctl();

    // Taken back: that and nothing else. A second time there is nothing to take back.
    chroot.must("/release/newer/install.sh --uninstall nexusd");
    assert_eq!(chroot.systemctl(), ["disable --now nexusd.service", "daemon-reload"]);
    assert!(chroot.must("mothership --version").starts_with("mothership 0."), "the other one is still there");
    let told = chroot.must("/release/newer/install.sh --uninstall && /release/newer/install.sh --uninstall nexusd");
    assert!(told.contains("nexusd: nothing was installed beneath /usr/local"), "{told}");
    chroot.must("grep -q '# mine' /etc/nexusd/config.yaml && grep -q work /var/lib/nexusd/work");
    let mut left = more(&chroot.everything(), &before);
    left.dedup();
    let expected = [
        "/etc/nexusd",
        "/etc/nexusd/config.yaml",
        "/usr/local/bin/systemctl",
        "/var/lib/mothership",
        "/var/lib/nexusd",
        "/var/lib/nexusd/work",
        "mothership",
        "nexus-sandbox",
        "nexusd",
    ];
    assert_eq!(left, expected);
    chroot.must("/release/newer/install.sh --uninstall --purge && rm /usr/local/bin/systemctl");
    assert_eq!(chroot.everything(), before);
}

fn in_place(chroot: &Chroot) {
    assert_eq!(
        chroot.must(
            "stat -c '%n %A %U:%G' /usr/local/bin/nexusd /var/lib/nexusd /usr/local/share/man/man5/nexusd.yaml.5"
        ),
        "/usr/local/bin/nexusd -rwxr-xr-x root:root\n\
         /var/lib/nexusd drwx------ nexusd:nexusd\n\
         /usr/local/share/man/man5/nexusd.yaml.5 -rw-r--r-- root:root\n"
    );
    for name in ["nexusd", "mothership"] {
        assert_eq!(verified(chroot, &format!("{name}.service")), Vec::<String>::new());
        chroot.must(&format!("getent passwd {name}"));
    }
    chroot.must("nexusd -version && nexusd config check --config /usr/local/share/doc/nexusd/examples/config.yaml");
}

#[test]
fn another_prefix_and_wrong_words() {
    require!(Root, Rootfs, Compiler);
    let chroot = Chroot::new();
    releases(&chroot);
    let before = chroot.everything();
    for (call, code, why) in [
        ("install.sh --purge", 1, "--purge goes with --uninstall"),
        ("install.sh everything", 2, "usage: install.sh"),
        ("install.sh --uninstall --purge=all", 2, "usage: install.sh"),
    ] {
        let output = chroot.run(&format!("/release/first/{call}"));
        assert!(output.status.code() == Some(code) && said(&output).contains(why), "{call}: {output:?}");
    }
    for prefix in ["usr", "/a|b", "/a b"] {
        let output = chroot.run(&format!("PREFIX='{prefix}' /release/first/install.sh"));
        assert!(said(&output).contains("PREFIX must be an absolute path"), "{prefix}: {output:?}");
    }
    assert_eq!(chroot.everything(), before);
    chroot.must("PREFIX=/opt/nexus /release/first/install.sh nexusd");
    chroot.must("grep -q '^ExecStart=/opt/nexus/bin/nexusd ' /etc/systemd/system/nexusd.service");
    chroot.must("PREFIX=/opt/nexus /release/first/install.sh --uninstall --purge nexusd");
    assert_eq!(chroot.everything(), before);
}
