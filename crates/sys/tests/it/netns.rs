//! Sockets in a namespace that somebody else made.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, ChildStdin, Command, Stdio};

use sys::netns::{Made, Wanted, make};
use testkit::require;

/// A shell in a network of its own, which connects where it is told.
struct Inside {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<std::process::ChildStdout>,
}

/// Takes IPv6 away from the network before it is looked at, as a host's settings do.
const WITHOUT_IPV6: &str = "for each in all default lo; do echo 1 > /proc/sys/net/ipv6/conf/$each/disable_ipv6; done; ";

const SCRIPT: &str = "ip link set lo up; echo up; while read host port; do \
    (exec 3<>/dev/tcp/$host/$port && echo from inside >&3) 2>/dev/null && echo connected || echo refused; done";

impl Inside {
    /// In a user namespace as well, as sandboxes are, or in a network alone.
    fn start(arguments: &[&str]) -> Self {
        Self::start_with("", arguments)
    }

    fn start_with(before: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new("unshare")
            .args(arguments)
            .args(["bash", "-c", &format!("{before}{SCRIPT}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut inside = Self { child, stdin, stdout };
        assert_eq!(inside.line(), "up");
        inside
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn connects(&mut self, host: &str, port: u16) -> bool {
        writeln!(self.stdin, "{host} {port}").unwrap();
        match self.line().as_str() {
            "connected" => true,
            "refused" => false,
            other => panic!("{other:?}"),
        }
    }

    fn make(&self) -> Made {
        let netns = std::fs::File::open(format!("/proc/{}/ns/net", self.child.id())).unwrap();
        make(netns, &wanted()).unwrap()
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn wanted() -> Wanted {
    Wanted {
        v4: ([198, 18, 0, 1].into(), 15),
        v6: ("fd00:1:2:3::1".parse().unwrap(), 64),
        service: "127.0.0.1:53".parse().unwrap(),
        ports: vec![22, 443, 5432],
    }
}

/// Where a connection was meant to go, and what it said.
fn accepted(listener: &TcpListener) -> (SocketAddr, String) {
    listener.set_nonblocking(false).unwrap();
    let (mut connection, _) = listener.accept().unwrap();
    let (to, mut said) = (connection.local_addr().unwrap(), String::new());
    connection.set_nonblocking(false).unwrap();
    connection.read_to_string(&mut said).unwrap();
    (SocketAddr::new(to.ip().to_canonical(), to.port()), said)
}

fn connections_are_taken_for_every_address(mut inside: Inside) {
    let made = inside.make();
    assert!(made.ipv6);
    let ports: Vec<(u16, bool)> = made.ports.iter().map(|port| (port.port, port.bound)).collect();
    assert_eq!(ports, [(22, true), (443, true), (5432, false)]);
    // Bound and not listening: nobody is there.
    assert!(!inside.connects("198.18.7.9", 443));
    let [_, https, _] = <[_; 3]>::try_from(made.ports).unwrap();
    rustix::net::listen(&https.socket, 8).unwrap();
    let https = TcpListener::from(https.socket);
    for host in ["198.18.7.9", "198.19.255.254", "fd00:1:2:3::77", "fd00:1:2:3:4:5:6:7"] {
        assert!(inside.connects(host, 443), "{host}");
        assert_eq!(accepted(&https), (SocketAddr::new(host.parse().unwrap(), 443), "from inside\n".to_owned()));
    }
    // The service is there; other ports and other addresses are not.
    assert!(inside.connects("127.0.0.1", 53));
    for (host, port) in [("198.18.7.9", 444), ("198.20.0.1", 443), ("fd00:1:2:4::1", 443), ("203.0.113.1", 443)] {
        assert!(!inside.connects(host, port), "{host} {port}");
    }
}

#[test]
fn in_a_network_with_a_user_namespace() {
    require!(Userns, Ipv6);
    connections_are_taken_for_every_address(Inside::start(&["--user", "--map-root-user", "--net"]));
}

/// Root needs no user namespace between.
#[test]
fn in_a_network_alone() {
    require!(Root, Ipv6);
    connections_are_taken_for_every_address(Inside::start(&["--net"]));
}

#[test]
fn without_ipv6_there_are_sockets_of_ipv4() {
    require!(Root, Ipv6);
    let mut inside = Inside::start_with(WITHOUT_IPV6, &["--net"]);
    let made = inside.make();
    assert!(!made.ipv6);
    let https = made.ports.into_iter().find(|port| port.port == 443).unwrap().socket;
    rustix::net::listen(&https, 8).unwrap();
    let https = TcpListener::from(https);
    assert!(inside.connects("198.18.7.9", 443));
    assert_eq!(accepted(&https).0, "198.18.7.9:443".parse().unwrap());
    assert!(!inside.connects("fd00:1:2:3::77", 443));
}

#[test]
fn the_own_network_is_left_alone() {
    let own = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
    let refused = make(own, &wanted()).unwrap_err();
    assert!(refused.to_string().contains("it is the daemon's own"), "{refused}");
}
