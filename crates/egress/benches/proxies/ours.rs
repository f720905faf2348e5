//! Our proxy as a process: `--serve PORT FOLDER plain|slow-audit`; it serves until its input ends.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use egress::{AuditLog, AuditSettings, EgressPolicy, OperatorRules, Proxy, ProxyListener, ProxyParts, Resolver};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long the slow sink takes for each line.
const SLOW_LINE: Duration = Duration::from_millis(5);

pub(crate) fn serve(arguments: &[String]) {
    let [port, folder, audit] = arguments else { panic!("--serve PORT FOLDER plain|slow-audit") };
    let path = Path::new(folder).join(format!("audit-{port}.jsonl"));
    if audit == "slow-audit" {
        slow_sink(&path);
    }
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    std::thread::spawn(move || {
        std::io::stdin().read_to_end(&mut Vec::new()).ok();
        stop.cancel();
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let net = conduits::NetCapability::from_value(&serde_json::json!({
            "mode": "allowlist", "allow": [format!("localhost:{}", crate::load::ORIGIN_PORT)],
        }))
        .unwrap();
        let rules = OperatorRules {
            allow_private: vec!["127.0.0.0/8".parse().unwrap()],
            max_connections: 1024,
            ..OperatorRules::default()
        };
        let tasks = TaskTracker::new();
        let proxy = Proxy::new(ProxyParts {
            directive_id: "bench".parse().unwrap(),
            policy: EgressPolicy::compile(&net, &rules, tokio::time::Instant::now()).unwrap(),
            resolver: Resolver::with_nameservers(&["127.0.0.1:1".parse().unwrap()]).unwrap(),
            upstream: None,
            audit: AuditLog::start(AuditSettings::at(path), &tasks, cancel.clone()).await.unwrap(),
            counters: Arc::default(),
            denials: tokio::sync::mpsc::channel(egress::DENIAL_QUEUE).0,
            credential: None,
        });
        let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await.unwrap();
        // As in nexusd on a worker of the runtime: the thread that blocks on it is not one.
        tasks.spawn(proxy.serve(ProxyListener::Tcp(listener), cancel)).await.unwrap();
    });
}

/// A pipe in place of the audit file, read line by line and slowly.
fn slow_sink(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    let path = path.to_owned();
    std::thread::spawn(move || {
        use std::io::BufRead as _;
        let mut lines = std::io::BufReader::new(std::fs::File::open(path).unwrap()).lines();
        while let Some(Ok(_)) = lines.next() {
            std::thread::sleep(SLOW_LINE);
        }
    });
}
