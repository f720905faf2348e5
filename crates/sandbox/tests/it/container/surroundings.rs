//! What an image, the host's configuration of containers and its kernel offer, and a run must not get.

use std::path::Path;

use sandbox::NetworkPath;
use testkit::{Containers, require};

use super::{bed, bed_with};
use crate::bed::Run;
use crate::promises::sh;

/// An image is data of somebody else's: what it asks for must not reach the host's disk or the facility.
#[tokio::test]
async fn an_image_s_own_wishes_change_nothing() {
    require!(Root, Podman);
    let podman = |words: &[&str]| {
        let output = Containers::of_tests().podman().args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let name = format!("localhost/nexus-wishes:{}", std::process::id());
    let container = format!("nexus-wishes-{}", std::process::id());
    let named = format!("--name={container}");
    let flags = ["run", "--network=none", "--ulimit=nofile=100:100", "--ulimit=nproc=1000:1000", &named];
    podman(&[flags.as_slice(), &[Containers::IMAGE, "mkdir", "--mode=1777", "/open"]].concat());
    let wishes = [
        "ENTRYPOINT [\"/bin/false\"]",
        "CMD [\"sh\", \"-c\", \"exit 3\"]",
        "USER nosuchuser",
        "WORKDIR /nosuch",
        "VOLUME /data",
        "VOLUME /workspace/sub",
        "ENV PATH=/evil",
        "ENV LD_PRELOAD=/evil.so",
        "ENV HTTP_PROXY=http://evil.test:1",
        "STOPSIGNAL SIGKILL",
    ];
    let changes: Vec<_> = wishes.iter().flat_map(|wish| ["--change", wish]).collect();
    podman(&[&["commit", "--quiet", "--format=docker"], changes.as_slice(), &[&container, &name]].concat());
    podman(&["rm", &container]);
    let bed = bed_with(|settings| settings.image.clone_from(&name)).await;
    // Where everybody may write but tmpfs, and what may be written there.
    let script = "env | cut -d= -f1 | sort | tr '\\n' ' '; \
                  for at in $(find / -xdev -perm -2 -type d 2>/dev/null) /data /run/lock; do \
                  (: > $at/x) 2>/dev/null && echo wrote $at; done; \
                  grep -E ' /(data|workspace/sub) ' /proc/mounts; ls; cat /etc/hosts";
    let outcome = bed.run(sh(script)).await;
    let volumes = podman(&["volume", "ls", "--quiet"]);
    podman(&["rmi", &name]);
    assert_eq!(outcome.exit.code, 0, "{}", outcome.stderr);
    let expected = "PATH PWD SHLVL _ wrote /tmp\nwrote /var/tmp\n127.0.0.1 localhost nexus\n::1 localhost\n";
    assert_eq!(outcome.stdout, expected, "{}", outcome.stderr);
    assert!(!bed.facility().join("sub").exists(), "a volume's folder is in the facility");
    assert_eq!(volumes, "");
}

/// The operator's own containers.conf has the last word where nobody says otherwise: what the run's layers claim is said.
#[tokio::test]
async fn the_hosts_configuration_opens_no_namespace() {
    require!(Root, Podman);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("containers.conf");
    let open = "[engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n[containers]\ninit = true\n\
                netns = \"host\"\npidns = \"host\"\nipcns = \"host\"\nutsns = \"host\"\ncgroupns = \"host\"\nhttp_proxy = true\n\
                default_capabilities = [\"CAP_SYS_ADMIN\"]\nenv = [\"LD_PRELOAD=/x\"]\numask = \"0077\"\n";
    std::fs::write(&path, open).unwrap();
    let bed = bed_with(|settings| {
        settings.environment.retain(|(name, _)| name != "CONTAINERS_CONF");
        settings.environment.push(("CONTAINERS_CONF".to_owned(), path.display().to_string()));
    })
    .await;
    let script = "for n in pid ipc uts net cgroup; do readlink /proc/self/ns/$n; done; tr '\\0' ' ' < /proc/1/cmdline; echo; \
                  grep CapBnd /proc/self/status; umask; echo \"[$LD_PRELOAD]\"";
    let outcome = bed.run(sh(script)).await;
    let mut lines: Vec<_> = outcome.stdout.lines().collect();
    let rest = lines.split_off(5.min(lines.len()));
    for (name, inside) in ["pid", "ipc", "uts", "net", "cgroup"].iter().zip(lines) {
        let outside = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(Path::new(inside), outside, "{name}");
    }
    assert_eq!(rest, ["/.nexus-init container ", "CapBnd:\t0000000000000000", "0022", "[]"], "{}", outcome.stderr);
}

/// What knows no network namespace would reach the hypervisor from a container without a network.
#[tokio::test]
async fn an_isolated_container_has_no_sockets_beside_its_network() {
    require!(Root, Podman);
    let bed = bed().await;
    let script = "perl -e 'for (40, 38, 1, 2, 10, 16) { print \"$_ \", socket(my $s, $_, $_ == 38 ? 5 : $_ == 16 ? 3 : 1, 0) ? \"made\" : $!+0, \"\\n\" } \
                  $! = 0; syscall(425, 1, 0); print $!+0, \"\\n\"'";
    let outcome = bed.run(sh(script)).await;
    assert_eq!(outcome.stdout, "40 97\n38 97\n1 made\n2 made\n10 made\n16 made\n38\n", "{}", outcome.stderr);
    // The control: with the host's network there is what the host has.
    let here = rustix::net::socket(rustix::net::AddressFamily::VSOCK, rustix::net::SocketType::STREAM, None);
    let expected = here.map_or_else(|errno| format!("40 {}\n", errno.raw_os_error()), |_| "40 made\n".to_owned());
    let outcome = bed.run(Run { network: Some(NetworkPath::HostNetwork), ..sh(script) }).await;
    assert!(outcome.stdout.starts_with(&expected), "{} {}", outcome.stdout, outcome.stderr);
}
