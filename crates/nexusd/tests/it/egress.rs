//! The way out of a directive as the operator has set it up, and what is said of it at the end.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;

use serde_json::json;
use testkit::{StubOptions, require};

use crate::bed::Bed;

/// A corporate proxy for one connection: notes what it is asked for, then answers in the place of the origin.
fn corporate() -> (u16, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
        let mut seen: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
        stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
        seen.extend(lines.take_while(|line| !line.is_empty()));
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nthrough").unwrap();
        seen
    });
    (port, serving)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_leads_through_the_upstream_proxy_and_is_accounted_for() {
    require!(Bwrap);
    let (port, serving) = corporate();
    let bed = Bed::with(
        StubOptions::full(),
        &format!(
            "egress: {{upstream_proxy: \"http://user:p%40ss@127.0.0.1:{port}\"}}\noperator: {{net_deny: [\"no.example.com:80\"]}}\n"
        ),
    );
    let script = "curl -s -m 9 http://far.example.com:8080/x
        for again in 1 2; do curl -s -o /dev/null -m 9 -w ' %{http_code}' http://no.example.com/; done
        curl -s -o /dev/null -m 9 -w ' %{http_code}' http://else.example.com/; true";
    let ended = bed
        .run(serde_json::json!({
            "facility": { "id": "f" }, "command": script,
            "capabilities": { "net": { "mode": "allowlist", "allow": ["far.example.com:8080", "no.example.com:80"] } },
        }))
        .await;
    assert_eq!(ended.stdout, "through 403 403 403", "{}", ended.stderr);
    let asked = serving.join().unwrap();
    assert_eq!(asked[0], "CONNECT far.example.com:8080 HTTP/1.1");
    assert!(asked.contains(&"Proxy-Authorization: Basic dXNlcjpwQHNz".to_owned()), "{asked:?}");
    assert!(asked.contains(&"GET /x HTTP/1.1".to_owned()), "{asked:?}");
    // Once for each destination, however often it was tried.
    let shown: Vec<&str> = ended.stderr.lines().filter(|line| line.starts_with("[egress] ")).collect();
    assert_eq!(
        shown,
        ["[egress] denied no.example.com:80 (OTHER)", "[egress] denied else.example.com:80 (NOT_IN_ALLOWLIST)"]
    );
    let egress = &ended.report.artifacts_manifest["egress"];
    let count = |name: &str| egress[name].as_u64().unwrap();
    assert_eq!((count("attempts"), count("allowed"), count("denied")), (4, 1, 3), "{egress}");
    assert_eq!(egress["denied_destinations"], serde_json::json!(["else.example.com:80", "no.example.com:80"]));
    assert!(count("bytes_up") > 0 && count("bytes_down") > 7, "{egress}");
}

#[tokio::test]
async fn denials_are_shown_up_to_a_bound_that_is_said() {
    require!(Bwrap);
    let bed = Bed::new();
    let command = "for i in $(seq 103); do exec 3<>/dev/tcp/127.0.0.1/9080; \
        printf 'CONNECT h%s.example.com:443 HTTP/1.1\\r\\n\\r\\n' $i >&3; read -r _ <&3; done";
    let ended = bed.run(json!({ "command": command, "shell": "/bin/bash" })).await;
    let lines = |part: &str| ended.stderr.lines().filter(|line| line.contains(part)).count();
    assert_eq!((lines("denied h"), lines("further denied destinations")), (100, 1), "{}", ended.stderr);
    assert_eq!(ended.report.artifacts_manifest["egress"]["denied"], 103);
    let few = bed.run(json!({ "command": command.replace("103", "3"), "shell": "/bin/bash" })).await;
    assert!(!few.stderr.contains("further"), "the control: {}", few.stderr);
}
