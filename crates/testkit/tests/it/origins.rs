use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use testkit::{HttpOrigin, TcpBehaviour, TcpOrigin};

use crate::client::request;

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

fn rest(mut stream: TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map(|_| bytes)
}

#[test]
fn an_http_origin_answers_by_path_and_keeps_what_it_saw() {
    let origin = HttpOrigin::start();
    let get = |path: &str| request(origin.address(), "GET", path, &[("x-a", "b")], b"").unwrap();
    assert_eq!(get("/hello?x=1").body, b"origin /hello");
    assert_eq!(get("/bytes/5").body, b"xxxxx");
    assert_eq!(get("/status/418").status, 418);
    let start = Instant::now();
    assert_eq!(get("/slow/50").body, b"slow");
    assert!(start.elapsed() >= Duration::from_millis(50));
    assert_eq!(request(origin.address(), "POST", "/echo", &[], b"body").unwrap().body, b"body");
    assert!(request(origin.address(), "GET", "/cut", &[], b"").is_err());
    let seen = origin.seen();
    assert_eq!((seen[0].method.as_str(), seen[0].target.as_str()), ("GET", "/hello?x=1"));
    assert_eq!(seen[0].headers["x-a"], "b");
    assert_eq!(seen[4].body, b"body");
    assert_eq!(seen.len(), 6);
    assert!(origin.url("/a").starts_with("http://127.0.0.1:"));
}

#[test]
fn an_origin_is_gone_once_dropped() {
    let origin = HttpOrigin::start();
    let address = origin.address();
    assert!(TcpStream::connect(address).is_ok(), "positive control");
    drop(origin);
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn tcp_origins_behave_as_asked() {
    let echo = TcpOrigin::start(TcpBehaviour::Echo);
    let mut stream = connect(echo.address());
    stream.write_all(b"abc").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(stream).unwrap(), b"abc");
    assert_eq!(echo.received(), [b"abc".to_vec()]);

    let patient = TcpOrigin::start(TcpBehaviour::AnswerAfterEof(b"bye".to_vec()));
    let mut stream = connect(patient.address());
    stream.write_all(b"all").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(stream.read(&mut [0; 1]).is_err(), "nothing before the half-close");
    stream.shutdown(Shutdown::Write).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(rest(stream).unwrap(), b"bye");

    let half = TcpOrigin::start(TcpBehaviour::SendThenHalfClose(b"first".to_vec()));
    let mut stream = connect(half.address());
    assert_eq!(rest(stream.try_clone().unwrap()).unwrap(), b"first");
    stream.write_all(b"late").unwrap();
    drop(stream);
    testkit::wait::until("the late bytes", Duration::from_secs(5), || {
        (half.received() == [b"late".to_vec()]).then_some(())
    });

    let trickle = TcpOrigin::start(TcpBehaviour::Trickle(b"abc".to_vec(), Duration::from_millis(20)));
    let start = Instant::now();
    assert_eq!(rest(connect(trickle.address())).unwrap(), b"abc");
    assert!(start.elapsed() >= Duration::from_millis(40));

    let close = TcpOrigin::start(TcpBehaviour::Close);
    assert_eq!(rest(connect(close.address())).unwrap(), b"");

    let send = TcpOrigin::start(TcpBehaviour::SendThenClose(b"x".to_vec()));
    assert_eq!(rest(connect(send.address())).unwrap(), b"x");

    let reset = TcpOrigin::start(TcpBehaviour::Reset);
    let mut stream = connect(reset.address());
    stream.write_all(b"x").unwrap();
    assert_eq!(rest(stream).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);

    for silent in [TcpBehaviour::Silent, TcpBehaviour::Deaf] {
        let origin = TcpOrigin::start(silent);
        let mut stream = connect(origin.address());
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
}
