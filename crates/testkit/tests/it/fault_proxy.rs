use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use testkit::wait::until;
use testkit::{DelayedLink, FaultProxy, HttpOrigin, TcpBehaviour, TcpOrigin, Trouble};

use crate::client::request;

const SOON: Duration = Duration::from_secs(10);

fn address(proxy: &FaultProxy) -> SocketAddr {
    proxy.url().strip_prefix("http://").unwrap().parse().unwrap()
}

/// What a call meets, and whether the origin behind saw it.
fn struck_by(trouble: Option<Trouble>) -> (std::io::Result<(u16, Vec<u8>)>, usize) {
    let origin = HttpOrigin::start();
    let proxy = FaultProxy::start(origin.address());
    proxy.plan(move |path| trouble.filter(|_| path == "/echo"));
    let answer = request(address(&proxy), "POST", "/echo", &[], b"body").map(|answer| (answer.status, answer.body));
    assert_eq!(proxy.struck().values().sum::<usize>(), usize::from(trouble.is_some()));
    assert_eq!(proxy.calls()["echo"], 1);
    assert_eq!(request(address(&proxy), "POST", "/else", &[], b"").unwrap().status, 200, "others go through");
    (answer, origin.seen().iter().filter(|seen| seen.target == "/echo").count())
}

#[test]
fn what_is_not_struck_goes_through_and_what_is_has_the_effect_that_it_says() {
    let (answer, seen) = struck_by(None);
    assert_eq!((answer.unwrap(), seen), ((200, b"body".to_vec()), 1));
    for (trouble, effects) in [(Trouble::Reset, 0), (Trouble::LostAnswer, 1), (Trouble::TornAnswer, 1)] {
        let (answer, seen) = struck_by(Some(trouble));
        assert!(answer.is_err(), "{trouble:?}");
        assert_eq!(seen, effects, "{trouble:?}");
    }
    let (answer, seen) = struck_by(Some(Trouble::Status(503, Some(2))));
    assert_eq!((answer.unwrap().0, seen), (503, 0));
    assert_eq!(struck_by(Some(Trouble::Page)).0.unwrap().0, 200);
    let begun = Instant::now();
    for slow in [Trouble::Stall(Duration::from_millis(60)), Trouble::LateAnswer(Duration::from_millis(60))] {
        let (answer, seen) = struck_by(Some(slow));
        assert_eq!((answer.unwrap().0, seen), (200, 1));
    }
    assert!(begun.elapsed() >= Duration::from_millis(120));
}

#[test]
fn half_open_the_client_hears_nothing_and_the_server_does_not_know() {
    let origin = HttpOrigin::start();
    let proxy = FaultProxy::start(origin.address());
    proxy.plan(|_| Some(Trouble::HalfOpen(Duration::from_millis(300))));
    let mut client = TcpStream::connect(address(&proxy)).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    client.write_all(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").unwrap();
    assert!(client.read(&mut [0; 1]).is_err(), "nothing comes");
    until("the effect", SOON, || (origin.seen().len() == 1).then_some(()));
    client.set_read_timeout(Some(SOON)).unwrap();
    assert!(!matches!(client.read(&mut [0; 1]), Ok(1..)), "in the end the connection is cut");
}

/// A poll that is held ends at the server when its client has left.
#[test]
fn a_client_that_leaves_is_seen_behind_the_proxy() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = FaultProxy::start(server.local_addr().unwrap());
    let mut client = TcpStream::connect(address(&proxy)).unwrap();
    client.write_all(b"GET /held HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let (mut held, _) = server.accept().unwrap();
    held.set_read_timeout(Some(SOON)).unwrap();
    let mut buffer = [0; 1024];
    assert!(held.read(&mut buffer).unwrap() > 0);
    drop(client);
    assert!(!matches!(held.read(&mut buffer), Ok(1..)), "its end is seen");
}

#[test]
fn a_server_that_is_down_is_a_reset_and_one_that_moved_is_found() {
    let origin = HttpOrigin::start();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = FaultProxy::start(gone);
    assert!(request(address(&proxy), "GET", "/", &[], b"").is_err());
    proxy.upstream(origin.address());
    assert_eq!(request(address(&proxy), "GET", "/", &[], b"").unwrap().status, 200);
}

#[test]
fn a_longer_way_delays_every_byte_and_loses_none() {
    let origin = TcpOrigin::start(TcpBehaviour::Echo);
    let link = DelayedLink::start(origin.address(), Duration::from_millis(40));
    let mut client = TcpStream::connect(link.address()).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    let begun = Instant::now();
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0; 1]).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(80), "{:?}", begun.elapsed());
    // Many bytes are on the way at once: as long as one.
    let many = vec![7; 2_000_000];
    let mut writer = client.try_clone().unwrap();
    let sent = many.clone();
    let writing = std::thread::spawn(move || writer.write_all(&sent).unwrap());
    let begun = Instant::now();
    let mut back = vec![0; many.len()];
    client.read_exact(&mut back).unwrap();
    assert!(back == many && begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    writing.join().unwrap();
}
