//! SOCKS: older versions, other methods, other commands, and messages that are none.

use super::{Attack, Case, Ground, Layer};

fn request(command: u8, host: &str, port: u16) -> Vec<u8> {
    [&[5, 1, 0, 5, command, 0, 3, host.len() as u8][..], host.as_bytes(), &port.to_be_bytes()].concat()
}

const fn reply(code: u8) -> [u8; 12] {
    [5, 0, 5, code, 0, 1, 0, 0, 0, 0, 0, 0]
}

pub(super) fn cases() -> Vec<Case> {
    let all_but_none: Vec<u8> = [5, 255].into_iter().chain(1..=255).collect();
    let socks4_refused = vec![0, 0x5b, 0, 0, 0, 0, 0, 0];
    let rows: Vec<(&'static str, &str, Vec<u8>, Vec<u8>)> = vec![
        ("SOCKS4", "by address", [&[4, 1, 0, 80, 1, 2, 3, 4][..], b"user\0"].concat(), socks4_refused.clone()),
        ("SOCKS4", "4a, by name", [&[4, 1, 0, 80, 0, 0, 0, 1][..], b"\0a.test\0"].concat(), socks4_refused),
        ("methods", "0 of them", vec![5, 0], vec![5, 0xff]),
        ("methods", "255 of them, without the one", all_but_none, vec![5, 0xff]),
        ("methods", "GSSAPI alone", vec![5, 1, 1], vec![5, 0xff]),
        ("methods", "a password where none is asked", vec![5, 1, 2], vec![5, 0xff]),
        ("command", "BIND", request(2, "a.test", 80), reply(7).to_vec()),
        ("command", "UDP ASSOCIATE", request(3, "a.test", 80), reply(7).to_vec()),
        ("command", "0", request(0, "a.test", 80), reply(7).to_vec()),
        ("command", "255", request(255, "a.test", 80), reply(7).to_vec()),
        ("address type", "IPv4", [&[5, 1, 0, 5, 1, 0, 1, 93, 184, 216, 34][..], &[0, 80]].concat(), reply(8).to_vec()),
        ("address type", "2", vec![5, 1, 0, 5, 1, 0, 2, 1, 1], reply(8).to_vec()),
        ("address type", "255", vec![5, 1, 0, 5, 1, 0, 255, 1, 1], reply(8).to_vec()),
        ("malformed", "the version changes", [&[5, 1, 0][..], &[4, 1, 0, 3]].concat(), reply(1).to_vec()),
        ("malformed", "the reserved byte", [&[5, 1, 0][..], &[5, 1, 7, 3]].concat(), reply(1).to_vec()),
        ("malformed", "port 0", request(1, "a.test", 0), reply(2).to_vec()),
        ("malformed", "an empty name", request(1, "", 80), reply(2).to_vec()),
        (
            "malformed",
            "HTTP after the greeting",
            [&[5, 1, 0][..], b"GET http://a.test/ HTTP/1.1\r\n\r\n"].concat(),
            reply(1).to_vec(),
        ),
    ];
    let mut cases: Vec<Case> = rows
        .into_iter()
        .map(|(family, name, say, answer)| Case::new(family, name, Layer::Always, Attack::Socks { say, answer }))
        .collect();
    let slowly = Attack::Scene(|ground| Box::pin(byte_by_byte(ground)));
    cases.push(Case::new("fragments", "SOCKS byte by byte", Layer::Always, slowly));
    let early = Attack::Scene(|ground| Box::pin(all_at_once(ground)));
    cases.push(Case::new("fragments", "SOCKS and data all at once", Layer::Always, early));
    cases
}

async fn byte_by_byte(ground: &Ground) -> Result<(), String> {
    let mut client = ground.bed().client().await;
    client.0.set_nodelay(true).unwrap();
    for byte in [&request(1, "a.test", 7)[..], b"z"].concat() {
        client.send([byte]).await;
        tokio::task::yield_now().await;
    }
    let got = client.read_exactly(13).await;
    if got == [&reply(0)[..], b"z"].concat() { Ok(()) } else { Err(format!("{got:?}")) }
}

async fn all_at_once(ground: &Ground) -> Result<(), String> {
    let before = ground.arrived().len();
    let mut client = ground.bed().client().await;
    client.send([&request(1, "a.test", 7)[..], b"early"].concat()).await;
    let got = client.read_exactly(17).await;
    let arrived = ground.once(|arrived| arrived[before..].iter().any(|one| one.bytes == b"early")).await?;
    if got == [&reply(0)[..], b"early"].concat() && arrived.len() == before + 1 {
        Ok(())
    } else {
        Err(format!("{got:?}"))
    }
}
