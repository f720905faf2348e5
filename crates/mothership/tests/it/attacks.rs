//! Who tries to get in without belonging here: one attack a test or a line of a table, each beside what is let in.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mothership::serve::AuthMode;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType, date_time_ymd};
use reqwest::StatusCode;
use serde_json::{Value, json};
use testkit::require;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::bed::{Answer, Bed, Lease, Territory, answer, client_of, key_and_csr, refusal, refused};

fn read(bed: &Bed, name: &str) -> String {
    std::fs::read_to_string(bed.data().join(name)).unwrap()
}

/// Whoever has the authority's key.
fn issuer(bed: &Bed) -> Issuer<'static, KeyPair> {
    let key = KeyPair::from_pem(&read(bed, "ca-key.pem")).unwrap();
    Issuer::from_ca_cert_pem(&read(bed, "ca.pem"), key).unwrap()
}

fn client_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// A heartbeat with this pair; an error where there is no connection.
async fn beat(bed: &Bed, pair: &str, headers: &[(&str, &str)]) -> Result<Answer, reqwest::Error> {
    let client = client_of(&read(bed, "ca.pem"), pair);
    let mut request = client.post(format!("{}/conduits/v1/territories/heartbeat", bed.url())).json(&json!({}));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await?;
    Ok((answer.status(), answer.json().await?))
}

/// A territory's certificate and key in PEM.
async fn enrolled(bed: &Bed) -> (String, String) {
    let (key, csr) = key_and_csr();
    let body = json!({ "enroll_token": bed.enroll_token().await, "csr_pem": csr });
    let enrol = bed.client(None).post(format!("{}/conduits/v1/territories/enroll", bed.url())).json(&body);
    let (_, enrolled) = answer(enrol).await;
    (enrolled["mtls_client_cert_pem"].as_str().unwrap().to_owned(), key.serialize_pem())
}

