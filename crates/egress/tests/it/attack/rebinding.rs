//! Names that mean one address and then another. Time to live is 0 in all of them.

use std::net::IpAddr;

use super::ground::Until;
use super::{Attack, Case, Ground, Layer, Scene};
use crate::bed::refusal;
use crate::netns::PUBLIC;

pub(super) fn cases() -> Vec<Case> {
    let scene =
        |name: &str, layer, scene: fn(&Ground) -> Scene<'_>| Case::new("rebinding", name, layer, Attack::Scene(scene));
    let refused = |family, name: &str| {
        let say = format!("GET http://{name}.test/ HTTP/1.1\r\n\r\n").into_bytes();
        Case::new(family, name, Layer::Addresses, Attack::Http { say, reason: "DNS_DENIED" })
    };
    vec![
        scene("first public, then private", Layer::Addresses, |ground| Box::pin(turns(ground))),
        scene("first private, then public", Layer::Addresses, |ground| Box::pin(returns(ground))),
        scene("while a connection is kept", Layer::Always, |ground| Box::pin(kept(ground))),
        refused("mixed answers", "all-bad"),
        refused("mixed answers", "bad-alias"),
        Case::new(
            "mixed answers",
            "only the public one is dialled",
            Layer::Addresses,
            Attack::Scene(|ground| Box::pin(mixed(ground, "mixed.test"))),
        ),
        Case::new(
            "mixed answers",
            "a forbidden IPv6 one first",
            Layer::Addresses,
            Attack::Scene(|ground| Box::pin(mixed(ground, "bad-six.test"))),
        ),
        refused("many records", "many"),
        Case::new(
            "many records",
            "the public one last",
            Layer::Addresses,
            Attack::Scene(|ground| Box::pin(mixed(ground, "many-and-one.test"))),
        ),
    ]
}

async fn get(ground: &Ground, name: &str) -> (u16, String) {
    let answer = ground
        .answer(format!("GET http://{name}/ HTTP/1.1\r\nConnection: close\r\n\r\n").as_bytes(), Until::Closed)
        .await;
    (refusal(&answer).0, refusal(&answer).1.to_owned())
}

fn only_public(ground: &Ground, from: usize) -> Result<(), String> {
    let public: Vec<IpAddr> = PUBLIC.iter().map(|address| address.parse().unwrap()).collect();
    let arrived = ground.arrived();
    match arrived[from..].iter().find(|one| !public.contains(&one.at.ip())) {
        Some(one) => Err(format!("reached {}", one.at)),
        None => Ok(()),
    }
}

fn expect<T: PartialEq + std::fmt::Debug>(got: T, want: T) -> Result<(), String> {
    if got == want { Ok(()) } else { Err(format!("{got:?}, not {want:?}")) }
}

async fn turns(ground: &Ground) -> Result<(), String> {
    let before = ground.arrived().len();
    expect(get(ground, "turns.test").await.0, 200)?;
    for _ in 0..3 {
        expect(get(ground, "turns.test").await, (403, "DNS_DENIED".to_owned()))?;
    }
    only_public(ground, before)
}

async fn returns(ground: &Ground) -> Result<(), String> {
    let before = ground.arrived().len();
    expect(get(ground, "returns.test").await, (403, "DNS_DENIED".to_owned()))?;
    expect(get(ground, "returns.test").await.0, 200)?;
    only_public(ground, before)
}

/// A kept connection goes on to the address it was opened to, whatever the name means by then.
async fn kept(ground: &Ground) -> Result<(), String> {
    let before = ground.arrived().len();
    let mut client = ground.bed().client().await;
    for _ in 0..3 {
        client.send("GET http://a.test/kept HTTP/1.1\r\n\r\n").await;
        client.expect("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    }
    expect(ground.arrived().len() - before, 1)?;
    only_public(ground, before)
}

async fn mixed(ground: &Ground, name: &str) -> Result<(), String> {
    let before = ground.arrived().len();
    for _ in 0..3 {
        expect(get(ground, name).await.0, 200)?;
    }
    expect(ground.arrived().len() - before, 3)?;
    only_public(ground, before)
}
