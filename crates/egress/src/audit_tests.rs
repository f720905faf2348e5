use super::*;

fn event(number: u16) -> AuditEvent {
    AuditEvent {
        ts: "2026-01-02T03:04:05Z".parse().unwrap(),
        directive_id: "d-1".into(),
        method: "CONNECT",
        dest_host: "a.example".into(),
        dest_port: number,
        resolved_ip: Some("93.184.216.34".parse().unwrap()),
        decision: "allow",
        reason_code: "OK",
        sni: None,
        bytes_up: 1,
        bytes_down: 2,
        duration_ms: 3,
    }
}

#[tokio::test]
async fn lines_are_exact_and_all_there_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("egress.jsonl");
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    let log = AuditLog::start(AuditSettings::at(path.clone()), &tasks, cancel.clone()).await.unwrap();
    for number in 0..1000 {
        assert!(log.record(AuditEvent { sni: (number == 7).then(|| "(none)".into()), ..event(number) }));
    }
    cancel.cancel();
    tasks.close();
    tasks.wait().await;
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 1000);
    assert_eq!(
        lines[0],
        r#"{"ts":"2026-01-02T03:04:05Z","directive_id":"d-1","method":"CONNECT","dest_host":"a.example","dest_port":0,"resolved_ip":"93.184.216.34","decision":"allow","reason_code":"OK","bytes_up":1,"bytes_down":2,"duration_ms":3}"#
    );
    assert!(lines[7].contains(r#""sni":"(none)","#));
    assert!(!log.record(event(1)), "after the end nothing is taken");
}

/// The port of each line.
fn ports(path: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["dest_port"].as_u64().unwrap())
        .collect()
}

/// Starts a log, records events of these ports, and waits for its end.
async fn record(settings: AuditSettings, numbers: std::ops::Range<u16>) {
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    let log = AuditLog::start(settings, &tasks, cancel).await.unwrap();
    for number in numbers {
        assert!(log.record(event(number)));
    }
    drop(log);
    tasks.close();
    tasks.wait().await;
}

#[tokio::test]
async fn the_file_is_rotated_and_the_oldest_goes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("egress.jsonl");
    let settings = AuditSettings { path: path.clone(), rotate_bytes: 500, keep: 2 };
    let mut writer = Writer {
        file: open(&path).await.unwrap(),
        settings,
        events: mpsc::channel(1).1,
        dropped: Arc::default(),
        failing: false,
    };
    for number in 0..10 {
        writer.write(&lines(&mut vec![event(number)], 0)).await.unwrap();
    }
    let ports = |name: &str| ports(&folder.path().join(name));
    assert_eq!(
        (ports("egress.jsonl.2"), ports("egress.jsonl.1"), ports("egress.jsonl")),
        (vec![4, 5], vec![6, 7], vec![8, 9])
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
}

#[tokio::test]
async fn a_full_queue_drops_counts_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("egress.jsonl");
    let (queue, events) = mpsc::channel(2);
    let log = AuditLog { queue, dropped: Arc::default() };
    let recorded: Vec<bool> = (0..5).map(|number| log.record(event(number))).collect();
    assert_eq!(recorded, [true, true, false, false, false], "never waits");
    let writer = Writer {
        file: open(&path).await.unwrap(),
        settings: AuditSettings::at(path.clone()),
        events,
        dropped: Arc::clone(&log.dropped),
        failing: false,
    };
    drop(log);
    writer.run(CancellationToken::new()).await;
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 3);
    assert!(text.lines().next().unwrap().ends_with(r#""audit_events_dropped":3}"#), "{text}");
}

#[tokio::test]
async fn a_link_is_not_followed_and_a_missing_folder_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("target");
    std::fs::write(&target, "").unwrap();
    let link = folder.path().join("egress.jsonl");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let start = async |path: PathBuf| {
        AuditLog::start(AuditSettings::at(path), &TaskTracker::new(), CancellationToken::new()).await
    };
    assert!(start(link).await.is_err());
    let error = start(folder.path().join("absent/egress.jsonl")).await.unwrap_err().to_string();
    assert!(error.contains("absent/egress.jsonl") && error.contains("must exist"), "{error}");
    assert!(start(target).await.is_ok(), "control");
}

/// As `logrotate` does it, or an operator by hand, in whatever moment.
#[tokio::test]
async fn a_file_that_was_moved_away_or_removed_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let settings = AuditSettings { path: at("egress.jsonl"), rotate_bytes: 500, keep: 2 };
    let file = open(&settings.path).await.unwrap();
    let mut writer = Writer { file, settings, events: mpsc::channel(1).1, dropped: Arc::default(), failing: false };
    for number in 0..9 {
        match number {
            2 => std::fs::rename(at("egress.jsonl"), at("moved")).unwrap(),
            4 => std::fs::remove_file(at("egress.jsonl")).unwrap(),
            _ => {}
        }
        writer.write(&lines(&mut vec![event(number)], 0)).await.unwrap();
    }
    assert_eq!(ports(&at("moved")), [0, 1]);
    assert_eq!((ports(&at("egress.jsonl.2")), ports(&at("egress.jsonl.1"))), (vec![4, 5], vec![6, 7]));
    assert_eq!(ports(&at("egress.jsonl")), [8]);
}

/// Whoever was killed while writing has left half a line, and the next start does not go on in it.
#[tokio::test]
async fn half_a_line_spoils_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("egress.jsonl");
    std::fs::write(&path, "{\"ts\":\"2026").unwrap();
    record(AuditSettings::at(path.clone()), 0..2).await;
    record(AuditSettings::at(path.clone()), 2..3).await;
    let text = std::fs::read_to_string(&path).unwrap();
    let (half, whole) = text.split_once('\n').unwrap();
    assert_eq!(half, "{\"ts\":\"2026");
    std::fs::write(&path, whole).unwrap();
    assert_eq!(ports(&path), [0, 1, 2]);
}

/// What a full disk took is said once there is room.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn events_that_cannot_be_written_are_counted_as_missing() {
    let full = Path::new("/dev/full");
    let (queue, events) = mpsc::channel(8);
    let settings = AuditSettings::at(full.to_owned());
    let dropped = Arc::new(AtomicU64::new(3));
    let writer =
        Writer { file: open(full).await.unwrap(), settings, events, dropped: Arc::clone(&dropped), failing: false };
    for number in 0..5 {
        queue.send(event(number)).await.unwrap();
    }
    drop(queue);
    writer.run(CancellationToken::new()).await;
    assert_eq!(dropped.load(Relaxed), 8);
}
