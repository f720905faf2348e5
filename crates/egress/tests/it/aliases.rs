//! Names behind names: a CNAME to what no directive reaches, and the addresses that NAT64 makes.

use egress::{Nat64Prefixes, OperatorRules, Resolver};

use crate::bed::{Aliases, Dns, Origin, Setup, refusal, zone};

fn aliases(pairs: &[(&str, &str)]) -> Aliases {
    pairs.iter().map(|(name, target)| ((*name).into(), (*target).into())).collect()
}

#[tokio::test]
async fn what_is_forbidden_is_not_reached_by_another_name_for_it() {
    let origin = Origin::mirror().await;
    let to = |name: &str| format!("{name}:{}", origin.port);
    let names = ["one.test", "two.test", "own.test", "other-port.test", "plain.test", "service.test"];
    let mut setup = Setup::allowing(&names.map(to).each_ref().map(String::as_str));
    setup.zone = zone(&[
        ("denied.test", &["127.0.0.1"]),
        ("x._tcp.wild.test", &["127.0.0.1"]),
        ("mothership.test", &["127.0.0.1"]),
        ("fine.test", &["127.0.0.1"]),
    ]);
    setup.aliases = aliases(&[
        ("one.test", "denied.test"),
        ("two.test", "between.test"),
        ("between.test", "denied.test"),
        ("own.test", "mothership.test"),
        ("other-port.test", "elsewhere.test"),
        ("elsewhere.test", "fine.test"),
        ("plain.test", "fine.test"),
        ("service.test", "x._tcp.wild.test"),
    ]);
    setup.rules = OperatorRules {
        net_deny: [to("denied.test"), "elsewhere.test:1".into(), to("*.wild.test")]
            .iter()
            .map(|entry| entry.parse().unwrap())
            .collect(),
        own_names: vec![("mothership.test".parse().unwrap(), origin.port)],
        ..setup.rules
    };
    let bed = setup.start().await;
    for (name, status, reason) in [
        ("one.test", 403, "OTHER"),
        ("two.test", 403, "OTHER"),
        ("own.test", 403, "DNS_DENIED"),
        ("service.test", 403, "OTHER"),
        ("other-port.test", 200, ""),
        ("plain.test", 200, ""),
    ] {
        let answer = bed.talk(format!("GET http://{}/ HTTP/1.1\r\nConnection: close\r\n\r\n", to(name))).await;
        assert_eq!((refusal(&answer).0, refusal(&answer).1), (status, reason), "{name}: {answer}");
        assert_eq!(answer.contains("is an alias of"), status == 403, "{answer}");
    }
    let left = bed.end().await;
    assert_eq!((left.summary.allowed, left.summary.denied), (2, 4));
}

/// RFC 7050: the name server itself shows the prefix under which it puts IPv4 addresses, private ones included.
#[tokio::test]
async fn a_network_of_nat64_is_recognised_by_what_its_name_server_says() {
    let names =
        zone(&[("ipv4only.arpa", &["2a01:db9:1::c000:aa", "192.0.0.170"]), ("inner.test", &["2a01:db9:1::a00:1"])]);
    let dns = Dns::start(names, "127.0.0.1:0".parse().unwrap()).await;
    let resolver = Resolver::with_nameservers(&[dns.address]).unwrap();
    let found = resolver.nat64_prefixes().await.unwrap();
    assert_eq!(found, ["2a01:db9:1::/96".parse().unwrap()]);

    let to = "CONNECT inner.test:1 HTTP/1.1\r\n\r\n";
    let prefixes = Nat64Prefixes::not_yet_known();
    let mut setup = Setup::allowing(&["inner.test:1"]);
    setup.rules.nat64_prefixes = prefixes.clone();
    let bed = setup.start_with(dns.address).await;
    // The dial waits for what is not known yet.
    let (answer, ()) = tokio::join!(bed.talk(to), async {
        while !dns.asked().contains(&"inner.test".to_owned()) {
            tokio::task::yield_now().await;
        }
        prefixes.set(found);
    });
    assert_eq!(refusal(&answer).1, "DNS_DENIED", "{answer}");
    assert!(answer.contains("10.0.0.1 is private"), "{answer}");

    // Control: the same address without the prefix is public, and merely not there.
    let bed = Setup::allowing(&["inner.test:1"]).start_with(dns.address).await;
    assert_eq!(refusal(&bed.talk(to).await).0, 502);
}

#[tokio::test]
async fn a_network_without_nat64_and_one_that_does_not_answer_are_told_apart() {
    let dns = Dns::start(zone(&[("ipv4only.arpa", &["192.0.0.170"])]), "127.0.0.1:0".parse().unwrap()).await;
    assert_eq!(Resolver::with_nameservers(&[dns.address]).unwrap().nat64_prefixes().await, Some(Vec::new()));
    let nobody = Dns::start(zone(&[]), "127.0.0.1:0".parse().unwrap()).await;
    assert_eq!(Resolver::with_nameservers(&[nobody.address]).unwrap().nat64_prefixes().await, Some(Vec::new()));
    let closed = Resolver::with_nameservers(&["127.0.0.1:1".parse().unwrap()]).unwrap();
    assert_eq!(closed.nat64_prefixes().await, None);
}
