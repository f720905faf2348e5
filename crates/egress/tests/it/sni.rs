//! The first client bytes of a tunnel to a checked port.

use std::time::Duration;

use egress::SniPolicy;

use crate::bed::{Bed, Origin, Setup};

fn sized(width: usize, data: &[u8]) -> Vec<u8> {
    [&(data.len() as u32).to_be_bytes()[4 - width..], data].concat()
}

/// A client hello with these names in its SNI extension (none: no extension), over records of this size.
pub(crate) fn hello(name: Option<&str>, ech: bool, record: usize) -> Vec<u8> {
    let mut extensions = Vec::new();
    if let Some(name) = name {
        extensions
            .extend([&[0, 0][..], &sized(2, &sized(2, &[&[0], &sized(2, name.as_bytes())[..]].concat()))].concat());
    }
    if ech {
        extensions.extend([&[0xfe, 0x0d][..], &sized(2, &[0; 8])].concat());
    }
    let body = [&[3, 3][..], &[9; 32], &[0], &sized(2, &[0x13, 1]), &sized(1, &[0]), &sized(2, &extensions)].concat();
    let message = [&[1][..], &sized(3, &body)].concat();
    message.chunks(record).flat_map(|part| [&[22, 3, 1][..], &sized(2, part)].concat()).collect()
}

async fn bed(origin: &Origin, sni_policy: SniPolicy) -> Bed {
    let mut setup = Setup::allowing(&[&format!("a.test:{}", origin.port)]);
    setup.rules.sni_check_ports = vec![origin.port];
    setup.rules.sni_policy = sni_policy;
    setup.start().await
}

#[tokio::test]
async fn names_are_compared_and_noted() {
    let same = hello(Some("a.test"), false, 16384);
    let cases: Vec<(&str, Vec<u8>, bool, bool, &str)> = vec![
        ("the same name", same.clone(), true, true, "a.test"),
        ("in capitals", hello(Some("A.TEST"), false, 16384), true, true, "a.test"),
        ("split over records", hello(Some("a.test"), false, 7), true, true, "a.test"),
        ("another name", hello(Some("b.test"), false, 16384), false, false, "b.test"),
        ("another name, split", hello(Some("b.test"), false, 3), false, false, "b.test"),
        ("a name above", hello(Some("test"), false, 16384), false, false, "(broken)"),
        ("a name beneath", hello(Some("x.a.test"), false, 16384), false, false, "x.a.test"),
        ("an address", hello(Some("127.0.0.1"), false, 16384), false, false, "(broken)"),
        ("a NUL", hello(Some("a.test\0b"), false, 16384), false, false, "(broken)"),
        ("no name", hello(None, false, 16384), true, false, "(none)"),
        ("encrypted hello", hello(Some("cover.test"), true, 16384), true, false, "cover.test (ech)"),
        ("encrypted hello without a name", hello(None, true, 16384), true, false, "(ech)"),
        ("not TLS", b"SSH-2.0-client\r\n".to_vec(), true, false, "(not tls)"),
        ("an impossible record", vec![22, 3, 1, 0xff, 0xff, 1], false, false, "(broken)"),
        ("a server hello", [&[22, 3, 3, 0, 4][..], &[2, 0, 0, 0]].concat(), false, false, "(broken)"),
    ];
    let origin = Origin::echo().await;
    for policy in [SniPolicy::Audit, SniPolicy::Enforce] {
        for (what, bytes, audit, enforce, note) in &cases {
            let passes = if policy == SniPolicy::Audit { *audit } else { *enforce };
            let bed = bed(&origin, policy).await;
            let to = format!("a.test:{}", origin.port);
            let mut client = bed.client().await;
            client.tunnel(&to).await;
            client.send(bytes).await;
            if passes {
                assert_eq!(&client.read_exactly(bytes.len()).await, bytes, "{what} {policy:?}");
            } else {
                assert_eq!(client.rest().await, b"", "{what} {policy:?}");
            }
            drop(client);
            let left = bed.end().await;
            let outcome = if passes { "allow OK" } else { "deny SNI_MISMATCH" };
            assert_eq!(left.lines(), [format!("CONNECT {to} {outcome}")], "{what} {policy:?}");
            assert_eq!(left.audit[0]["sni"], *note, "{what}");
            assert_eq!(
                left.audit[0]["bytes_up"],
                if passes { bytes.len() } else { 0 },
                "{what}: nothing leaves before it is judged"
            );
            assert_eq!(left.denials.len(), usize::from(!passes), "{what}");
        }
    }
}

