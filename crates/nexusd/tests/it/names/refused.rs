//! What is refused, and how soon.

use testkit::require;

use super::{Bed, FOUR, SIX};

#[test]
fn other_names_do_not_exist_and_leave_no_trace_outside() {
    require!(Bwrap, NetBed, Python);
    let bed = Bed::new();
    for name in ["db.example", "other.example", "exfiltrated-data.other.example", "sub.db.example"] {
        bed.net.dns().host(name, &[FOUR, SIX]);
    }
    let origins = bed.hello(5432);
    let script = r#"
names = ["other.example", "exfiltrated-data.other.example", "sub.db.example", "example", "nexus.other", "0x7f.1.example.1"]
for name in names: print(look(name), talk(name, 5432))
print(look("localhost") != "absent", look("nexus") != "absent")
"#;
    let (lines, stderr) = bed.python(&["db.example:5432"], script);
    let mut expected = vec!["absent no name"; 6];
    expected.push("True True");
    assert_eq!(lines, expected, "{stderr}");
    assert_eq!(bed.asked(), Vec::<String>::new(), "no question left the machine");
    // Each name once, however many questions it took.
    let denied = "[egress] denied other.example (NOT_IN_ALLOWLIST)";
    assert_eq!(stderr.lines().filter(|line| *line == denied).count(), 1, "{stderr}");
    assert!(origins.iter().all(|origin| origin.received().is_empty()));
    // Control: the name server is there, and the allowed name is asked for once somebody connects to it.
    assert_eq!(bed.python(&["db.example:5432"], r#"print(look("db.example") != "absent")"#).0, ["True"]);
    assert_eq!(bed.asked(), Vec::<String>::new(), "looking a name up is no reason to ask outside");
    assert_eq!(bed.python(&["db.example:5432"], r#"print(talk("db.example", 5432))"#).0, ["hello 5432"]);
    assert_eq!(bed.asked(), ["db.example"]);
}

#[test]
fn without_an_allowlist_there_is_no_name_service() {
    require!(Bwrap, NetBed, Python);
    let bed = Bed::new();
    bed.net.dns().host("db.example", &[FOUR]);
    let _origins = bed.hello(5432);
    let script = r#"
print(look("db.example"), look("other.example"))
for host in ["198.18.0.1", "198.18.1.0", "fd6e:6578:7573::100", "93.184.216.34"]: print(talk(host, 5432))
"#;
    for flags in [&["--net", "none"][..], &["--net", "unrestricted"]] {
        let (lines, stderr) = bed.python_by(&[], flags, script);
        assert_eq!(lines[0], "again again", "{flags:?} {stderr}");
        assert_eq!(lines[1..], ["Network is unreachable"; 4], "{flags:?}");
    }
    // Control: with one, the first of these addresses is the sandbox's own.
    let (lines, _) = bed.python(&["db.example:5432"], script);
    assert!(lines[0].starts_with("['198.18.1.0'"), "{lines:?}");
    assert_eq!(lines[1..], ["reset", "hello 5432", "hello 5432", "Network is unreachable"]);
    assert_eq!(bed.asked(), ["db.example"]);
}

#[test]
fn an_address_that_nobody_was_told_leads_nowhere() {
    require!(Bwrap, NetBed, Python);
    let bed = Bed::new();
    bed.net.dns().host("db.example", &[FOUR]);
    let origins = bed.hello(5432);
    let script = r#"
print(talk("198.18.1.0", 5432))
look("db.example")
for host in ["198.18.1.1", "198.19.255.254", "fd6e:6578:7573::101", "fd6e:6578:7573:0:ffff::1", "127.0.0.1", "::1"]:
    print(talk(host, 5432))
print(talk("198.18.1.0", 5432))
"#;
    let (lines, stderr) = bed.python(&["db.example:5432"], script);
    // Nobody listens before a name was asked for; then the port is open, and only the name's own address leads on.
    let expected = ["refused", "reset", "reset", "reset", "reset", "reset", "reset", "hello 5432"];
    assert_eq!(lines, expected, "{stderr}");
    assert!(stderr.contains("[egress] denied 198.18.1.1:5432 (INVALID_DESTINATION)"), "{stderr}");
    assert!(!stderr.contains("127.0.0.1"), "the sandbox's own loopback is no destination: {stderr}");
    assert_eq!(origins.iter().map(|origin| origin.received().len()).sum::<usize>(), 1);
}

/// The address is the policy's to judge as ever: a name that leads to a private one is reached no more than by proxy.
#[test]
fn names_of_private_addresses_are_refused() {
    require!(Bwrap, NetBed, Python);
    let bed = Bed::new();
    bed.net.dns().host("inside.example", &["10.99.0.1", "fd99::1"]);
    bed.net.dns().host("meta.example", &["169.254.169.254"]);
    let script = r#"print(talk("inside.example", 80), talk("meta.example", 80))"#;
    let (lines, stderr) = bed.python(&["inside.example:80", "meta.example:80"], script);
    assert_eq!(lines, ["reset reset"], "{stderr}");
    for name in ["inside.example", "meta.example"] {
        assert!(stderr.contains(&format!("[egress] denied {name}:80 (DNS_DENIED)")), "{stderr}");
    }
}

#[test]
fn a_program_s_own_port_stays_its_own() {
    require!(Bwrap, NetBed, Python);
    let bed = Bed::new();
    for name in ["db.example", "web.example"] {
        bed.net.dns().host(name, &[FOUR]);
    }
    let _origins = [bed.hello(5432), bed.hello(8080)];
    let script = r#"
own = socket.socket(); own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); own.bind(("0.0.0.0", 8080)); own.listen()
print(look("web.example"), look("db.example") != "absent", talk("db.example", 5432))
local = socket.create_connection(("127.0.0.1", 8080)); own.accept(); local.close()
own.close()
print(talk("web.example", 8080))
"#;
    let (lines, stderr) = bed.python(&["db.example:5432", "web.example:8080"], script);
    assert_eq!(lines, ["again True hello 5432", "hello 8080"], "{stderr}");
    assert!(stderr.contains("[egress] denied web.example:8080 (OTHER)"), "{stderr}");
}
