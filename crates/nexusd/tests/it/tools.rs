//! Everyday tools fetch through the proxy, unconfigured: the table of `docs/egress-tools.md`, row by row.
//!
//! Each tool runs twice: with the entries that it needs in an allowlist, where both ways out are there, and in mode
//! `unrestricted`, where there is no name service, so that only what the proxy's variables tell it remains.

mod packages;
mod servers;
mod shop;

use std::path::Path;
use std::process::Command;

use testkit::require;

use crate::names::{Bed, FOUR, Ran};
use shop::Shop;

/// Whether a tool gets out when the proxy's variables are all it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alone {
    Works,
    /// It knows no proxy: names alone bring it out.
    Fails,
}

/// Runs a script in both networks; it must print this where it works.
#[track_caller]
fn check(bed: &Bed, alone: Alone, allow: &[&str], script: &str, expected: &str) {
    let script = format!("set -eu\n{script}");
    let ran = bed.sh(allow, &script);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), expected), "with an allowlist: {}", ran.stderr);
    assert!(!ran.stderr.contains("[egress]"), "something was denied on the way: {}", ran.stderr);
    let Ran { code, stdout, stderr } = bed.run_by(&[], &["--net", "unrestricted"], &[&script]);
    match alone {
        Alone::Works => assert_eq!((code, stdout.as_str()), (Some(0), expected), "by proxy alone: {stderr}"),
        Alone::Fails => assert!(code != Some(0) && stdout != expected, "it knows the proxy after all: {stdout}"),
    }
    // Control: where nothing is allowed, nothing comes.
    let Ran { code, stdout, .. } = bed.run_by(&[], &["--net", "none"], &[&script]);
    assert!(code != Some(0) && stdout != expected, "without a network: {stdout}");
}

const WEB: [&str; 2] = ["files.example:80", "files.example:443"];

#[test]
fn curl() {
    require!(Bwrap, NetBed, Python, Curl);
    let script = "curl -sSf http://files.example/hello; curl -sSf https://files.example/hello";
    check(&Shop::new().bed, Alone::Works, &WEB, script, "hello\nhello\n");
}

#[test]
fn wget() {
    require!(Bwrap, NetBed, Python, Wget);
    let script = "wget -qO- http://files.example/hello; wget -qO- https://files.example/hello";
    check(&Shop::new().bed, Alone::Works, &WEB, script, "hello\nhello\n");
}

#[test]
fn python_s_library() {
    require!(Bwrap, NetBed, Python);
    let script = r#"/usr/bin/python3 -c '
from urllib.request import urlopen
for scheme in "http", "https": print(urlopen(scheme + "://files.example/hello").read().decode(), end="")'"#;
    check(&Shop::new().bed, Alone::Works, &WEB, script, "hello\nhello\n");
}

#[test]
fn node_s_fetch() {
    require!(Bwrap, NetBed, Python, Node);
    let script = r#"export NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt
        node -e '(async () => { for (const scheme of ["http", "https"])
            process.stdout.write(await (await fetch(scheme + "://files.example/hello")).text()) })()'"#;
    check(&Shop::new().bed, Alone::Fails, &WEB, script, "hello\nhello\n");
}

#[test]
fn java_s_clients() {
    require!(Bwrap, NetBed, Python, Java);
    let script = r#"cat > Fetch.java <<'END'
import java.net.URI;
import java.net.http.*;
public class Fetch {
    public static void main(String[] args) throws Exception {
        var uri = URI.create("http://files.example/hello");
        System.out.print(new String(uri.toURL().openStream().readAllBytes()));
        var client = HttpClient.newHttpClient();
        System.out.print(client.send(HttpRequest.newBuilder(uri).build(), HttpResponse.BodyHandlers.ofString()).body());
    }
}
END
"#;
    let shop = Shop::new();
    check(&shop.bed, Alone::Fails, &WEB, &format!("{script}java Fetch.java"), "hello\nhello\n");
    // The setting for where there are no names.
    let set = "java -Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=9080 Fetch.java";
    check(&shop.bed, Alone::Works, &WEB, &format!("{script}{set}"), "hello\nhello\n");
}

#[test]
fn git_over_https() {
    require!(Bwrap, NetBed, Python, Git);
    let shop = Shop::new();
    shop.repository();
    let script = "git clone -q https://files.example/repo.git r; cat r/file; git -C r fetch -q; git ls-remote -q \
        https://files.example/repo.git main | cut -f2";
    check(&shop.bed, Alone::Works, &WEB, script, "from git\nrefs/heads/main\n");
}

#[test]
fn git_over_ssh() {
    require!(Bwrap, NetBed, Python, Git, Ssh, Sshd);
    let shop = Shop::new();
    let repository = shop.repository();
    let key = shop.ssh();
    let script = format!(
        "cat > key <<'END'\n{key}END\nchmod 600 key
        export GIT_SSH_COMMAND=\"ssh -q -i $PWD/key -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile=$PWD/known\"
        git clone -q ssh://root@files.example{} r; cat r/file
        echo pushed > r/file; git -C r -c user.name=n -c user.email=n@e commit -qam pushed --allow-empty; git -C r push -q; rm -rf r
        ssh -q -i key -o UserKnownHostsFile=known root@files.example echo from ssh
        scp -q -i key -o UserKnownHostsFile=known root@files.example:{}/hello here; cat here",
        repository.display(),
        shop.folder().display()
    );
    let bed = &shop.bed;
    // Each run begins with what the one before pushed.
    let ran = bed.sh(&["files.example:22"], &format!("set -eu\n{script}"));
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "from git\nfrom ssh\nhello\n"), "{}", ran.stderr);
    let ran = bed.run_by(&[], &["--net", "unrestricted"], &["sh", "-c", &format!("set -eu\n{script}")]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "pushed\nfrom ssh\nhello\n"), "{}", ran.stderr);
    let ran = bed.sh(&["files.example:443"], &format!("set -eu\n{script}"));
    assert!(ran.code != Some(0) && ran.stdout.is_empty(), "{}", ran.stdout);
    assert!(ran.stderr.contains("[egress] denied files.example:22 (PORT_NOT_ALLOWED)"), "{}", ran.stderr);
}

#[test]
fn psql() {
    require!(Bwrap, NetBed, Psql);
    let shop = Shop::names_alone();
    let _server = servers::postgres(shop.net.far_listener((FOUR.parse::<std::net::IpAddr>().unwrap(), 5432).into()));
    let script = "psql 'host=files.example user=u dbname=d sslmode=disable' -XAtc 'select 42'";
    check(&shop, Alone::Fails, &["files.example:5432"], script, "42\n");
}

#[test]
fn redis_cli() {
    require!(Bwrap, NetBed, RedisCli);
    let shop = Shop::names_alone();
    let listener = shop.net.far_listener((FOUR.parse::<std::net::IpAddr>().unwrap(), 6379).into());
    let pong = testkit::TcpBehaviour::SendThenHalfClose(b"+PONG\r\n".to_vec());
    let _server = testkit::TcpOrigin::start_on(listener, pong);
    check(&shop, Alone::Fails, &["files.example:6379"], "redis-cli -h files.example ping", "PONG\n");
}

/// What a command of the host printed, which must end well.
fn on_host(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn sh_on_host(folder: &Path, script: &str) -> String {
    on_host(Command::new("sh").current_dir(folder).args(["-euc", script]))
}
