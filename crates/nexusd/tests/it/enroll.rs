//! Enrolment against a TLS server on loopback, with certificates made for the test.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use conduits::EnrollToken;
use nexusd::cli::{EnrollArgs, TokenSource};
use nexusd::config::{Config, ConfigSource, Identity, Platform, Surroundings};
use nexusd::enroll::{EnrollError, Enrolled, KeyKind, enroll, read_token};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, IsCa, KeyPair,
    KeyUsagePurpose,
};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// A certificate authority of the test's own.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// The digest that a token of this authority carries.
    fn pin(&self) -> [u8; 32] {
        Sha256::digest(rcgen::PublicKeyData::subject_public_key_info(self.0.key())).into()
    }

    fn token(&self) -> EnrollToken {
        EnrollToken::pinned("c2VjcmV0LXNlY3JldC1zZWNyZXQ", self.pin()).unwrap()
    }

    /// A server certificate for these names, as a TLS configuration that presents `chain` after it.
    fn server(&self, names: &[&str], chain: &[&Authority]) -> rustls::ServerConfig {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &self.0).unwrap();
        let mut certificates = vec![leaf.der().clone()];
        certificates.extend(chain.iter().map(|authority| authority.0.der().clone()));
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(certificates, key)
            .unwrap()
    }

    /// The answer of a mothership with this authority: it signs the request's key.
    fn answer(&self, request: &serde_json::Value) -> (u16, String) {
        let mut answer = serde_json::json!({ "territory_id": "territory-7", "kind": "server", "config": {} });
        if let Some(csr) = request["csr_pem"].as_str() {
            let certificate = CertificateSigningRequestParams::from_pem(csr).unwrap().signed_by(&self.0).unwrap();
            answer["mtls_client_cert_pem"] = certificate.pem().into();
            answer["ca_bundle_pem"] = self.pem().into();
        }
        (201, answer.to_string())
    }
}

type Handler = Box<dyn Fn(&serde_json::Value) -> (u16, String) + Send + Sync>;

/// A server that answers each POST by `handler`, over TLS where it has a configuration. Ends with its value.
struct Server {
    port: u16,
    bodies: Arc<Mutex<Vec<serde_json::Value>>>,
    _tasks: JoinSet<()>,
}

impl Server {
    async fn start(tls: Option<rustls::ServerConfig>, handler: Handler) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&bodies);
        let acceptor = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                match &acceptor {
                    // A client that does not trust us ends the handshake: that is the test's point.
                    Some(acceptor) => {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            answer(stream, &handler, &seen).await;
                        }
                    }
                    None => answer(stream, &handler, &seen).await,
                }
            }
        });
        Self { port, bodies, _tasks: tasks }
    }

    fn asked(&self) -> usize {
        self.bodies.lock().unwrap().len()
    }
}

