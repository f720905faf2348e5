use hickory_resolver::TokioResolver;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;
use testkit::netbed::{QueryType, Reply};
use testkit::{HttpOrigin, NetBed, TcpBehaviour, TcpOrigin, require};

use crate::client::request;

const SOON: Duration = Duration::from_secs(10);

fn links() -> String {
    std::fs::read_to_string("/proc/self/net/dev").unwrap()
}

#[test]
fn the_far_side_answers_for_public_addresses_of_both_families() {
    require!(NetBed);
    let bed = NetBed::new().unwrap();
    for address in ["93.184.216.34:80", "169.254.169.254:80", "[2606:2800:220:1::1]:80"] {
        let address: SocketAddr = address.parse().unwrap();
        let origin = HttpOrigin::start_on(bed.far_listener(address), None);
        let answer = bed.near(move || request(address, "GET", "/x", &[], b"").unwrap());
        assert_eq!(answer.body, b"origin /x");
        assert_eq!(origin.seen().len(), 1);
        let from_here = TcpStream::connect_timeout(&address, Duration::from_millis(300));
        let served = from_here.is_ok_and(|mut stream| {
            drop(std::io::Write::write_all(&mut stream, b"GET /y HTTP/1.0\r\n\r\n"));
            stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            drop(stream.read(&mut [0; 64]));
            origin.seen().len() > 1
        });
        assert!(!served, "the test's own namespace does not reach {address}");
    }
}

#[test]
fn both_sides_leave_the_machine_alone_and_vanish() {
    require!(NetBed);
    let before = links();
    let resolv = std::fs::read_to_string("/etc/resolv.conf").ok();
    let bed = NetBed::new().unwrap();
    let near = bed.near(links_of_thread);
    assert!(near.contains("near0") && !near.contains("eth0"), "{near}");
    assert!(bed.far(links_of_thread).contains("far0"));
    let theirs = bed.near(|| std::fs::read_to_string("/etc/resolv.conf").unwrap());
    assert!(theirs.starts_with("nameserver 9.9.9.9"), "{theirs}");
    assert_eq!(std::fs::read_to_string("/etc/resolv.conf").ok(), resolv);
    let names = |text: &str| {
        text.lines().filter_map(|l| l.split_once(":").map(|(n, _)| n.trim().to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(names(&links()), names(&before), "no link of the machine itself has come or gone");
    drop(bed);
    assert!(!links().contains("near0") && !links().contains("far0"));
    drop(NetBed::new().unwrap());
}

fn links_of_thread() -> String {
    std::fs::read_to_string("/proc/thread-self/net/dev").unwrap()
}

#[test]
fn programs_and_runtimes_started_there_live_there() {
    require!(NetBed);
    let bed = NetBed::new().unwrap();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "cat /proc/self/net/dev /etc/resolv.conf"]);
    let mut program = bed.spawn_near(command);
    assert!(program.wait(SOON).success());
    let text = program.text(testkit::Output::Stdout);
    assert!(text.contains("near0") && text.contains("nameserver 9.9.9.9"), "{text}");
    let listener = bed.near_listener("10.99.0.2:8080".parse().unwrap());
    let origin = TcpOrigin::start_on(listener, TcpBehaviour::SendThenClose(b"near".to_vec()));
    let address = origin.address();
    let read = bed.near(move || {
        let mut text = String::new();
        TcpStream::connect(address).unwrap().read_to_string(&mut text).unwrap();
        text
    });
    assert_eq!(read, "near");
}

/// Looks the name up on the near side as a proxy would: with its resolv.conf, both families.
fn lookup(bed: &NetBed, name: &'static str) -> Result<Vec<String>, String> {
    bed.near_async(move || async move {
        let resolver = TokioResolver::builder_tokio().unwrap().build().unwrap();
        let found = resolver.lookup_ip(name).await.map_err(|e| e.to_string())?;
        let mut addresses: Vec<String> = found.iter().map(|address: IpAddr| address.to_string()).collect();
        addresses.sort();
        Ok(addresses)
    })
}

#[test]
fn names_are_what_the_test_says() {
    require!(NetBed);
    let bed = NetBed::new().unwrap();
    bed.dns().host("example.com", &["93.184.216.34", "2606:2800:220:1::1"]);
    bed.dns().alias("www.example.com", "example.com");
    bed.dns().sequence(
        "rebind.example",
        QueryType::A,
        vec![Reply::addresses(&["93.184.216.34"]), Reply::addresses(&["127.0.0.1"])],
    );
    bed.dns().sequence("rebind.example", QueryType::Aaaa, vec![Reply::addresses(&[])]);
    bed.dns().always("silent.example", &Reply::Silent);
    bed.dns().always("broken.example", &Reply::ServFail);
    assert_eq!(lookup(&bed, "example.com.").unwrap(), ["2606:2800:220:1::1", "93.184.216.34"]);
    assert_eq!(lookup(&bed, "WWW.Example.com.").unwrap(), ["2606:2800:220:1::1", "93.184.216.34"]);
    assert_eq!(lookup(&bed, "rebind.example.").unwrap(), ["93.184.216.34"]);
    assert_eq!(lookup(&bed, "rebind.example.").unwrap(), ["127.0.0.1"], "the second answer is another");
    for name in ["absent.example.", "silent.example.", "broken.example."] {
        assert!(lookup(&bed, name).is_err(), "{name}");
    }
    let asked = bed.dns().asked();
    assert!(asked.contains(&("www.example.com".to_owned(), QueryType::A)), "{asked:?}");
    assert!(asked.contains(&("silent.example".to_owned(), QueryType::A)), "{asked:?}");
}

#[test]
fn a_panic_over_there_is_one_here() {
    require!(NetBed);
    let bed = NetBed::new().unwrap();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| bed.near(|| panic!("over there"))));
    assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"over there"));
    assert!(bed.near(|| TcpListener::bind("127.0.0.1:0").is_ok()), "and the bed still works");
}
