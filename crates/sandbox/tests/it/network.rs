//! The sandbox's network: absent, but for the proxy.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use sandbox::{Driver, NetworkLayer, NetworkPath, ProxyAttachment};
use sys::netns::Wanted;
use testkit::require;
use tokio::sync::oneshot;

use crate::bed::{Bed, Run, text};

/// Answers one connection like a proxy would, and gives what it was asked.
fn answer(mut connection: impl Read + Write) -> String {
    let (mut asked, mut buffer) = (String::new(), [0; 1024]);
    while !asked.contains("\r\n\r\n") {
        let count = connection.read(&mut buffer).unwrap();
        assert_ne!(count, 0, "{asked}");
        asked.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
    connection.write_all(b"HTTP/1.1 200 OK\r\n\r\nhello from the proxy\n").unwrap();
    asked
}

#[tokio::test]
async fn there_is_no_network() {
    let bed = Bed::new();
    let outside = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = outside.local_addr().unwrap().port();
    let connect = format!(
        "(echo > /dev/tcp/127.0.0.1/{port}) 2>/dev/null && echo connected; (echo > /dev/tcp/203.0.113.1/80) 2>&1; true"
    );
    let inside = bed.sh(&connect).await;
    assert!(inside.contains("unreachable") && !inside.contains("connected"), "{inside}");
    assert!(bed.run(Run::host(&connect.replace("203.0.113.1/80", "127.0.0.1/1"))).await.stdout.contains("connected"));
    assert_eq!(bed.sh("cat /proc/net/dev | tail -n +3 | cut -d: -f1 | tr -d ' '").await, "lo\n");
    let socket = bed.facility().join("outside.sock");
    drop(socket);
    // Abstract sockets belong to the network namespace.
    assert_eq!(bed.sh("wc -l < /proc/net/unix").await, "1\n");
}

#[tokio::test]
async fn the_proxy_accepts_on_the_sandbox_s_own_socket() {
    let bed = Bed::new();
    let (sender, receiver) = oneshot::channel();
    let script = "exec 3<>/dev/tcp/127.0.0.1/9080; printf 'CONNECT a.example:443 HTTP/1.1\\r\\n\\r\\n' >&3; cat <&3";
    let network = Some(NetworkPath::Proxied(ProxyAttachment::Listener(sender)));
    let (mut handle, stdout, _stderr) = bed.start(Run { network, ..Run::sh(script) }).await.unwrap();
    handle.ready().await.unwrap();
    assert_eq!(handle.layers().network, NetworkLayer::ProxyListener);
    let listener: TcpListener = receiver.await.unwrap();
    assert_eq!(listener.local_addr().unwrap().to_string(), "127.0.0.1:9080");
    handle.release().unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let (connection, _) = listener.accept().await.unwrap();
    let connection = connection.into_std().unwrap();
    connection.set_nonblocking(false).unwrap();
    let asked = tokio::task::spawn_blocking(move || answer(connection)).await.unwrap();
    assert!(asked.starts_with("CONNECT a.example:443"), "{asked}");
    let (_keep, stop) = tokio::sync::watch::channel(None);
    assert_eq!(handle.wait(stop).await.code, 0);
    assert!(text(stdout).await.ends_with("hello from the proxy\n"));
}

/// What a name service is made of, for these ports.
pub(crate) fn wanted(ports: Vec<u16>) -> Wanted {
    Wanted {
        v4: ([198, 18, 0, 1].into(), 15),
        v6: ("fd6e:6578:7573::1".parse().unwrap(), 64),
        service: "127.0.0.1:53".parse().unwrap(),
        ports,
    }
}

/// The sockets are made beside the sandbox before its command is let go: it finds the addresses there, whoever listens.
#[tokio::test]
async fn sockets_of_a_name_service_come_with_the_proxy_s() {
    require!(Bwrap, Ipv6);
    let bed = Bed::new();
    let (to, receiver) = oneshot::channel();
    let wanted = wanted(vec![443, 5432]);
    let network = Some(NetworkPath::Proxied(ProxyAttachment::ListenerWithNames { to, wanted }));
    let script = "for host in 198.18.1.0 fd6e:6578:7573::100; do for port in 443 444; do \
        (exec 3<>/dev/tcp/$host/$port && cat <&3) 2>/dev/null || echo refused; done; done; cat /etc/resolv.conf";
    let (mut handle, stdout, stderr) = bed.start(Run { network, ..Run::sh(script) }).await.unwrap();
    handle.ready().await.unwrap();
    let sockets = receiver.await.unwrap();
    assert_eq!(sockets.proxy.local_addr().unwrap().to_string(), "127.0.0.1:9080");
    let names = sockets.names.unwrap();
    let ports: Vec<(u16, bool)> = names.ports.iter().map(|port| (port.port, port.bound)).collect();
    assert_eq!((names.ipv6, ports), (true, vec![(443, true), (5432, false)]));
    assert_eq!(std::net::UdpSocket::from(names.udp).local_addr().unwrap().to_string(), "127.0.0.1:53");
    let https = names.ports.into_iter().next().unwrap().socket;
    rustix::net::listen(&https, 8).unwrap();
    let https = TcpListener::from(https);
    https.set_nonblocking(false).unwrap();
    handle.release().unwrap();
    let accepted = tokio::task::spawn_blocking(move || {
        [(); 2].map(|()| {
            let (mut connection, _) = https.accept().unwrap();
            connection.write_all(b"hello\n").unwrap();
            connection.local_addr().unwrap().ip().to_canonical().to_string()
        })
    });
    let (_keep, stop) = tokio::sync::watch::channel(None);
    let exit = handle.wait(stop).await;
    assert_eq!(exit.code, 0, "{}", text(stderr).await);
    assert_eq!(accepted.await.unwrap(), ["198.18.1.0", "fd6e:6578:7573::100"]);
    let out = text(stdout).await;
    assert!(out.starts_with("hello\nrefused\nhello\nrefused\n#"), "{out}");
    assert!(out.contains("\nnameserver 127.0.0.1\n"), "{out}");
}

#[tokio::test]
async fn ssh_s_way_out_is_the_proxy() {
    let bed = Bed::new();
    let (sender, receiver) = oneshot::channel();
    let network = Some(NetworkPath::Proxied(ProxyAttachment::Listener(sender)));
    let script = "ssh -G host.example 2>/dev/null | grep -i '^proxycommand'; /.nexus/nexus-init connect host.example 22 < /dev/null";
    let (mut handle, stdout, stderr) = bed.start(Run { network, ..Run::sh(script) }).await.unwrap();
    handle.ready().await.unwrap();
    let listener = tokio::net::TcpListener::from_std(receiver.await.unwrap()).unwrap();
    handle.release().unwrap();
    let (connection, _) = listener.accept().await.unwrap();
    let connection = connection.into_std().unwrap();
    connection.set_nonblocking(false).unwrap();
    let asked = tokio::task::spawn_blocking(move || answer(connection)).await.unwrap();
    assert_eq!(asked, "CONNECT host.example:22 HTTP/1.1\r\nHost: host.example:22\r\n\r\n");
    let (_keep, stop) = tokio::sync::watch::channel(None);
    let exit = handle.wait(stop).await;
    let out = text(stdout).await;
    assert_eq!(exit.code, 0, "{}", text(stderr).await);
    assert!(out.contains("hello from the proxy\n"), "{out}");
    if std::path::Path::new("/usr/bin/ssh").exists() {
        assert!(out.contains("proxycommand /.nexus/nexus-init connect"), "{out}");
    }
}

/// What one direction of a tunnel carries in these tests: more than all buffers on its way together.
const MEBIBYTE: usize = 1024 * 1024;

/// Runs a script, whose first connection is answered on a thread that may block.
async fn tunnel<T: Send + 'static>(
    script: &str,
    answer: impl FnOnce(std::net::TcpStream) -> T + Send + 'static,
) -> (String, T) {
    let bed = Bed::new();
    let (sender, receiver) = oneshot::channel();
    let network = Some(NetworkPath::Proxied(ProxyAttachment::Listener(sender)));
    let (mut handle, stdout, stderr) = bed.start(Run { network, ..Run::sh(script) }).await.unwrap();
    handle.ready().await.unwrap();
    let listener = tokio::net::TcpListener::from_std(receiver.await.unwrap()).unwrap();
    handle.release().unwrap();
    let (connection, _) = listener.accept().await.unwrap();
    let connection = connection.into_std().unwrap();
    connection.set_nonblocking(false).unwrap();
    let answered = tokio::task::spawn_blocking(move || answer(connection));
    let (_keep, stop) = tokio::sync::watch::channel(None);
    let exit = handle.wait(stop).await;
    assert_eq!(exit.code, 0, "{}", text(stderr).await);
    (text(stdout).await, answered.await.unwrap())
}

