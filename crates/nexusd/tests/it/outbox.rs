//! The outbox: durable before it is sent, gone when it is settled, delivered through everything.

use std::path::Path;
use std::time::{Duration, Instant};

use conduits::{FinishedRequest, FinishedStatus, StartedRequest};
use nexusd::client::CallError;
use nexusd::outbox::{Delivered, Opened, Outbox, Report};
use tokio_util::sync::CancellationToken;

use crate::client::server::{Fault, Server};
use crate::client::{directive, mothership};

fn finished(code: i32) -> Report {
    let mut request = FinishedRequest::new(FinishedStatus::Failed);
    request.exit_code = Some(code);
    Report::Finished(Box::new(request))
}

/// The reports in slots, each without what is left of earlier ones: a new file's slots are zeros.
fn in_slots(dir: &Path) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(dir.join("slots")).unwrap();
    let taken = bytes.chunks(4096).filter(|slot| !slot.starts_with(b"vacant"));
    taken.map(|slot| slot[..=slot.iter().rposition(|byte| *byte != 0).unwrap()].to_vec()).collect()
}

/// The reports on disk, in slots or files, and the files that were set aside.
fn files(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.filter(|name| name != "slots").collect();
    for slot in in_slots(dir) {
        let end = slot.iter().position(|byte| *byte == b'\n').unwrap();
        // What follows it is left of an earlier entry.
        let mut entries = serde_json::Deserializer::from_slice(&slot[end..]).into_iter::<serde_json::Value>();
        let entry = entries.next().unwrap().unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        names.push(format!("{}.{}.report", text(&entry["directive_id"]), text(&entry["report"]["kind"])));
    }
    names.sort();
    names
}

struct Running {
    outbox: Outbox,
    cancel: CancellationToken,
    task: tokio::task::JoinSet<()>,
}

fn run(opened: Opened) -> Running {
    let cancel = CancellationToken::new();
    let mut task = tokio::task::JoinSet::new();
    task.spawn(opened.task.run(cancel.clone()));
    Running { outbox: opened.outbox, cancel, task }
}

