use super::*;
use conduits::NetCapability;
use serde_json::json;

fn capability(value: serde_json::Value) -> NetCapability {
    NetCapability::from_value(&value).unwrap()
}

fn allowing(entries: &[&str]) -> NetCapability {
    capability(json!({"mode": "allowlist", "allow": entries}))
}

fn to(text: &str) -> Destination {
    crate::wire::host::parse_authority(text.as_bytes(), None).unwrap()
}

fn reason(policy: &EgressPolicy, text: &str, now: Instant) -> Reason {
    policy.decide(&to(text), now).map_or_else(|refusal| refusal.reason, |()| Reason::Ok)
}

#[test]
fn modes() {
    let now = Instant::now();
    let rules = OperatorRules::default();
    let compile = |net: &NetCapability| EgressPolicy::compile(net, &rules, now).unwrap();
    let list = compile(&allowing(&["a.example:443", "*.b.example:443", "a.example:8443"]));
    let none = compile(&capability(json!({"mode": "none"})));
    let all = compile(&capability(json!({"mode": "unrestricted"})));
    for (destination, in_list) in [
        ("a.example:443", Reason::Ok),
        ("a.example:8443", Reason::Ok),
        ("a.example:80", Reason::PortNotAllowed),
        ("x.a.example:443", Reason::NotInAllowlist),
        ("x.b.example:443", Reason::Ok),
        ("b.example:443", Reason::NotInAllowlist),
        ("x.b.example:25", Reason::PortNotAllowed),
        ("c.example:443", Reason::NotInAllowlist),
    ] {
        assert_eq!(reason(&list, destination, now), in_list, "{destination}");
        assert_eq!(reason(&none, destination, now), Reason::NetModeNone, "{destination}");
        assert_eq!(reason(&all, destination, now), Reason::Ok, "{destination}");
    }
}

#[test]
fn the_refusal_says_what_to_add() {
    let now = Instant::now();
    let policy = EgressPolicy::compile(&allowing(&["a.example:443"]), &OperatorRules::default(), now).unwrap();
    assert_eq!(
        policy.decide(&to("b.example:80"), now),
        Err(Refusal::new(
            Reason::NotInAllowlist,
            "no allowlist entry covers it; add \"b.example:80\" to capabilities.net.allow"
        ))
    );
    assert_eq!(
        policy.decide(&to("a.example:80"), now).unwrap_err().why,
        "the host is in the allowlist, port 80 is not; add \"a.example:80\" to capabilities.net.allow"
    );
}

#[test]
fn the_operators_ceiling_is_not_passed() {
    let now = Instant::now();
    for (ceiling, mode, fits) in [
        (NetMode::None, json!({"mode": "none"}), true),
        (NetMode::None, json!({"mode": "allowlist", "allow": ["a.example:1"]}), false),
        (NetMode::Allowlist, json!({"mode": "allowlist", "allow": ["a.example:1"]}), true),
        (NetMode::Allowlist, json!({"mode": "unrestricted"}), false),
        (NetMode::Unrestricted, json!({"mode": "unrestricted"}), true),
    ] {
        let rules = OperatorRules { net_ceiling: ceiling, ..OperatorRules::default() };
        assert_eq!(EgressPolicy::compile(&capability(mode.clone()), &rules, now).is_ok(), fits, "{ceiling} {mode}");
    }
}

#[test]
fn the_operators_deny_list_and_own_names_win() {
    let now = Instant::now();
    let rules = OperatorRules {
        net_deny: vec!["bad.example:443".parse().unwrap(), "*.worse.example:443".parse().unwrap()],
        own_names: vec![(DnsName::parse("mothership.example").unwrap(), 7443)],
        ..OperatorRules::default()
    };
    let entries = [
        "bad.example:443",
        "bad.example:80",
        "x.worse.example:443",
        "mothership.example:7443",
        "mothership.example:443",
    ];
    for net in [allowing(&entries), capability(json!({"mode": "unrestricted"}))] {
        let policy = EgressPolicy::compile(&net, &rules, now).unwrap();
        let reasons = entries.map(|entry| reason(&policy, entry, now));
        assert_eq!(reasons, [Reason::Other, Reason::Ok, Reason::Other, Reason::DnsDenied, Reason::Ok]);
    }
}

#[test]
fn the_time_to_live_is_exact() {
    let now = Instant::now();
    let net = capability(json!({"mode": "allowlist", "allow": ["a.example:443"], "ttl_seconds": 60}));
    let policy = EgressPolicy::compile(&net, &OperatorRules::default(), now).unwrap();
    let after = |millis| reason(&policy, "a.example:443", now + Duration::from_millis(millis));
    assert_eq!((after(0), after(59_999), after(60_000)), (Reason::Ok, Reason::Ok, Reason::PolicyExpired));
    assert_eq!(policy.expires_at(), Some(now + Duration::from_secs(60)));
}

#[test]
fn hellos_are_judged() {
    let now = Instant::now();
    let names = |host: &str, hidden| Hello::Names { host: DnsName::parse(host).unwrap(), hidden };
    for (hello, audit, enforce) in [
        (names("a.example", false), true, true),
        (names("b.example", false), false, false),
        (names("x.a.example", false), false, false),
        (names("a.example", true), true, false),
        (names("cover.example", true), true, false),
        (Hello::Hidden, true, false),
        (Hello::NoName, true, false),
        (Hello::NotTls, true, false),
        (Hello::Broken("x"), false, false),
    ] {
        for (sni_policy, passes) in [(SniPolicy::Audit, audit), (SniPolicy::Enforce, enforce)] {
            let rules = OperatorRules { sni_policy, ..OperatorRules::default() };
            let policy = EgressPolicy::compile(&allowing(&["a.example:443"]), &rules, now).unwrap();
            let judged = policy.judge_hello(&to("a.example:443"), &hello);
            assert_eq!(judged.is_ok(), passes, "{hello:?} {sni_policy:?}");
            assert!(judged.is_ok() || judged.unwrap_err().reason == Reason::SniMismatch);
        }
    }
    let policy = EgressPolicy::compile(&allowing(&["a.example:443"]), &OperatorRules::default(), now).unwrap();
    assert!(policy.checks_hello(443) && !policy.checks_hello(8443));
}
