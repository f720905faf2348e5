//! Tunnels: what is sent too early, one piece at a time, after one side has ended, or by more than may.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::ground::{Arrival, CLOSING, ECHO};
use super::{Attack, Case, Ground, Layer, Scene};
use crate::bed::{Client, refusal};

pub(super) fn cases() -> Vec<Case> {
    let scene = |family, name: &str, scene: fn(&Ground) -> Scene<'_>| {
        Case::new(family, name, Layer::Always, Attack::Scene(scene))
    };
    vec![
        scene("early data", "with the request", |ground| {
            Box::pin(early(ground, "CONNECT a.test:7 HTTP/1.1\r\n\r\n", "early"))
        }),
        scene("early data", "a second request is data", |ground| {
            Box::pin(early(ground, "CONNECT a.test:7 HTTP/1.1\r\n\r\n", "CONNECT b.test:80 HTTP/1.1\r\n\r\n"))
        }),
        scene("early data", "a second request after a refusal is none", |ground| Box::pin(after_a_refusal(ground))),
        scene("pieces", "a request byte by byte", |ground| Box::pin(pieces(ground))),
        scene("pieces", "a tunnel's bytes one by one", |ground| Box::pin(bytes_one_by_one(ground))),
        scene("half-close", "the client ends first", |ground| Box::pin(client_ends(ground))),
        scene("half-close", "the origin ends first", |ground| Box::pin(origin_ends(ground))),
        scene("half-close", "the client goes away", |ground| Box::pin(client_goes(ground))),
        scene("flood", "one connection more than may", |ground| Box::pin(one_more(ground))),
        scene("flood", "half requests by the hundred", |ground| Box::pin(half_requests(ground))),
        scene("flood", "connections that say nothing", |ground| Box::pin(silent(ground))),
    ]
}

fn expect<T: PartialEq + std::fmt::Debug>(got: T, want: T) -> Result<(), String> {
    if got == want { Ok(()) } else { Err(format!("{got:?}, not {want:?}")) }
}

async fn tunnel(ground: &Ground, port: u16) -> Client {
    let mut client = ground.bed().client().await;
    client.tunnel(&format!("a.test:{port}")).await;
    client
}

/// What is sent along with the request arrives, all of it, as the tunnel's first bytes.
async fn early(ground: &Ground, request: &str, data: &str) -> Result<(), String> {
    let before = ground.arrived().len();
    let mut client = ground.bed().client().await;
    client.send([request, data].concat()).await;
    client.expect("HTTP/1.1 200 Connection established\r\n\r\n").await;
    client.expect(data).await;
    let arrived = &ground.arrived()[before..];
    expect((arrived.len(), arrived[0].bytes.as_slice()), (1, data.as_bytes()))
}

async fn after_a_refusal(ground: &Ground) -> Result<(), String> {
    let before = ground.arrived().len();
    let answer = ground.bed().talk("CONNECT b.test:80 HTTP/1.1\r\n\r\nGET http://a.test/ HTTP/1.1\r\n\r\n").await;
    expect((refusal(&answer).0, answer.matches("HTTP/1.1 ").count()), (403, 1))?;
    expect(ground.arrived().len(), before)
}

async fn pieces(ground: &Ground) -> Result<(), String> {
    let mut client = ground.bed().client().await;
    client.0.set_nodelay(true).unwrap();
    for byte in b"CONNECT a.test:7 HTTP/1.1\r\nX: y\r\n\r\nz" {
        client.send([*byte]).await;
        tokio::task::yield_now().await;
    }
    client.expect("HTTP/1.1 200 Connection established\r\n\r\nz").await;
    Ok(())
}

async fn bytes_one_by_one(ground: &Ground) -> Result<(), String> {
    let mut client = tunnel(ground, ECHO).await;
    for byte in 0..=255 {
        client.send([byte]).await;
        expect(client.read_exactly(1).await, vec![byte])?;
    }
    Ok(())
}

async fn client_ends(ground: &Ground) -> Result<(), String> {
    let before = ground.arrived().len();
    let mut client = tunnel(ground, ECHO).await;
    client.send("12345").await;
    client.0.shutdown().await.unwrap();
    expect(client.rest().await, b"12345".to_vec())?;
    ground.once(|arrived| arrived[before..].iter().all(|one| one.ended)).await.map(|_| ())
}

async fn origin_ends(ground: &Ground) -> Result<(), String> {
    let before = ground.arrived().len();
    let mut client = tunnel(ground, CLOSING).await;
    expect(client.rest().await, b"bye\n".to_vec())?;
    client.send("after the end").await;
    client.0.shutdown().await.unwrap();
    let arrived = ground.once(|arrived| arrived[before..].iter().all(|one| one.ended)).await?;
    expect(arrived[before].bytes.as_slice(), b"after the end")
}

/// The earlier proxy never passed a client's end on, until no file could be opened any more.
async fn client_goes(ground: &Ground) -> Result<(), String> {
    let before = ground.arrived().len();
    for _ in 0..50 {
        drop(tunnel(ground, ECHO).await);
    }
    let all_ended = |arrived: &[Arrival]| arrived.len() == before + 50 && arrived[before..].iter().all(|one| one.ended);
    ground.once(all_ended).await.map(|_| ())
}

async fn one_more(ground: &Ground) -> Result<(), String> {
    let before = ground.arrived().len() + 64;
    let mut open = Vec::new();
    for _ in 0..64 {
        open.push(tunnel(ground, ECHO).await);
    }
    ground.once(|arrived| arrived.len() == before).await?;
    let answer = ground.bed().talk("CONNECT a.test:7 HTTP/1.1\r\n\r\n").await;
    expect((refusal(&answer).0, refusal(&answer).1), (503, "OTHER"))?;
    expect(ground.bed().talk([5, 1, 0]).await.into_bytes(), "\u{5}\u{fffd}".into())?;
    expect(ground.arrived().len(), before)?;
    open[63].send("still").await;
    open[63].expect("still").await;
    drop(open);
    free_again(ground).await
}

async fn half_requests(ground: &Ground) -> Result<(), String> {
    let mut flood = Vec::new();
    for _ in 0..300 {
        let mut client = ground.bed().client().await;
        client.send("CONNECT a.te").await;
        flood.push(client);
    }
    drop(flood);
    free_again(ground).await
}

async fn silent(ground: &Ground) -> Result<(), String> {
    let mut flood = Vec::new();
    for _ in 0..300 {
        flood.push(ground.bed().client().await);
    }
    drop(flood);
    free_again(ground).await
}

/// Places are given again once they are free.
async fn free_again(ground: &Ground) -> Result<(), String> {
    let began = std::time::Instant::now();
    loop {
        let mut client = ground.bed().client().await;
        client.send("CONNECT a.test:7 HTTP/1.1\r\n\r\n").await;
        let mut status = [0; 12];
        if client.0.read_exact(&mut status).await.is_ok() && &status == b"HTTP/1.1 200" {
            return Ok(());
        }
        if began.elapsed() > crate::bed::PATIENCE {
            return Err("not free again".to_owned());
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
