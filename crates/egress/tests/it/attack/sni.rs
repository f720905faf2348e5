//! The first bytes of a tunnel to port 443: a TLS hello for somebody else.

use tokio::io::AsyncReadExt as _;

use super::ground::TLS;
use super::{Attack, Case, Ground, Layer};
use crate::sni::hello;

pub(super) fn cases() -> Vec<Case> {
    const TO: &str = "a.test:443";
    let layer = Layer::Hello;
    let whole = |name: &str| vec![hello(Some(name), false, 16384)];
    let bytes = |bytes: &[u8]| bytes.iter().map(|byte| vec![*byte]).collect::<Vec<_>>();
    let other = hello(Some("b.test"), false, 16384);
    let mut long = hello(Some("a.test"), false, 16384);
    long[3..9].copy_from_slice(&[0x40, 0, 1, 0, 0xff, 0xff]);
    long.resize(16_384 + 5, 0);
    let mut two_names = other.clone();
    let at = two_names.windows(6).position(|window| window == b"b.test").unwrap();
    two_names[at - 3] = 1;
    let rows: Vec<(&'static str, &str, Vec<Vec<u8>>)> = vec![
        ("another SNI", "a name that is not listed", whole("b.test")),
        ("another SNI", "a name beneath", whole("x.a.test")),
        ("another SNI", "a name above", whole("test")),
        ("another SNI", "a name that is listed too", whole("denied.test")),
        ("another SNI", "an address", whole("93.184.216.34")),
        ("another SNI", "a NUL", whole("a.test\0.b.test")),
        ("another SNI", "an empty name", whole("")),
        ("another SNI", "in Cyrillic punycode", whole("xn--80ak6aa92e.test")),
        ("another SNI", "a name of another type", vec![two_names]),
        ("split hello", "over records of 3 bytes", vec![hello(Some("b.test"), false, 3)]),
        ("split hello", "over records of 1 byte", vec![hello(Some("b.test"), false, 1)]),
        ("split hello", "in packets of 1 byte", bytes(&other)),
        ("split hello", "in packets and records of 1 byte", bytes(&hello(Some("b.test"), false, 1))),
        ("split hello", "within the record header", vec![other[..3].to_vec(), other[3..].to_vec()]),
        ("malformed hello", "a record of an impossible length", vec![vec![22, 3, 1, 0xff, 0xff, 1]]),
        ("malformed hello", "an empty record", vec![vec![22, 3, 1, 0, 0, 1]]),
        ("malformed hello", "a server hello", vec![vec![22, 3, 3, 0, 4, 2, 0, 0, 0]]),
        (
            "malformed hello",
            "another record within",
            vec![[&hello(Some("a.test"), false, 16384)[..20], &[21, 3, 3, 0, 2, 1, 0]].concat(), vec![0; 200]],
        ),
        ("malformed hello", "longer than 16 KiB", vec![long]),
        (
            "malformed hello",
            "a server name of no end",
            vec![{
                let mut hello = hello(Some("a.test"), false, 16384);
                let at = hello.windows(6).position(|window| window == b"a.test").unwrap();
                hello[at - 1] = 0xff;
                hello
            }],
        ),
    ];
    let mut cases: Vec<Case> = rows
        .into_iter()
        .map(|(family, name, packets)| Case::new(family, name, layer, Attack::Tunnel { to: TO, packets }))
        .collect();
    let passes = |name: &str, scene: fn(&Ground) -> super::Scene<'_>| {
        Case::new("hello that passes", name, Layer::Always, Attack::Scene(scene))
    };
    cases.push(passes("the same name", |ground| Box::pin(arrives(ground, hello(Some("a.test"), false, 16384)))));
    cases.push(passes("the same name, split", |ground| Box::pin(arrives(ground, hello(Some("A.TEST"), false, 2)))));
    cases.push(passes("no name", |ground| Box::pin(arrives(ground, hello(None, false, 16384)))));
    cases
        .push(passes("an encrypted hello", |ground| Box::pin(arrives(ground, hello(Some("cover.test"), true, 16384)))));
    cases.push(passes("not TLS", |ground| Box::pin(arrives(ground, b"SSH-2.0-client\r\n".to_vec()))));
    cases.push(passes("the same name, then 20 kB at once", |ground| Box::pin(arrives(ground, THEN_MORE.clone()))));
    cases
}

static THEN_MORE: std::sync::LazyLock<Vec<u8>> =
    std::sync::LazyLock::new(|| [hello(Some("a.test"), false, 16384), vec![0x17; 20_000]].concat());

async fn arrives(ground: &Ground, bytes: Vec<u8>) -> Result<(), String> {
    let before = ground.arrived().len();
    let mut client = ground.bed().client().await;
    client.tunnel(&format!("a.test:{TLS}")).await;
    client.send(&bytes).await;
    let mut echo = vec![0; bytes.len()];
    if client.0.read_exact(&mut echo).await.is_err() || echo != bytes {
        return Err("it did not come back".to_owned());
    }
    let arrived = ground.once(|arrived| arrived[before..].iter().any(|one| one.bytes == bytes)).await?;
    if arrived.len() == before + 1 { Ok(()) } else { Err("not once".to_owned()) }
}