async fn answer(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    handler: &Handler,
    seen: &Mutex<Vec<serde_json::Value>>,
) {
    let mut bytes = Vec::new();
    let body = loop {
        let mut chunk = [0; 4096];
        let count = stream.read(&mut chunk).await.unwrap_or(0);
        if count == 0 {
            return;
        }
        bytes.extend_from_slice(&chunk[..count]);
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
        if bytes.len() >= end + 4 + length {
            break bytes[end + 4..].to_vec();
        }
    };
    let request = serde_json::from_slice(&body).unwrap();
    let (status, text) = handler(&request);
    seen.lock().unwrap().push(request);
    let head = format!(
        "HTTP/1.1 {status} x\r\ncontent-length: {}\r\nretry-after: 17\r\nconnection: close\r\n\r\n",
        text.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    // The client may be gone already: it has what it needs.
    stream.shutdown().await.ok();
}

fn config(url: &str, extra: &str) -> Config {
    let surroundings =
        Surroundings { platform: Platform::Linux, environment: &|_| None, folder: PathBuf::from("/tmp"), home: None };
    Config::from_text("config.yaml", &format!("server_url: {url}\nname: lab-1\n{extra}"), &surroundings).unwrap()
}

fn args(out: &Path) -> EnrollArgs {
    EnrollArgs {
        config: ConfigSource { path: PathBuf::from("config.yaml"), named: false },
        token: TokenSource::StandardInput,
        with_csr: true,
        key: KeyKind::EcdsaP256,
        out_dir: out.to_path_buf(),
        name: None,
        ca_file: None,
        force: false,
    }
}

async fn run(args: &EnrollArgs, config: &Config, token: EnrollToken) -> Result<Enrolled, EnrollError> {
    enroll(args, config, token, "2026-11-24T00:00:00Z".parse().unwrap()).await
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn a_pinned_token_is_enough_and_the_pair_works() {
    for key in [KeyKind::EcdsaP256, KeyKind::Rsa3072] {
        let authority = Arc::new(Authority::new("lab ca"));
        let tls = authority.server(&["localhost"], &[&authority]);
        let signer = Arc::clone(&authority);
        let server = Server::start(Some(tls), Box::new(move |request| signer.answer(request))).await;
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("deep/credentials");
        let config =
            config(&format!("https://localhost:{}", server.port), "labels: {zone: a}\nmax_concurrent_directives: 3");
        let enrolled = run(&EnrollArgs { key, ..args(&out) }, &config, authority.token()).await.unwrap();

        assert_eq!(names(&out), ["ca.pem", "client-key.pem", "client.pem", "territory.json"]);
        assert_eq!((mode(&out), mode(&out.join("client-key.pem"))), (0o700, 0o600));
        assert_eq!(std::fs::read_to_string(out.join("ca.pem")).unwrap(), authority.pem());
        let line: serde_json::Value = serde_json::from_str(&enrolled.json_line()).unwrap();
        assert_eq!(line["territory_id"], "territory-7");
        assert_eq!(line["client_key_file"], out.join("client-key.pem").display().to_string());

        let request = server.bodies.lock().unwrap()[0].clone();
        assert_eq!((&request["name"], &request["kind"]), (&"lab-1".into(), &"server".into()));
        assert_eq!(request["metadata"]["capacity"]["max_concurrent"], 3);
        assert_eq!(request["labels"]["zone"], "a");
        assert!(request["platform"].as_str().unwrap().starts_with("linux/"));
        let key_pem = std::fs::read_to_string(out.join("client-key.pem")).unwrap();
        assert!(key_pem.contains("PRIVATE KEY") && !request.to_string().contains("PRIVATE KEY"));

        // What is pasted into a configuration is an identity that the daemon can run with.
        let snippet = enrolled.snippet();
        let pasted = Config::from_text(
            "c",
            &snippet,
            &Surroundings {
                platform: Platform::Linux,
                environment: &|_| None,
                folder: PathBuf::from("/tmp"),
                home: None,
            },
        )
        .unwrap_or_else(|problems| panic!("{problems}\n{snippet}"));
        let Identity::Certificate { territory_id, .. } = pasted.identity().unwrap() else { panic!("no certificate") };
        assert_eq!(territory_id.unwrap().as_str(), "territory-7");
    }
}

/// One attack each; nothing is left on disk, the token never leaves this process.
#[tokio::test]
async fn a_server_that_is_not_the_pinned_one_gets_no_token() {
    let authority = Authority::new("lab ca");
    let stranger = Authority::new("lab ca");
    let table = [
        ("another authority", stranger.server(&["localhost"], &[&stranger]), "another server"),
        // The authority's certificate is public: presenting it proves nothing.
        (
            "a stranger's leaf under a copy of the authority",
            stranger.server(&["localhost"], &[&authority]),
            "another server",
        ),
        ("and both", stranger.server(&["localhost"], &[&stranger, &authority]), ""),
        ("the right authority, another name", authority.server(&["other.example"], &[&authority]), "for another name"),
        ("the authority is not presented", authority.server(&["localhost"], &[]), "another server"),
    ];
    for (attack, tls, said) in table {
        let server = Server::start(Some(tls), Box::new(|_| (201, "{}".to_owned()))).await;
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("c");
        let config = config(&format!("https://localhost:{}", server.port), "tls: {insecure_skip_verify: true}");
        let error = run(&args(&out), &config, authority.token()).await.unwrap_err();
        assert!(matches!(error, EnrollError::Unreachable { .. }), "{attack}: {error}");
        assert!(error.to_string().contains(said), "{attack}: {error}");
        assert_eq!((server.asked(), names(&out)), (0, vec![]), "{attack}");
    }
}

#[tokio::test]
async fn an_opaque_token_needs_roots_that_verify() {
    let authority = Arc::new(Authority::new("lab ca"));
    let signer = Arc::clone(&authority);
    let server =
        Server::start(Some(authority.server(&["localhost"], &[])), Box::new(move |request| signer.answer(request)))
            .await;
    let dir = tempfile::tempdir().unwrap();
    let roots = dir.path().join("roots.pem");
    std::fs::write(&roots, authority.pem()).unwrap();
    let wrong = dir.path().join("wrong.pem");
    std::fs::write(&wrong, Authority::new("x").pem()).unwrap();
    let url = format!("https://localhost:{}", server.port);
    let token = || EnrollToken::try_from("opaque-token-of-another-server".to_owned()).unwrap();
    let out = |name: &str| dir.path().join(name);

    // The system's roots do not know this authority.
    let error = run(&args(&out("a")), &config(&url, ""), token()).await.unwrap_err();
    assert!(matches!(error, EnrollError::Unreachable { .. }), "{error}");
    // A configured file that is not there yet does not count; the system's roots decide.
    let missing = format!("tls: {{ca_file: {}}}", dir.path().join("later.pem").display());
    assert!(run(&args(&out("b")), &config(&url, &missing), token()).await.is_err());
    let other = format!("tls: {{ca_file: {}}}", wrong.display());
    assert!(run(&args(&out("c")), &config(&url, &other), token()).await.is_err());
    assert_eq!(server.asked(), 0);

    let good = format!("tls: {{ca_file: {}}}", roots.display());
    run(&args(&out("d")), &config(&url, &good), token()).await.unwrap();
    // The command line's file wins over the configured one.
    run(&EnrollArgs { ca_file: Some(roots.clone()), ..args(&out("e")) }, &config(&url, &other), token()).await.unwrap();
    let error = run(&EnrollArgs { ca_file: Some(out("none")), ..args(&out("f")) }, &config(&url, &good), token()).await;
    assert!(error.unwrap_err().to_string().contains("cannot be read"));
}

#[tokio::test]
async fn nothing_is_replaced_unless_forced() {
    let authority = Arc::new(Authority::new("lab ca"));
    let signer = Arc::clone(&authority);
    let server = Server::start(None, Box::new(move |request| signer.answer(request))).await;
    let config = config(&format!("http://127.0.0.1:{}", server.port), "territory_id: your-territory-uuid");
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("c");
    std::fs::create_dir(&out).unwrap();
    std::fs::set_permissions(&out, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::write(out.join("client-key.pem"), "precious").unwrap();

    let error = run(&args(&out), &config, authority.token()).await.unwrap_err();
    assert!(error.to_string().ends_with("this host is enrolled; --force replaces it"), "{error}");
    assert_eq!(std::fs::read_to_string(out.join("client-key.pem")).unwrap(), "precious");
    assert_eq!((server.asked(), names(&out)), (0, vec!["client-key.pem".to_owned()]), "the token was spent");

    let enrolled = run(&EnrollArgs { force: true, ..args(&out) }, &config, authority.token()).await.unwrap();
    assert!(std::fs::read_to_string(out.join("client-key.pem")).unwrap().contains("PRIVATE KEY"));
    assert_eq!(mode(&out.join("client-key.pem")), 0o600);
    assert_eq!(names(&out).len(), 4);
    assert!(enrolled.notes[0].contains("territory_id your-territory-uuid"), "{:?}", enrolled.notes);

    // A directory that others can write to could have its key replaced.
    std::fs::set_permissions(&out, std::fs::Permissions::from_mode(0o777)).unwrap();
    let error = run(&EnrollArgs { force: true, ..args(&out) }, &config, authority.token()).await.unwrap_err();
    assert!(matches!(error, EnrollError::OpenDirectory { .. }), "{error}");
}

#[tokio::test]
async fn without_a_certificate_only_the_record_is_written() {
    let authority = Arc::new(Authority::new("lab ca"));
    let signer = Arc::clone(&authority);
    let server = Server::start(None, Box::new(move |request| signer.answer(request))).await;
    let config = config(&format!("http://localhost:{}", server.port), "");
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("c");
    let enrolled = run(&EnrollArgs { with_csr: false, ..args(&out) }, &config, authority.token()).await.unwrap();
    assert_eq!(names(&out), ["territory.json"]);
    assert!(server.bodies.lock().unwrap()[0].get("csr_pem").is_none());
    assert!(enrolled.snippet().contains("territory_id: \"territory-7\""));
    assert!(enrolled.client_key_file.is_none());
}

#[tokio::test]
async fn refusals_are_plain_words_and_leave_nothing() {
    let other = Authority::new("other");
    let foreign = {
        let key = KeyPair::generate().unwrap();
        CertificateParams::default().signed_by(&key, &other.0).unwrap().pem()
    };
    let with_cert = |pem: &str| serde_json::json!({ "territory_id": "t", "mtls_client_cert_pem": pem }).to_string();
    let table = [
        (
            422,
            r#"{"error":"invalid","detail":"token \u001b[31mexpired"}"#.to_owned(),
            "refused the enrolment: token  [31mexpired",
        ),
        (422, String::new(), "it gave no reason"),
        (429, "{}".to_owned(), "try again in 17 s"),
        (404, "<html>".to_owned(), "answered 404, which is no enrolment"),
        (302, String::new(), "answered 302"),
        (500, r#"{"error":"internal"}"#.to_owned(), "answered 500, which is no enrolment: internal"),
        (201, "{}".to_owned(), "cannot be used"),
        (201, r#"{"territory_id":"../x"}"#.to_owned(), "cannot be used"),
        (201, r#"{"territory_id":"t"}"#.to_owned(), "brings no certificate"),
        (201, with_cert("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "damaged"),
        (201, with_cert(&foreign), "for another key"),
        (201, " ".repeat(300_000), "larger than"),
    ];
    for (status, body, said) in table {
        let shown = body.clone();
        let server = Server::start(None, Box::new(move |_| (status, body.clone()))).await;
        let config = config(&format!("http://127.0.0.1:{}", server.port), "");
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("c");
        let error = run(&args(&out), &config, other.token()).await.unwrap_err().to_string();
        assert!(error.contains(said) && !error.chars().any(char::is_control), "{status} {shown:.80}: {error}");
        assert!(!error.contains("c2VjcmV0"), "{error}");
        assert_eq!(names(&out), Vec::<String>::new(), "{status}");
    }
    // Nobody there.
    let config = config("http://127.0.0.1:1", "");
    let dir = tempfile::tempdir().unwrap();
    let error = run(&args(dir.path()), &config, other.token()).await.unwrap_err().to_string();
    assert!(error.starts_with("cannot reach http://127.0.0.1:1: ") && error.contains("refused"), "{error}");
}

#[test]
fn tokens_come_from_files_and_standard_input() {
    let text = "opaque-token-of-another-server";
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "{text}").unwrap();
    let read = |source: TokenSource, stdin: &str| read_token(&source, &mut stdin.as_bytes());
    let expected = || EnrollToken::try_from(text.to_owned()).unwrap();
    assert!(read(TokenSource::File(file.path().to_path_buf()), "").unwrap() == expected());
    assert!(read(TokenSource::StandardInput, &format!("{text}\n")).unwrap() == expected());
    assert!(read(TokenSource::Argument(text.to_owned()), "").unwrap() == expected());
    for source in [
        TokenSource::StandardInput,
        TokenSource::File(PathBuf::from("/nonexistent")),
        TokenSource::Argument("nxe1.x".to_owned()),
    ] {
        assert!(read(source, "").is_err());
    }
    for (text, why) in [
        ("", "empty"),
        (" \n", "empty"),
        ("one\ntwo\n", "several lines"),
        ("two words", "blanks"),
        ("tök", "blanks"),
        (&"x".repeat(3_000_000), "too long"),
    ] {
        std::fs::write(file.path(), text).unwrap();
        let error = read(TokenSource::File(file.path().to_path_buf()), "").unwrap_err().to_string();
        assert!(error.contains(why) && error.contains(&file.path().display().to_string()), "{error}");
    }
}