async fn until_empty(dir: &Path) {
    let begun = Instant::now();
    while !files(dir).is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?} stay", files(dir));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_is_on_disk_while_it_is_sent_and_gone_when_acknowledged() {
    let server = Server::start().await;
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("outbox");
    let running = run(Outbox::open(dir.clone()).unwrap());
    let calls = directive(&server);
    server.once("/finished", Fault::Status(503, Some("1"), ""));
    let delivering = running.outbox.deliver(&calls, finished(3));
    let looking = async {
        while server.count("/finished") == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(files(&dir), ["d-1.finished.report"]);
        assert_eq!(running.outbox.entries(), 1);
    };
    let (delivered, ()) = tokio::join!(delivering, looking);
    assert!(matches!(delivered.unwrap(), Delivered::Finished(_)));
    assert_eq!(server.finished().len(), 1);
    assert_eq!(server.finished()[0]["exit_code"], 3);
    until_empty(&dir).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_settles_it() {
    let server = Server::start().await;
    let home = tempfile::tempdir().unwrap();
    let running = run(Outbox::open(home.path().to_path_buf()).unwrap());
    server.once("/finished", Fault::Status(409, None, r#"{"error":"conflict"}"#));
    let delivered = running.outbox.deliver(&directive(&server), finished(3)).await.unwrap();
    assert!(matches!(delivered, Delivered::Refused(CallError::Conflict(_))), "{delivered:?}");
    until_empty(home.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_is_too_large_arrives_without_its_diff() {
    let server = Server::start().await;
    let home = tempfile::tempdir().unwrap();
    let running = run(Outbox::open(home.path().to_path_buf()).unwrap());
    let mut request = FinishedRequest::new(FinishedStatus::Failed);
    request.exit_code = Some(3);
    request.diff_base64 = Some(vec![b'd'; 100]);
    request.artifacts_manifest.insert("artifacts".into(), serde_json::json!([{"path": "a"}]));
    let report = Report::Finished(Box::new(request));
    for (status, body) in [(422, r#"{"error":"diff_too_large"}"#), (413, "<html>")] {
        server.once("/finished", Fault::Status(status, None, body));
        let delivered = running.outbox.deliver(&directive(&server), report.clone()).await.unwrap();
        assert!(matches!(delivered, Delivered::Finished(_)), "{delivered:?}");
        let told = server.finished().pop().unwrap();
        assert_eq!((&told["exit_code"], &told["diff_truncated"]), (&3.into(), &true.into()), "{told}");
        assert!(told["diff_base64"].is_null() && told["artifacts_manifest"]["artifacts"].is_null(), "{told}");
        assert_eq!(told["artifacts_manifest"]["left_out"]["what"], serde_json::json!(["diff", "artifacts"]));
    }
    // Refused again, it is refused.
    server.always("/finished", Fault::Status(422, None, ""));
    let delivered = running.outbox.deliver(&directive(&server), report).await.unwrap();
    assert!(matches!(delivered, Delivered::Refused(CallError::Invalid { status: 422, .. })), "{delivered:?}");
    assert_eq!(server.count("/finished"), 6);
    until_empty(home.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stopped_daemon_left_is_delivered_in_order_with_an_expired_token() {
    let server = Server::start().await;
    let home = tempfile::tempdir().unwrap();
    server.always("", Fault::Reset);
    let mut running = run(Outbox::open(home.path().to_path_buf()).unwrap());
    let calls = directive(&server);
    for report in [finished(7), Report::Started(StartedRequest::default())] {
        let waiting = tokio::time::timeout(Duration::from_millis(300), running.outbox.deliver(&calls, report)).await;
        assert!(waiting.is_err(), "nobody answers");
    }
    running.cancel.cancel();
    running.task.join_next().await.unwrap().unwrap();
    assert_eq!(files(home.path()), ["d-1.finished.report", "d-1.started.report"]);

    server.heal();
    server.expire_tokens();
    let mut opened = Outbox::open(home.path().to_path_buf()).unwrap();
    let leftovers = std::mem::take(&mut opened.leftovers);
    let kinds: Vec<&str> = leftovers.iter().map(|entry| entry.report.kind().as_str()).collect();
    assert_eq!(kinds, ["started", "finished"]);
    let mut running = run(opened);
    let before = server.seen().len();
    for entry in leftovers {
        let calls = mothership(&server).directive(entry.directive_id, entry.token);
        let outbox = running.outbox.clone();
        running.task.spawn(async move { drop(outbox.deliver_again(&calls, entry.report).await) });
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    until_empty(home.path()).await;
    assert_eq!(server.finished().len(), 1);
    let paths: Vec<String> =
        server.seen()[before..].iter().map(|seen| seen.path.rsplit('/').next().unwrap().to_owned()).collect();
    let first = |end: &str| paths.iter().position(|path| path == end).unwrap();
    assert!(first("started") < first("finished"), "{paths:?}");
    assert!(paths.contains(&"token".to_owned()), "{paths:?}");
    while running.outbox.entries() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_files_are_set_aside_by_name_and_stop_nobody() {
    let server = Server::start().await;
    let home = tempfile::tempdir().unwrap();
    server.always("", Fault::Reset);
    let running = run(Outbox::open(home.path().to_path_buf()).unwrap());
    let calls = directive(&server);
    let waiting = tokio::time::timeout(Duration::from_millis(200), running.outbox.deliver(&calls, finished(7))).await;
    assert!(waiting.is_err());
    drop(running);
    let good = in_slots(home.path()).remove(0);
    std::fs::write(home.path().join("d-2.finished.report"), &good[..good.len() - 2]).unwrap();
    std::fs::write(home.path().join("d-3.finished.report"), &good).unwrap();
    std::fs::write(home.path().join("d-4.started.report"), "").unwrap();
    std::fs::write(home.path().join("d-5.started.report.tmp"), "half").unwrap();
    let opened = Outbox::open(home.path().to_path_buf()).unwrap();
    assert_eq!(opened.leftovers.len(), 1);
    assert_eq!(opened.set_aside.len(), 3);
    let expected = [
        "d-1.finished.report",
        "d-2.finished.report.corrupt",
        "d-3.finished.report.corrupt",
        "d-4.started.report.corrupt",
    ];
    assert_eq!(files(home.path()), expected);
    assert_eq!(Outbox::open(home.path().to_path_buf()).unwrap().set_aside.len(), 0, "set aside once");
}

/// Whatever lies where the slots or a report ought to be, the daemon starts and says so.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_is_set_aside_and_stops_nobody() {
    let server = Server::start().await;
    let home = tempfile::tempdir().unwrap();
    for name in ["slots", "d-2.finished.report", "d-3.started.report.tmp"] {
        std::fs::create_dir_all(home.path().join(name).join("in it")).unwrap();
    }
    let opened = Outbox::open(home.path().to_path_buf()).unwrap();
    let mut aside = opened.set_aside.clone();
    aside.sort();
    let expected = ["d-2.finished.report.corrupt", "d-3.started.report.tmp.corrupt", "slots.corrupt"];
    assert_eq!(aside, expected.map(|name| home.path().join(name)));
    let running = run(opened);
    let delivered = running.outbox.deliver(&directive(&server), finished(3)).await.unwrap();
    assert!(matches!(delivered, Delivered::Finished(_)), "{delivered:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_takes_nothing_is_an_error_and_nothing_is_sent() {
    let server = Server::start().await;
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("outbox");
    let running = run(Outbox::open(dir.clone()).unwrap());
    std::fs::remove_dir_all(&dir).unwrap();
    let error = running.outbox.deliver(&directive(&server), finished(1)).await.unwrap_err();
    assert!(error.to_string().contains("outbox/slots: somebody has removed it"), "{error}");
    assert!(server.seen().is_empty());
}

/// Figures, not a judgement.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures"]
async fn outbox_figures() {
    let server = Server::start().await;
    let home = tempfile::tempdir_in("/var/tmp").unwrap();
    let running = run(Outbox::open(home.path().to_path_buf()).unwrap());
    let calls = directive(&server);
    let (mut plain, mut durable) = (Vec::new(), Vec::new());
    for _ in 0..300 {
        let begun = Instant::now();
        calls.finished(&FinishedRequest::new(FinishedStatus::Succeeded)).await.unwrap();
        plain.push(begun.elapsed());
        let begun = Instant::now();
        running.outbox.deliver(&calls, finished(0)).await.unwrap();
        durable.push(begun.elapsed());
    }
    plain.sort();
    durable.sort();
    println!("finished: plain call {:?}, through the outbox {:?} (medians)", plain[150], durable[150]);
}