#[tokio::test]
async fn a_hello_in_packets_of_one_byte_and_as_early_data() {
    let origin = Origin::echo().await;
    let to = format!("a.test:{}", origin.port);
    for (name, passes) in [("a.test", true), ("b.test", false)] {
        let bytes = hello(Some(name), false, 20);
        let bed = bed(&origin, SniPolicy::Audit).await;
        let mut client = bed.client().await;
        client.tunnel(&to).await;
        for byte in &bytes {
            client.send([*byte]).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let echoed = if passes { client.read_exactly(bytes.len()).await } else { client.rest().await };
        assert_eq!(echoed, if passes { &bytes[..] } else { b"" });
        let mut client = bed.client().await;
        client.send([format!("CONNECT {to} HTTP/1.1\r\n\r\n").as_bytes(), &bytes].concat()).await;
        client.expect("HTTP/1.1 200 Connection established\r\n\r\n").await;
        let echoed = if passes { client.read_exactly(bytes.len()).await } else { client.rest().await };
        assert_eq!(echoed, if passes { &bytes[..] } else { b"" });
        let mut client = bed.client().await;
        client.send([&[5, 1, 0, 5, 1, 0, 3, 6][..], b"a.test", &origin.port.to_be_bytes(), &bytes].concat()).await;
        assert_eq!(client.read_exactly(12).await[3], 0);
        let echoed = if passes { client.read_exactly(bytes.len()).await } else { client.rest().await };
        assert_eq!(echoed, if passes { &bytes[..] } else { b"" }, "SOCKS5");
    }
}

#[tokio::test]
async fn a_hello_that_never_ends_is_cut_and_a_late_first_byte_is_not() {
    let origin = Origin::echo().await;
    let to = format!("a.test:{}", origin.port);
    let bed = bed(&origin, SniPolicy::Audit).await;
    let bytes = hello(Some("a.test"), false, 16384);
    let mut client = bed.client().await;
    client.tunnel(&to).await;
    client.send(&bytes[..20]).await;
    let began = std::time::Instant::now();
    assert_eq!(client.rest().await, b"");
    assert!(
        began.elapsed() > Duration::from_millis(1500) && began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    let mut client = bed.client().await;
    client.tunnel(&to).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    client.send(&bytes).await;
    assert_eq!(client.read_exactly(bytes.len()).await, bytes);
}

#[tokio::test]
async fn an_origin_that_speaks_first_is_heard() {
    let origin = Origin::start(|mut stream| async move {
        use tokio::io::AsyncWriteExt as _;
        stream.write_all(b"220 hello\r\n").await.unwrap();
        let mut stay = [0; 1];
        tokio::io::AsyncReadExt::read(&mut stream, &mut stay).await.ok();
    })
    .await;
    let bed = bed(&origin, SniPolicy::Enforce).await;
    let mut client = bed.client().await;
    client.tunnel(&format!("a.test:{}", origin.port)).await;
    client.expect("220 hello\r\n").await;
}

#[tokio::test]
async fn other_ports_are_not_looked_into() {
    let origin = Origin::echo().await;
    let to = format!("a.test:{}", origin.port);
    let bed = Setup::allowing(&[&to]).start().await;
    let mut client = bed.client().await;
    client.tunnel(&to).await;
    let bytes = hello(Some("b.test"), false, 16384);
    client.send(&bytes).await;
    assert_eq!(client.read_exactly(bytes.len()).await, bytes);
}