/// Takes the request and sends the head, in one piece with a mebibyte for the tunnel.
fn accept_with_mebibyte(connection: &mut std::net::TcpStream) {
    let (mut asked, mut byte) = (Vec::new(), [0]);
    while !asked.ends_with(b"\r\n\r\n") {
        connection.read_exact(&mut byte).unwrap();
        asked.extend(byte);
    }
    let head = b"HTTP/1.1 200 OK\r\n\r\n";
    connection.write_all(&[head.as_slice(), &vec![b'd'; MEBIBYTE]].concat()).unwrap();
}

#[tokio::test]
async fn the_tunnel_s_directions_do_not_wait_for_each_other() {
    let script = "head -c 1048576 /dev/zero | /.nexus/nexus-init connect host.example 22 | wc -c";
    let (out, up) = tunnel(script, |mut connection| {
        // Nothing is read until all is written; then what comes ends with the half-closed connection.
        accept_with_mebibyte(&mut connection);
        connection.read_to_end(&mut Vec::new()).unwrap()
    })
    .await;
    assert_eq!((out.trim(), up), ("1048576", MEBIBYTE));
}

#[tokio::test]
async fn the_tunnel_lasts_as_long_as_its_other_end() {
    // Standard input never ends. The other end's half is closed after it has heard something.
    let script =
        "mkfifo f; exec 9<>f; head -c 1000 /dev/zero >&9; /.nexus/nexus-init connect host.example 22 <&9 | wc -c";
    let (out, ()) = tunnel(script, |mut connection| {
        accept_with_mebibyte(&mut connection);
        connection.read_exact(&mut [0; 1000]).unwrap();
        connection.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(connection.read_to_end(&mut Vec::new()).unwrap(), 0);
    })
    .await;
    assert_eq!(out.trim(), "1048576");
}

