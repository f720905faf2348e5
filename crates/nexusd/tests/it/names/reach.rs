//! What is reached.

use std::net::SocketAddr;

use testkit::tls::ClientCertificates;
use testkit::{HttpOrigin, TestCa, require};

use super::{Bed, FOUR, SIX};

#[test]
fn an_allowed_name_is_looked_up_and_reached_without_a_proxy() {
    require!(Bwrap, NetBed, Python);
    let bed = Bed::new();
    bed.net.dns().host("db.example", &[FOUR, SIX]);
    let _origins = bed.hello(5432);
    let script = r#"
print(look("db.example"))
print(look("DB.Example."))
print(look("db.example", socket.AF_INET), look("db.example", socket.AF_INET6))
print(talk("db.example", 5432), talk("db.example", 5432, socket.AF_INET), talk("db.example", 5432, socket.AF_INET6))
"#;
    let (lines, stderr) = bed.python(&["db.example:5432"], script);
    let (four, six) = ("'198.18.1.0'", "'fd6e:6578:7573::100'");
    let both = format!("[{four}, {six}]");
    let expected = [&both, &both, &format!("[{four}] [{six}]"), "hello 5432 hello 5432 hello 5432"];
    assert_eq!(lines, expected, "{stderr}");
    assert_eq!(stderr, "");
    // The origin's own addresses were asked for by the proxy, and for nothing else.
    assert_eq!(bed.asked(), ["db.example"]);
}

/// The C library's own ways: the name service switch, the shell's sockets, an address family asked for by configuration.
#[test]
fn tools_of_the_c_library_reach_it() {
    require!(Bwrap, NetBed);
    let bed = Bed::new();
    bed.net.dns().host("db.example", &[FOUR]);
    let _origins = bed.hello(5432);
    let script = "getent hosts db.example; getent ahostsv4 db.example | head -1; getent ahostsv6 db.example | head -1; \
        getent hosts other.example; echo $?; \
        exec 3<>/dev/tcp/db.example/5432; cat <&3 & sleep 0; exec 3>&-; wait";
    let ran = bed.sh(&["db.example:5432"], script);
    let expected =
        "fd6e:6578:7573::100 db.example\n198.18.1.0      STREAM db.example\nfd6e:6578:7573::100 STREAM db.example\n2\n";
    assert!(ran.stdout.starts_with(expected), "{ran:?}");
}

#[test]
fn wildcards_ports_and_addresses_are_kept_apart() {
    require!(Bwrap, NetBed, Python);
    let bed = Bed::new();
    for name in ["a.cdn.example", "b.a.cdn.example", "db.example", "cache.example"] {
        bed.net.dns().host(name, &[FOUR, SIX]);
    }
    let _origins = [bed.hello(443), bed.hello(5432), bed.hello(6379), bed.hello(80)];
    let script = r#"
print(talk("a.cdn.example", 443), talk("b.a.cdn.example", 443), talk("cdn.example", 443))
# The port is open for another name.
print(talk("cache.example", 6379), talk("db.example", 6379), talk("cache.example", 5432), talk("db.example", 5432))
# The port is open for none.
print(talk("db.example", 80), talk("db.example", 5433), talk("a.cdn.example", 22))
"#;
    let (lines, stderr) = bed.python(&["*.cdn.example:443", "db.example:5432", "cache.example:6379"], script);
    let expected = ["hello 443 hello 443 no name", "hello 6379 reset reset hello 5432", "refused refused refused"];
    assert_eq!(lines, expected, "{stderr}");
    for line in [
        "[egress] denied cdn.example (NOT_IN_ALLOWLIST)",
        "[egress] denied db.example:6379 (PORT_NOT_ALLOWED)",
        "[egress] denied cache.example:5432 (PORT_NOT_ALLOWED)",
    ] {
        assert!(stderr.lines().any(|shown| shown == line), "{line}: {stderr}");
    }
    assert_eq!(stderr.lines().count(), 3, "{stderr}");
}

/// Both directions carry more than all buffers on their way, and the end of one is passed on while the other goes on.
#[test]
fn large_streams_and_half_closes_come_through() {
    require!(Bwrap, NetBed, Python);
    let bed = Bed::new();
    bed.net.dns().host("db.example", &[FOUR]);
    let address = SocketAddr::new(FOUR.parse().unwrap(), 5432);
    let answer = vec![b'a'; 8 * 1024 * 1024];
    let behaviour = testkit::TcpBehaviour::AnswerAfterEof(answer.clone());
    let origin = testkit::TcpOrigin::start_on(bed.net.far_listener(address), behaviour);
    let script = r#"got = talk("db.example", 5432, say=b"q" * (8 << 20)); print(len(got), set(got))"#;
    let (lines, stderr) = bed.python(&["db.example:5432"], script);
    assert_eq!(lines, [format!("{} {{'a'}}", answer.len())], "{stderr}");
    let received: Vec<usize> = origin.received().iter().map(Vec::len).collect();
    assert_eq!(received, [8 << 20]);
}

/// TLS over such a connection is looked at as in a tunnel: its name must be the one that was looked up.
#[test]
fn tls_names_are_checked() {
    require!(Bwrap, NetBed, Python);
    let bed = Bed::new();
    let ca = TestCa::new();
    bed.config(&format!("egress: {{ca_bundle: {}}}\n", bed.dir.write("ca.pem", ca.pem()).display()));
    bed.net.dns().host("web.example", &[FOUR]);
    let tls = ca.server_config(&["web.example", "other.example"], ClientCertificates::Ignored);
    let address = SocketAddr::new(FOUR.parse().unwrap(), 443);
    let origin = HttpOrigin::start_on(bed.net.far_listener(address), Some(tls));
    let script = r#"
import ssl, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
print(opener.open("https://web.example/here").read().decode())
def hello(name):
    context = ssl.create_default_context()
    try:
        with socket.create_connection(("web.example", 443)) as s, context.wrap_socket(s, server_hostname=name) as t:
            t.sendall(b"GET /there HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return t.recv(15).decode()
    except (ssl.SSLError, OSError) as error: return "cut"
print(hello("web.example"), "|", hello("other.example"))
"#;
    let (lines, stderr) = bed.python(&["web.example:443"], script);
    assert_eq!(lines, ["origin /here", "HTTP/1.1 200 OK | cut"], "{stderr}");
    assert!(stderr.contains("[egress] denied web.example:443 (SNI_MISMATCH)"), "{stderr}");
    assert_eq!(origin.seen().len(), 2);
}
