//! What the policy refuses, how the client is told, and what is left of it.

use std::time::Duration;

use egress::{Credential, OperatorRules, Reason};
use serde_json::json;

use crate::bed::{Origin, Setup, refusal, zone};

#[tokio::test]
async fn a_denial_says_what_why_and_what_to_add() {
    let bed = Setup::allowing(&["a.test:443"]).start().await;
    let answer = bed.talk("CONNECT b.test:443 HTTP/1.1\r\n\r\n").await;
    let body = "nexus egress: refused b.test:443: NOT_IN_ALLOWLIST: no allowlist entry covers it; add \"b.test:443\" to capabilities.net.allow\n";
    let want = format!(
        "HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nX-Nexus-Egress-Reason: NOT_IN_ALLOWLIST\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(answer, want);
    assert!(bed.asked().is_empty(), "no query before the name is allowed");
    let left = bed.end().await;
    assert_eq!(left.denials, ["[egress] denied b.test:443 (NOT_IN_ALLOWLIST)"]);
    assert_eq!(left.lines(), ["CONNECT b.test:443 deny NOT_IN_ALLOWLIST"]);
    assert_eq!(left.summary.denied_destinations, ["b.test:443"]);
}

#[tokio::test]
async fn each_reason_in_each_protocol() {
    let origin = Origin::mirror().await;
    let open = format!("a.test:{}", origin.port);
    let none = || Setup { net: json!({"mode": "none"}), ..Setup::allowing(&[]) };
    let listed = || Setup::allowing(&[&open, "a.test:443"]);
    let deny =
        || Setup { rules: OperatorRules { net_deny: vec![open.parse().unwrap()], ..listed().rules }, ..listed() };
    type Make<'a> = &'a dyn Fn() -> Setup;
    let cases: [(Make<'_>, &str, Option<&str>); 5] = [
        (&listed, &open, None),
        (&none, &open, Some("NET_MODE_NONE")),
        (&listed, "b.test:80", Some("NOT_IN_ALLOWLIST")),
        (&listed, "a.test:80", Some("PORT_NOT_ALLOWED")),
        (&deny, &open, Some("OTHER")),
    ];
    for (make, to, reason) in cases {
        let bed = make().start().await;
        let answer = bed.talk(format!("GET http://{to}/ HTTP/1.1\r\nConnection: close\r\n\r\n")).await;
        let (status, code, _) = refusal(&answer);
        assert_eq!((status, code), reason.map_or((200, ""), |reason| (403, reason)), "{to}: {answer}");
        let mut client = bed.client().await;
        client.send(format!("CONNECT {to} HTTP/1.1\r\n\r\n")).await;
        let head = client.head().await;
        assert_eq!(head.starts_with("HTTP/1.1 200"), reason.is_none(), "{head}");
        let (host, port) = to.split_once(':').unwrap();
        let mut client = bed.client().await;
        client
            .send(
                [
                    &[5, 1, 0, 5, 1, 0, 3, host.len() as u8][..],
                    host.as_bytes(),
                    &port.parse::<u16>().unwrap().to_be_bytes(),
                ]
                .concat(),
            )
            .await;
        let reply = client.read_exactly(12).await;
        assert_eq!(reply[3], if reason.is_some() { 2 } else { 0 }, "{to}");
        drop(client);
        let left = bed.end().await;
        let (decision, reason) = reason.map_or(("allow", "OK"), |reason| ("deny", reason));
        let mut lines = left.lines();
        lines.sort();
        assert_eq!(lines, ["CONNECT", "HTTP", "SOCKS5"].map(|method| format!("{method} {to} {decision} {reason}")));
        assert_eq!(
            left.denials.len(),
            usize::from(decision == "deny"),
            "once for the three protocols: {:?}",
            left.denials
        );
    }
}

#[tokio::test]
async fn unrestricted_skips_the_list_and_nothing_else() {
    let origin = Origin::mirror().await;
    let setup = |rules| Setup {
        net: json!({"mode": "unrestricted"}),
        rules,
        zone: zone(&[("any.test", &["127.0.0.1"])]),
        ..Setup::allowing(&[])
    };
    let opened = Setup::allowing(&[]).rules;
    let get = format!("GET http://any.test:{}/ HTTP/1.1\r\nConnection: close\r\n\r\n", origin.port);
    let bed = setup(opened).start().await;
    assert!(bed.talk(&get).await.starts_with("HTTP/1.1 200"));
    assert_eq!(bed.end().await.audit.len(), 1);
    let bed = setup(OperatorRules::default()).start().await;
    assert_eq!(refusal(&bed.talk(&get).await).1, "DNS_DENIED");
}

#[tokio::test]
async fn own_listeners_are_refused_inside_an_opened_range() {
    let origin = Origin::mirror().await;
    let beside = Origin::mirror().await;
    let (to, other) = (format!("a.test:{}", origin.port), format!("a.test:{}", beside.port));
    for listener in [format!("127.0.0.1:{}", origin.port), format!("0.0.0.0:{}", origin.port)] {
        let mut setup = Setup::allowing(&[&to, &other]);
        setup.rules.own_listeners = vec![listener.parse().unwrap()];
        let bed = setup.start().await;
        let get = |to: &str| format!("GET http://{to}/ HTTP/1.1\r\nConnection: close\r\n\r\n");
        assert_eq!(refusal(&bed.talk(get(&to)).await).1, "DNS_DENIED", "{listener}");
        assert!(bed.talk(get(&other)).await.starts_with("HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn time_to_live_ends_new_attempts_and_open_tunnels() {
    let origin = Origin::echo().await;
    let to = format!("a.test:{}", origin.port);
    let mut setup = Setup::allowing(&[&to]);
    setup.net["ttl_seconds"] = json!(1);
    let bed = setup.start().await;
    let mut client = bed.client().await;
    client.tunnel(&to).await;
    client.send("x").await;
    client.expect("x").await;
    let began = std::time::Instant::now();
    assert_eq!(client.rest().await, b"", "closed, not by the client");
    assert!(began.elapsed() < Duration::from_secs(5));
    let answer = bed.talk(format!("CONNECT {to} HTTP/1.1\r\n\r\n")).await;
    assert_eq!((refusal(&answer).0, refusal(&answer).1), (403, "POLICY_EXPIRED"));
    let left = bed.end().await;
    assert_eq!(
        left.lines(),
        [format!("CONNECT {to} allow POLICY_EXPIRED"), format!("CONNECT {to} deny POLICY_EXPIRED")]
    );
}

#[tokio::test]
async fn credentials_are_asked_for_where_they_are_set() {
    use base64::Engine as _;
    let origin = Origin::mirror().await;
    let to = format!("a.test:{}", origin.port);
    let credential = Credential::generate();
    let userinfo = credential.userinfo();
    let bed = Setup { credential: Some(credential), ..Setup::allowing(&[&to]) }.start().await;
    let basic = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    for (value, status) in [(None, 407), (Some(basic("nexus:wrong")), 407), (Some(basic(&userinfo)), 200)] {
        let field = value.map_or(String::new(), |value| format!("Proxy-Authorization: Basic {value}\r\n"));
        let answer = bed.talk(format!("GET http://{to}/ HTTP/1.1\r\n{field}Connection: close\r\n\r\n")).await;
        assert_eq!(refusal(&answer).0, status, "{answer}");
        assert_eq!(answer.contains("Proxy-Authenticate: Basic realm="), status == 407);
        assert!(!answer.contains(&basic(&userinfo)), "the credential does not travel on");
        let mut client = bed.client().await;
        client.send(format!("CONNECT {to} HTTP/1.1\r\n{field}\r\n")).await;
        assert!(client.head().await.starts_with(&format!("HTTP/1.1 {status}")));
    }
    let (user, password) = userinfo.split_once(':').unwrap();
    for (secret, verdict) in [("wrong", 1), (password, 0)] {
        let mut client = bed.client().await;
        client.send([5, 2, 0, 2]).await;
        assert_eq!(client.read_exactly(2).await, [5, 2]);
        client
            .send([&[1, user.len() as u8][..], user.as_bytes(), &[secret.len() as u8], secret.as_bytes()].concat())
            .await;
        assert_eq!(client.read_exactly(2).await, [1, verdict]);
    }
    let mut client = bed.client().await;
    client.send([5, 1, 0]).await;
    assert_eq!(client.rest().await, [5, 0xff], "no way round it");
}

#[tokio::test]
async fn ten_thousand_denials_leave_a_bounded_trace() {
    let bed = Setup::allowing(&["a.test:443"]).start().await;
    for round in 0..10 {
        let mut client = bed.client().await;
        client.send(format!("CONNECT b{round}.test:443 HTTP/1.1\r\n\r\n")).await;
        client.head().await;
    }
    let mut tasks = tokio::task::JoinSet::new();
    for lane in 0..8 {
        let proxy = bed.proxy;
        tasks.spawn(async move {
            for round in 0..1250 {
                let mut client = crate::bed::Client(tokio::net::TcpStream::connect(proxy).await.unwrap());
                client.send(format!("CONNECT h{}.test:443 HTTP/1.1\r\n\r\n", (lane * 1250 + round) % 500)).await;
                assert!(client.head().await.starts_with("HTTP/1.1 403"));
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let counted: u64 = bed
        .counters
        .decisions()
        .filter(|(_, reason, _)| *reason == Reason::NotInAllowlist)
        .map(|(_, _, count)| count)
        .sum();
    assert_eq!(counted, 10_010);
    let left = bed.end().await;
    assert_eq!(left.summary.denied, 10_010);
    assert_eq!(left.summary.denied_destinations.len(), 100);
    assert_eq!(left.denials.len(), 100);
}
