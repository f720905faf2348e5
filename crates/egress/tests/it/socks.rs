//! SOCKS5.

use std::time::Duration;

use crate::bed::{Origin, Setup};

fn request(command: u8, host: &str, port: u16) -> Vec<u8> {
    [&[5, command, 0, 3, host.len() as u8][..], host.as_bytes(), &port.to_be_bytes()].concat()
}

#[tokio::test]
async fn connect_with_early_data_and_byte_by_byte() {
    let origin = Origin::echo().await;
    let bed = Setup::allowing(&[&format!("a.test:{}", origin.port)]).start().await;
    let whole = [&[5, 1, 0][..], &request(1, "a.test", origin.port), b"early"].concat();
    for slowly in [false, true] {
        let mut client = bed.client().await;
        for piece in whole.chunks(if slowly { 1 } else { whole.len() }) {
            client.send(piece).await;
            if slowly {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        assert_eq!(client.read_exactly(17).await, b"\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00early");
    }
    let left = bed.end().await;
    assert_eq!(left.lines(), vec![format!("SOCKS5 a.test:{} allow OK", origin.port); 2]);
}

#[tokio::test]
async fn replies() {
    let origin = Origin::echo().await;
    let port = origin.port;
    let bed = Setup::allowing(&[&format!("a.test:{port}"), "a.test:1", "nowhere.test:443"]).start().await;
    let four = [&[5, 1, 0, 1, 127, 0, 0, 1][..], &port.to_be_bytes()].concat();
    let mapped =
        [&[5, 1, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1][..], &port.to_be_bytes()].concat();
    for (what, message, reply) in [
        ("allowed", request(1, "a.test", port), 0),
        ("not in the list", request(1, "b.test", port), 2),
        ("port not in the list", request(1, "a.test", 2), 2),
        ("no such name", request(1, "nowhere.test", 443), 4),
        ("refused by the origin", request(1, "a.test", 1), 5),
        ("BIND", request(2, "a.test", port), 7),
        ("UDP ASSOCIATE", request(3, "a.test", port), 7),
        ("unknown command", request(9, "a.test", port), 7),
        ("IPv4 literal", four, 8),
        ("IPv6 literal", mapped, 8),
        ("address type 2", vec![5, 1, 0, 2, 1, 1], 8),
        ("cut at a NUL by others", request(1, "a.test\0.evil.example", port), 2),
        ("empty name", request(1, "", port), 2),
        ("port 0", request(1, "a.test", 0), 2),
    ] {
        let mut client = bed.client().await;
        client.send([5, 1, 0]).await;
        assert_eq!(client.read_exactly(2).await, [5, 0]);
        client.send(message).await;
        assert_eq!(client.read_exactly(10).await, [5, reply, 0, 1, 0, 0, 0, 0, 0, 0], "{what}");
        if reply != 0 {
            assert_eq!(client.rest().await, b"", "{what}: closed");
        }
    }
}

#[tokio::test]
async fn handshakes_that_are_none() {
    let bed = Setup::allowing(&["a.test:80"]).start().await;
    let all: Vec<u8> = [5, 255].into_iter().chain(1..=255).collect();
    for (what, bytes, want) in [
        ("no methods", vec![5, 0], vec![5, 0xff]),
        ("no acceptable method", vec![5, 2, 1, 2], vec![5, 0xff]),
        ("every method but none", all, vec![5, 0xff]),
        ("SOCKS4", [&[4, 1, 0, 80, 1, 2, 3, 4][..], b"user\0"].concat(), vec![0, 0x5b, 0, 0, 0, 0, 0, 0]),
        ("SOCKS4a", [&[4, 1, 0, 80, 0, 0, 0, 1][..], b"\0a.test\0"].concat(), vec![0, 0x5b, 0, 0, 0, 0, 0, 0]),
        ("version changes", [&[5, 1, 0][..], &[4, 1, 0, 3]].concat(), vec![5, 0, 5, 1, 0, 1, 0, 0, 0, 0, 0, 0]),
        ("reserved byte", [&[5, 1, 0][..], &[5, 1, 7, 3]].concat(), vec![5, 0, 5, 1, 0, 1, 0, 0, 0, 0, 0, 0]),
    ] {
        let mut client = bed.client().await;
        client.send(bytes).await;
        assert_eq!(client.rest().await, want, "{what}");
    }
    let left = bed.end().await;
    assert_eq!((left.summary.allowed, left.summary.denied), (0, 7));
    assert!(
        left.lines().iter().all(|line| line.starts_with("SOCKS5 ") && line.ends_with("deny INVALID_DESTINATION")),
        "{:?}",
        left.lines()
    );
}