#[tokio::test]
async fn socat_can_be_the_bridge() {
    let bed = Bed::new();
    let path = bed.dir.path().join("p.sock");
    let proxy = UnixListener::bind(&path).unwrap();
    let answered = tokio::task::spawn_blocking(move || answer(proxy.accept().unwrap().0));
    let script = "exec 3<>/dev/tcp/127.0.0.1/9080; printf 'GET / HTTP/1.1\\r\\n\\r\\n' >&3; cat <&3";
    let network = Some(NetworkPath::Proxied(ProxyAttachment::Socket { path, socat: "/usr/bin/socat".into() }));
    let outcome = bed.run(Run { network, ..Run::sh(script) }).await;
    assert!(outcome.stdout.ends_with("hello from the proxy\n"), "{} {}", outcome.stdout, outcome.stderr);
    assert!(answered.await.unwrap().starts_with("GET /"));
}

#[tokio::test]
async fn a_missing_socat_is_an_error_and_nothing_runs() {
    let bed = Bed::new();
    let path = bed.dir.path().join("p.sock");
    let _proxy = UnixListener::bind(&path).unwrap();
    let network = Some(NetworkPath::Proxied(ProxyAttachment::Socket { path, socat: "/no/socat".into() }));
    let (mut handle, _stdout, _stderr) = bed.start(Run { network, ..Run::sh("touch ran") }).await.unwrap();
    let error = handle.ready().await.unwrap_err().to_string();
    assert!(error.contains("socat"), "{error}");
    drop(handle);
    assert!(!bed.facility().join("ran").exists());
}

#[tokio::test]
async fn a_sandbox_never_gets_the_host_s_network() {
    let bed = Bed::new();
    let refused =
        bed.start(Run { driver: Driver::Bwrap, network: Some(NetworkPath::HostNetwork), ..Run::sh("true") }).await;
    assert!(matches!(refused, Err(sandbox::LaunchError::Unsupported { .. })));
}