fn fingerprint(pem: &str) -> String {
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let der = base64::engine::general_purpose::STANDARD.decode(body).unwrap();
    conduits::Fingerprint::of_der(&der).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_are_not_good_now_end_the_handshake() {
    let bed = Bed::tls().await;
    let (good, key) = enrolled(&bed).await;
    let issuer = issuer(&bed);
    let subject = KeyPair::from_pem(&key).unwrap();
    let signed = |params: CertificateParams| format!("{}{key}", params.signed_by(&subject, &issuer).unwrap().pem());
    let dated = |from: i32, to: i32| {
        let mut params = client_params();
        (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
        params
    };
    let mut impostor = client_params();
    impostor.distinguished_name.push(DnType::CommonName, fingerprint(&good));
    let own_issuer = Issuer::new(client_params(), KeyPair::generate().unwrap());
    let text = fingerprint(&good);
    let claim: &[(&str, &str)] = &[("x-nexus-client-cert-fingerprint", &text)];
    let mut server = CertificateParams::default();
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let cases = [
        ("one that has ended", signed(dated(2020, 2021))),
        ("one that is not valid yet", signed(dated(2090, 2091))),
        (
            "self-signed, with the right fingerprint as its name and in a header",
            format!("{}{key}", impostor.self_signed(&subject).unwrap().pem()),
        ),
        ("of another authority", format!("{}{key}", client_params().signed_by(&subject, &own_issuer).unwrap().pem())),
        ("a server's certificate of this authority", signed(server)),
    ];
    for (attack, pair) in cases {
        let failed = beat(&bed, &pair, claim).await;
        assert!(failed.is_err(), "{attack}: {failed:?}");
    }
    // Signed by the authority, but issued to nobody: the handshake is good, and the identity is none.
    let stranger = signed(client_params());
    assert_eq!(refusal(beat(&bed, &stranger, claim).await.unwrap()), refused(401, "unauthorized"));
    assert_eq!(beat(&bed, &format!("{good}{key}"), &[]).await.unwrap().0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fingerprint_header_counts_only_from_where_it_is_believed() {
    for (trusted, believed) in [("10.0.0.0/8", false), ("127.0.0.0/8", true)] {
        for auth in [AuthMode::Header, AuthMode::Either] {
            let bed = Bed::with(|config| {
                config.auth = auth;
                config.trusted_proxies = vec![trusted.parse().unwrap()];
            })
            .await;
            let text = fingerprint(&enrolled(&bed).await.0);
            let forged = bed
                .client(None)
                .post(format!("{}/conduits/v1/territories/heartbeat", bed.url()))
                .header("x-nexus-client-cert-fingerprint", &text)
                .header("x-forwarded-for", "10.0.0.1")
                .json(&json!({}));
            let status = answer(forged).await.0;
            assert_eq!(status, if believed { StatusCode::OK } else { StatusCode::UNAUTHORIZED }, "{trusted} {auth:?}");
        }
    }
}

fn segment(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn hmac(key: &[u8], text: &str) -> String {
    use jsonwebtoken::{Algorithm, EncodingKey, crypto::sign};
    sign(text.as_bytes(), &EncodingKey::from_secret(key), Algorithm::HS256).unwrap()
}

async fn started(territory: &Territory, lease: &Lease, token: String) -> Answer {
    territory.started(&Lease { token, ..lease.clone() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_directive_token_is_no_token() {
    let bed = Bed::tls().await;
    let territory = bed.territory().await;
    bed.directive().await;
    let lease = territory.one().await;
    let parts: Vec<&str> = lease.token.split('.').collect();
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
    let public = read(&bed, "ca.pem");
    let forge = |head: Value, key: Option<&[u8]>| {
        let text = format!("{}.{}", segment(&head), segment(&claims));
        let signature = key.map(|key| hmac(key, &text)).unwrap_or_default();
        format!("{text}.{signature}")
    };
    let mut longer = claims.clone();
    longer["exp"] = json!(9_999_999_999_i64);
    let attacks = [
        ("no algorithm", forge(json!({ "alg": "none", "kid": "1" }), None)),
        ("none in capitals", forge(json!({ "alg": "NONE", "kid": "1" }), None)),
        ("a key that everybody knows", forge(json!({ "alg": "HS256", "kid": "1" }), Some(b"secret"))),
        ("an empty key", forge(json!({ "alg": "HS256", "kid": "1" }), Some(b""))),
        (
            "the authority's certificate as the key",
            forge(json!({ "alg": "HS256", "kid": "1" }), Some(public.as_bytes())),
        ),
        ("RS256 with it", forge(json!({ "alg": "RS256", "kid": "1" }), Some(public.as_bytes()))),
        ("no key of ours", forge(json!({ "alg": "HS256", "kid": "2" }), Some(b"secret"))),
        ("a key by path", forge(json!({ "alg": "HS256", "kid": "../../dev/null" }), Some(b""))),
        (
            "a key that it brings",
            forge(json!({ "alg": "HS256", "jwk": { "kty": "oct", "k": "c2VjcmV0" } }), Some(b"secret")),
        ),
        ("a longer life", format!("{}.{}.{}", parts[0], segment(&longer), parts[2])),
        ("a signature cut short", lease.token[..lease.token.len() - 2].to_owned()),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("two parts", format!("{}.{}", parts[0], parts[1])),
        ("nothing of the kind", "x".repeat(4000)),
    ];
    for (attack, token) in attacks {
        assert_eq!(refusal(started(&territory, &lease, token).await), refused(401, "token_invalid"), "{attack}");
    }
    assert_eq!(started(&territory, &lease, lease.token.clone()).await.0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_directive_token_is_good_for_a_fresh_one_alone() {
    let bed = Bed::tls().await;
    let (territory, other) = (bed.territory().await, bed.territory().await);
    bed.directive().await;
    let lease = territory.one().await;
    // As a token of this mothership looks that was given ten minutes ago.
    let parts: Vec<&str> = lease.token.split('.').collect();
    let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
    for time in ["iat", "exp"] {
        claims[time] = json!(claims[time].as_i64().unwrap() - 600);
    }
    let database = rusqlite::Connection::open(bed.data().join("mothership.db")).unwrap();
    let key: Vec<u8> = database.query_row("SELECT secret FROM signing_keys", [], |row| row.get(0)).unwrap();
    let text = format!("{}.{}", parts[0], segment(&claims));
    let old = Lease { token: format!("{text}.{}", hmac(&key, &text)), ..lease.clone() };
    assert_eq!(refusal(territory.started(&old).await), refused(401, "token_expired"));
    assert_eq!(refusal(other.report(&old, "token", json!({})).await), refused(403, "forbidden"));
    let (status, fresh) = territory.report(&old, "token", json!({})).await;
    assert_eq!(status, StatusCode::OK);
    let fresh = fresh["directive_token"].as_str().unwrap().to_owned();
    assert_eq!(started(&territory, &lease, fresh).await.0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_a_certificate_gets_its_key_signed_and_nothing_else() {
    require!(Openssl);
    let bed = Bed::with(|config| config.enroll_failures_per_hour = 1000).await;
    let dir = tempfile::tempdir().unwrap();
    let openssl = |words: &[&str]| {
        let output = std::process::Command::new("openssl").args(words).current_dir(dir.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let request = |algorithm: &str, option: &str, more: &[&str]| {
        openssl(&["genpkey", "-algorithm", algorithm, "-pkeyopt", option, "-out", "key.pem"]);
        openssl(&[&["req", "-new", "-key", "key.pem", "-subj", "/CN=x"], more].concat())
    };
    let broken = {
        let good = request("EC", "ec_paramgen_curve:P-256", &[]);
        let mut lines: Vec<String> = good.lines().map(str::to_owned).collect();
        let last = lines.len() - 2;
        lines[last] = lines[last].chars().map(|c| if c == 'A' { 'B' } else { c }).collect();
        // Another signature of another request.
        let other = request("EC", "ec_paramgen_curve:P-256", &["-addext", "subjectAltName=DNS:a"]);
        if lines.join("\n") == good.trim_end() { other.replacen('A', "B", 1) } else { lines.join("\n") + "\n" }
    };
    let refusals = [
        ("RSA of 1024 bits", request("RSA", "rsa_keygen_bits:1024", &[])),
        ("a weak curve", request("EC", "ec_paramgen_curve:P-224", &[])),
        ("a curve of few", request("EC", "ec_paramgen_curve:secp256k1", &[])),
        ("CA:TRUE", request("EC", "ec_paramgen_curve:P-256", &["-addext", "basicConstraints=critical,CA:TRUE"])),
        ("a signature that is not its own", broken),
        ("a certificate", read(&bed, "ca.pem")),
        ("a private key", std::fs::read_to_string(dir.path().join("key.pem")).unwrap()),
        ("a megabyte", "x".repeat(40_000)),
    ];
    let token = bed.enroll_token().await;
    for (attack, csr) in refusals {
        let body = json!({ "enroll_token": token, "csr_pem": csr });
        let enrol = bed.client(None).post(format!("{}/conduits/v1/territories/enroll", bed.url())).json(&body);
        assert_eq!(refusal(answer(enrol).await), refused(422, "invalid_csr"), "{attack}");
    }
    // Whatever else it asks for is not in the certificate: names, usages, extensions.
    let mut greedy = CertificateParams::default();
    greedy.distinguished_name.push(DnType::CommonName, "mothership.example.com");
    greedy.distinguished_name.push(DnType::OrganizationName, "x".repeat(3000));
    greedy.subject_alt_names =
        (0..100).map(|n| SanType::DnsName(format!("n{n}.example").try_into().unwrap())).collect();
    greedy.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().unwrap();
    let csr = greedy.serialize_request(&key).unwrap().pem().unwrap();
    let body = json!({ "enroll_token": token, "csr_pem": csr, "name": "n".repeat(128) });
    let enrol = bed.client(None).post(format!("{}/conduits/v1/territories/enroll", bed.url())).json(&body);
    let (status, enrolled) = answer(enrol).await;
    assert_eq!(status, StatusCode::CREATED, "{enrolled}");
    std::fs::write(dir.path().join("cert.pem"), enrolled["mtls_client_cert_pem"].as_str().unwrap()).unwrap();
    let shown = openssl(&["x509", "-in", "cert.pem", "-noout", "-text", "-purpose"]);
    let id = enrolled["territory_id"].as_str().unwrap();
    assert!(shown.contains(&format!("Subject: CN = {id}")), "{shown}");
    assert!(shown.contains("CA:FALSE") && shown.contains("TLS Web Client Authentication"), "{shown}");
    assert!(shown.contains("SSL server : No") && shown.contains("SSL client : Yes"), "{shown}");
    assert!(!shown.contains("example") && !shown.contains("xxxx"), "{shown}");
    // Names that are no names.
    for name in ["n".repeat(129), "a\nb".to_owned()] {
        let body = json!({ "enroll_token": bed.enroll_token().await, "name": name });
        let enrol = bed.client(None).post(format!("{}/conduits/v1/territories/enroll", bed.url())).json(&body);
        assert_eq!(refusal(answer(enrol).await), refused(422, "invalid_parameter"));
    }
}

/// What a server answers to these bytes on a connection of its own, until it closes it or says nothing more for a while.
async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut all = Vec::new();
    let mut part = [0; 4096];
    while let Ok(Ok(read @ 1..)) = tokio::time::timeout(Duration::from_millis(500), stream.read(&mut part)).await {
        all.extend_from_slice(&part[..read]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// One request in two readings is the way to smuggle a second past a proxy: it is refused, or read in the one way that
/// RFC 9112 says, and the connection ends.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_smuggled_behind_a_request() {
    let bed = Bed::dev().await;
    let address = bed.running.as_ref().unwrap().address();
    let hidden = "GET /healthz?hidden HTTP/1.1\r\nhost: x\r\n\r\n";
    let head = "POST /conduits/v1/polls HTTP/1.1\r\nhost: x\r\n";
    let length = hidden.len();
    let attacks = [
        ("two lengths", format!("{head}content-length: 0\r\ncontent-length: {length}\r\n\r\n{hidden}")),
        ("a list of lengths", format!("{head}content-length: 0, {length}\r\n\r\n{hidden}")),
        ("a length with a sign", format!("{head}content-length: +{length}\r\n\r\n{hidden}")),
        ("a negative length", format!("{head}content-length: -1\r\n\r\n{hidden}")),
        ("a length in hexadecimal", format!("{head}content-length: 0x10\r\n\r\n{hidden}")),
        ("a coding that is none", format!("{head}transfer-encoding: xchunked\r\n\r\n{hidden}")),
        ("chunked, and then more", format!("{head}transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n{hidden}")),
        ("a blank before the colon", format!("{head}content-length : {length}\r\n\r\n{hidden}")),
        ("a folded field", format!("{head}x: y\r\n content-length: {length}\r\n\r\n{hidden}")),
        ("a chunk of no length", format!("{head}transfer-encoding: chunked\r\n\r\n;x\r\n\r\n{hidden}")),
        ("a chunk of endless length", format!("{head}transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n{hidden}")),
        ("a NUL in a field", format!("{head}x: a\0b\r\ncontent-length: {length}\r\n\r\n{hidden}")),
    ];
    for (attack, bytes) in attacks {
        let answered = raw(address, bytes.as_bytes()).await;
        assert!(!answered.contains("\r\n\r\nok"), "{attack}: {answered}");
    }
    // Both: the length is nothing beside the coding, so what follows the last chunk is the next request, for any reader.
    let both = format!("{head}content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{hidden}");
    let answered = raw(address, both.as_bytes()).await;
    assert!(answered.matches("HTTP/1.1").count() <= 2, "{answered}");
    // Control: two requests after each other are two.
    let two = format!("{head}content-length: 0\r\n\r\n{hidden}");
    assert!(raw(address, two.as_bytes()).await.ends_with("\r\n\r\nok"));
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_to_the_tls_port_gets_no_answer_of_the_api() {
    let bed = Bed::tls().await;
    let address = bed.running.as_ref().unwrap().address();
    for bytes in [
        "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n".as_bytes(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[0x16, 0x03, 0x01, 0xff, 0xff, 0x01],
        &[0; 64],
    ] {
        let answered = raw(address, bytes).await;
        assert!(!answered.contains("HTTP/1.1") && !answered.contains("ok"), "{answered}");
    }
    let alive = bed.client(None).get(format!("{}/healthz", bed.url())).send().await.unwrap();
    assert_eq!(alive.status(), StatusCode::OK);
}

/// Those who never shake hands do not keep out those who do, and are not waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_slow_handshakes_keeps_nobody_out() {
    let bed = Bed::tls().await;
    let territory = bed.territory().await;
    let address = bed.running.as_ref().unwrap().address();
    let mut slow = Vec::new();
    for number in 0..400_usize {
        let from = std::net::Ipv4Addr::new(127, 0, 1, 1);
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let Ok(mut stream) = socket.connect(address).await else { continue };
        // Some say nothing, some the beginning of a hello.
        if number % 2 == 0 {
            stream.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00]).await.ok();
        }
        slow.push(stream);
    }
    let began = Instant::now();
    // New connections, from another address, and the one that there is.
    let fresh = bed.client(None).get(format!("{}/healthz", bed.url())).send().await.unwrap();
    assert_eq!(fresh.status(), StatusCode::OK);
    assert_eq!(territory.heartbeat(json!({})).await.0, StatusCode::OK);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // More than its share is let go at once, the rest when its time is up.
    let opened = slow.len();
    let mut endings = JoinSet::new();
    for mut stream in slow {
        endings.spawn(async move {
            let mut part = [0; 64];
            while matches!(stream.read(&mut part).await, Ok(1..)) {}
        });
    }
    let mut ended = 0;
    let at_once = began + Duration::from_secs(6);
    while tokio::time::timeout_at(at_once.into(), endings.join_next()).await.is_ok_and(|ended| ended.is_some()) {
        ended += 1;
    }
    assert!((opened - 256..opened).contains(&ended), "{ended} of {opened} were let go at once");
    let rest = tokio::time::timeout(Duration::from_secs(15), async { while endings.join_next().await.is_some() {} });
    rest.await.expect("the others are not waited for");
}
