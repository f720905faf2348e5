//! What a process that was killed leaves of a log is shipped by the next one.

use std::io::Write as _;
use std::time::{Duration, Instant};

use nexusd::logs::{Leftover, Logs, recover};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Bed, ERR, LONG, OUT, bytes};
use crate::client::directive;
use crate::client::server::Fault;

/// A process that dies leaves its spool; another ships it to the end, and what arrived before is not doubled.
async fn killed_and_recovered(held: bool, damage: impl Fn(&std::path::Path)) -> (Bed, Vec<u8>) {
    let bed = Bed::new().await;
    let max = if held { 300_000 } else { 3_000_000 };
    let logs = bed.logs(bed.settings(max, 1000));
    let out = bytes(500_000, 11);
    let mut file = std::fs::File::from(logs.pipe(OUT).unwrap());
    file.write_all(&out[..50_000]).unwrap();
    while bed.server.chunk_lengths(OUT).len() < 20 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bed.server.always("/log_chunks", Fault::Status(503, None, ""));
    let rest = out.clone();
    let writer = std::thread::spawn(move || file.write_all(&rest[50_000..]).map(|()| file));
    let begun = Instant::now();
    while logs.summary().stream(OUT).seen < 500_000 {
        assert!(begun.elapsed() < Duration::from_secs(10), "the outage stalled the command");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(writer.join().unwrap());
    bed.cancel.cancel();
    bed.tasks.close();
    bed.tasks.wait().await;
    damage(&bed.spool_root().join("d-1"));
    (bed, out)
}

async fn ship_leftovers(bed: &Bed, mut leftovers: Vec<Leftover>) -> nexusd::logs::LogSummary {
    bed.server.heal();
    assert_eq!(leftovers.len(), 1);
    let tasks = TaskTracker::new();
    let calls = directive(&bed.server);
    let leftover = leftovers.remove(0);
    let logs = Logs::recovered(leftover, calls, bed.settings(1, 1), &tasks, CancellationToken::new()).unwrap();
    logs.notice(ERR, "[nexusd] restarted").await;
    logs.end_of_output(LONG).await;
    let summary = logs.shipped(LONG).await;
    drop(logs);
    tasks.close();
    tasks.wait().await;
    summary
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_is_shipped_after_a_kill() {
    let (bed, out) = killed_and_recovered(false, |_| {}).await;
    let summary = ship_leftovers(&bed, recover(&bed.spool_root()).unwrap()).await;
    assert!(summary.complete, "{summary:?}");
    assert!(bed.server.stored(OUT) == out);
    assert_eq!(bed.server.stored(ERR), b"[nexusd] restarted\n");
    assert_eq!(summary.stream(OUT).chunks, bed.server.chunk_lengths(OUT).len() as u64);
    assert_eq!(summary.stream(OUT).bytes, 500_000);
    assert!(bed.spool_is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn held_output_is_shipped_after_a_kill() {
    let (bed, out) = killed_and_recovered(true, |_| {}).await;
    let summary = ship_leftovers(&bed, recover(&bed.spool_root()).unwrap()).await;
    assert!(summary.complete, "{summary:?}");
    let shown = bed.server.stored(OUT);
    let marker = format!("\n[... {} bytes truncated ...]\n", summary.stream(OUT).left_out);
    let at = shown.windows(marker.len()).position(|w| w == marker.as_bytes()).unwrap();
    assert!(out.starts_with(&shown[..at]) && out.ends_with(&shown[at + marker.len()..]));
    assert_eq!((shown.len() - marker.len()) as u64 + summary.stream(OUT).left_out, 500_000);
    assert!(shown.len() + bed.server.stored(ERR).len() <= 300_000);
    assert!(shown.len() > 280_000);
    assert!(bed.spool_is_empty());
}

/// What the command wrote is counted, before and after a kill: no notice, no marker, and a secret as long as it was.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_the_bytes_of_the_command_are_counted_and_no_others() {
    for (max, held) in [(2_000_000, false), (100_000, true)] {
        let bed = Bed::new().await;
        bed.server.always("/log_chunks", Fault::Status(503, None, ""));
        let logs = bed.logs(bed.settings(max, 1000));
        logs.notice(OUT, "[nexusd] a line of our own").await;
        logs.notice(ERR, "[nexusd] another").await;
        let mut out = b"the password is hunter2hunter2, is it not?\n".to_vec();
        out.extend(bytes(200_000, 7));
        super::write(logs.pipe(OUT).unwrap(), vec![out.clone()]).join().unwrap();
        super::write(logs.pipe(ERR).unwrap(), vec![b"five\n".to_vec()]).join().unwrap();
        let begun = Instant::now();
        let seen = |summary: nexusd::logs::LogSummary| (summary.stream(OUT).seen, summary.stream(ERR).seen);
        let expected = (out.len() as u64, 5);
        while seen(logs.summary()) != expected {
            assert!(begun.elapsed() < LONG, "{:?}", logs.summary());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        bed.cancel.cancel();
        bed.tasks.close();
        bed.tasks.wait().await;
        drop(logs);
        let summary = ship_leftovers(&bed, recover(&bed.spool_root()).unwrap()).await;
        assert_eq!(seen(summary.clone()), expected, "held: {held}");
        assert_eq!(summary.stream(OUT).left_out > 0, held);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_last_record_is_dropped_and_no_good_one() {
    let (bed, out) = killed_and_recovered(false, |dir| {
        let last = last_segment(dir);
        let len = std::fs::metadata(&last).unwrap().len();
        std::fs::File::options().write(true).open(&last).unwrap().set_len(len - 1).unwrap();
    })
    .await;
    let summary = ship_leftovers(&bed, recover(&bed.spool_root()).unwrap()).await;
    assert!(summary.complete);
    let shown = bed.server.stored(OUT);
    assert!(out.starts_with(&shown));
    assert!(out.len() - shown.len() <= 1000 && shown.len() < out.len(), "one record: {}", out.len() - shown.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_segment_is_set_aside_by_name_and_what_is_good_is_shipped() {
    let (bed, out) = killed_and_recovered(false, |dir| {
        use std::os::unix::fs::FileExt as _;
        let last = last_segment(dir);
        let len = std::fs::metadata(&last).unwrap().len();
        std::fs::File::options().write(true).open(&last).unwrap().write_all_at(b"\xff\xff\xff", len / 2).unwrap();
    })
    .await;
    let found = recover(&bed.spool_root()).unwrap();
    assert_eq!(found[0].set_aside.len(), 1);
    assert!(found[0].set_aside[0].path.to_str().unwrap().ends_with(".seg.corrupt"));
    let summary = ship_leftovers(&bed, found).await;
    assert!(!summary.complete, "what is missing is not said to be there");
    let shown = bed.server.stored(OUT);
    assert!(out.starts_with(&shown) && shown.len() > 100_000);
    let kept: Vec<_> =
        std::fs::read_dir(bed.spool_root().join("d-1")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(kept.len() == 1 && kept[0].to_str().unwrap().ends_with(".seg.corrupt"), "{kept:?}");
}

/// What lies in the spool of a log of three short lines of which none was taken.
async fn three_lines_left(damage: impl FnOnce(&std::path::Path)) -> Bed {
    let bed = Bed::new().await;
    bed.server.always("/log_chunks", Fault::Status(503, None, ""));
    let logs = bed.logs(bed.settings(2_000_000, 1000));
    for line in ["first", "second", "third"] {
        logs.notice(ERR, line).await;
    }
    let begun = Instant::now();
    while logs.summary().stream(ERR).bytes < 19 {
        assert!(begun.elapsed() < LONG, "{:?}", logs.summary());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bed.cancel.cancel();
    bed.tasks.close();
    bed.tasks.wait().await;
    damage(&bed.spool_root().join("d-1"));
    bed
}

/// Whatever a kill cannot have left is set aside, however short it is: good records may follow it.
#[tokio::test(flavor = "multi_thread")]
async fn damage_in_a_short_spool_is_not_taken_for_a_torn_record() {
    use std::os::unix::fs::FileExt as _;
    let put = |at: u64, byte: u8| {
        move |dir: &std::path::Path| {
            let file = std::fs::File::options().write(true).open(last_segment(dir)).unwrap();
            file.write_all_at(&[byte], at).unwrap();
        }
    };
    let (head, record) = (96, 32);
    let second = head + record + 6;
    let last_byte = second + record + 7 + record + 6 - 1;
    for (what, at, byte, good) in [
        ("a length that is too long", second, 200, "first\n"),
        ("a length that no record has", second + 3, 200, "first\n"),
        ("a stream that there is not", head + 4, 9, ""),
        ("a byte of the last line", last_byte, b'X', "first\nsecond\n"),
    ] {
        let bed = three_lines_left(put(at, byte)).await;
        let found = recover(&bed.spool_root()).unwrap();
        assert_eq!(found[0].set_aside.len(), 1, "{what}");
        let aside = std::fs::metadata(&found[0].set_aside[0].path).unwrap();
        assert_eq!(aside.len(), last_byte + 1, "{what}: it is kept whole");
        let summary = ship_leftovers(&bed, found).await;
        assert!(!summary.complete, "{what}: {summary:?}");
        let shown = String::from_utf8(bed.server.stored(ERR)).unwrap();
        assert!(shown.starts_with(good) && !shown.contains("third"), "{what}: {shown:?}");
    }
}

/// Killed once more before the end was told: what was set aside by the first start is still missing from the log.
#[tokio::test(flavor = "multi_thread")]
async fn damage_that_an_earlier_start_found_is_known_to_the_next() {
    let flip = |dir: &std::path::Path| {
        use std::os::unix::fs::FileExt as _;
        let last = last_segment(dir);
        std::fs::File::options().write(true).open(last).unwrap().write_all_at(b"\xff\xff\xff", 5000).unwrap();
    };
    let (bed, _) = killed_and_recovered(false, flip).await;
    drop(recover(&bed.spool_root()).unwrap());
    let summary = ship_leftovers(&bed, recover(&bed.spool_root()).unwrap()).await;
    assert!(!summary.complete, "{summary:?}");

    let (bed, _) = killed_and_recovered(true, |dir| std::fs::write(dir.join("stdout.ring"), "no ring").unwrap()).await;
    for start in ["the first", "the second"] {
        let leftover = recover(&bed.spool_root()).unwrap().remove(0);
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let logs =
            Logs::recovered(leftover, directive(&bed.server), bed.settings(1, 1), &tasks, cancel.clone()).unwrap();
        assert!(!logs.summary().complete, "{start}");
        cancel.cancel();
        tasks.close();
        tasks.wait().await;
        assert!(bed.spool_root().join("d-1/stdout.ring.corrupt").exists(), "{start}");
    }
}

/// Killed between a refusal and the end: the log that the next process ships is not whole either.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_lacked_something_before_the_kill_lacks_it_after() {
    let bed = Bed::new().await;
    bed.server.once("/log_chunks", Fault::Status(422, None, ""));
    let logs = bed.logs(bed.settings(2_000_000, 1000));
    logs.notice(ERR, "refused").await;
    tokio::time::timeout(LONG, logs.trouble()).await.expect("it is refused");
    logs.end_of_output(LONG).await;
    assert!(!logs.shipped(LONG).await.complete);
    bed.cancel.cancel();
    bed.tasks.close();
    bed.tasks.wait().await;
    let summary = ship_leftovers(&bed, recover(&bed.spool_root()).unwrap()).await;
    assert!(!summary.complete, "{summary:?}");
    assert!(bed.spool_is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_in_the_place_of_a_segment_is_set_aside() {
    let (bed, _) = killed_and_recovered(false, |dir| {
        let last = last_segment(dir);
        std::fs::remove_file(&last).unwrap();
        std::fs::create_dir(&last).unwrap();
    })
    .await;
    let found = recover(&bed.spool_root()).unwrap();
    assert_eq!(found.len(), 1, "a spool that is not told of is not shipped");
    assert!(found[0].set_aside[0].path.to_str().unwrap().ends_with(".seg.corrupt"));
    let summary = ship_leftovers(&bed, found).await;
    assert!(!summary.complete, "{summary:?}");
}

/// Nothing that has a segment's name and is none, or is too short for one, is passed over, followed or waited for.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_segment_is_set_aside() {
    type Damage = fn(&std::path::Path);
    let damages: [(&str, Damage); 4] = [
        ("emptied", |path| std::fs::write(path, "").unwrap()),
        ("cut within its head", |path| std::fs::File::options().write(true).open(path).unwrap().set_len(50).unwrap()),
        ("a link", |path| {
            let elsewhere = path.with_file_name("elsewhere");
            std::fs::rename(path, &elsewhere).unwrap();
            std::os::unix::fs::symlink(elsewhere, path).unwrap();
        }),
        ("a pipe", |path| {
            std::fs::remove_file(path).unwrap();
            let mode = rustix::fs::Mode::RWXU;
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        }),
    ];
    for (what, damage) in damages {
        let bed = three_lines_left(|dir| damage(&last_segment(dir))).await;
        let root = bed.spool_root();
        let looking = tokio::task::spawn_blocking(move || recover(&root).unwrap());
        let found =
            tokio::time::timeout(LONG, looking).await.unwrap_or_else(|_| panic!("{what} is waited for")).unwrap();
        assert_eq!(found.len(), 1, "{what}");
        let aside = &found[0].set_aside;
        assert!(aside.len() == 1 && aside[0].path.to_str().unwrap().ends_with(".seg.corrupt"), "{what}: {aside:?}");
        let summary = ship_leftovers(&bed, found).await;
        assert!(!summary.complete, "{what}: {summary:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_of_which_nothing_can_be_read_is_not_called_whole() {
    let wreck = |dir: &std::path::Path| {
        for item in std::fs::read_dir(dir).unwrap() {
            std::fs::write(
                item.unwrap().path(),
                "this is no segment, but it is longer than a segment's head is: ".repeat(3),
            )
            .unwrap();
        }
    };
    let (bed, _) = killed_and_recovered(false, wreck).await;
    let found = recover(&bed.spool_root()).unwrap();
    let aside = found[0].set_aside.clone();
    assert!(!aside.is_empty() && aside.iter().all(|file| file.path.exists()), "{aside:?}");
    bed.server.heal();
    let (tasks, calls) = (TaskTracker::new(), directive(&bed.server));
    let settings = bed.settings(10_000, 1000);
    let leftover = found.into_iter().next().unwrap();
    let logs = Logs::recovered(leftover, calls, settings, &tasks, CancellationToken::new()).unwrap();
    logs.notice(ERR, "[nexusd] restarted").await;
    logs.end_of_output(LONG).await;
    let summary = logs.shipped(LONG).await;
    assert!(!summary.complete, "what is missing is not said to be there: {summary:?}");
    assert_eq!(bed.server.stored(ERR), b"[nexusd] restarted\n");
    drop(logs);
    tasks.close();
    tasks.wait().await;
    assert!(aside.iter().all(|file| file.path.exists()), "what was set aside is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_set_aside_stays_when_nobody_wants_the_log() {
    let (bed, _) = killed_and_recovered(false, |dir| {
        let last = last_segment(dir);
        let len = std::fs::metadata(&last).unwrap().len();
        use std::os::unix::fs::FileExt as _;
        std::fs::File::options().write(true).open(&last).unwrap().write_all_at(b"\xff\xff\xff", len / 2).unwrap();
    })
    .await;
    let found = recover(&bed.spool_root()).unwrap();
    let aside = found[0].set_aside[0].path.clone();
    found.into_iter().for_each(|leftover| leftover.discard().unwrap());
    let left: Vec<_> = std::fs::read_dir(aside.parent().unwrap()).unwrap().map(|item| item.unwrap().path()).collect();
    assert_eq!(left, [aside]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_ring_is_set_aside_by_name_and_the_head_is_shipped() {
    let (bed, out) = killed_and_recovered(true, |dir| {
        use std::os::unix::fs::FileExt as _;
        let ring = dir.join("stdout.ring");
        std::fs::File::options().write(true).open(ring).unwrap().write_all_at(b"\xff\xff\xff", 20).unwrap();
    })
    .await;
    let found = recover(&bed.spool_root()).unwrap();
    let summary = ship_leftovers(&bed, found).await;
    assert!(!summary.complete);
    let shown = bed.server.stored(OUT);
    assert!(out.starts_with(&shown) && shown.len() == 112_500, "{}", shown.len());
    assert!(bed.spool_root().join("d-1/stdout.ring.corrupt").exists());
}

/// Killed when all was shipped and the end not yet told: the next process goes on behind the numbers that were used.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_shipped_whole_is_counted_until_the_end_is_told() {
    let bed = Bed::new().await;
    let logs = bed.logs(bed.settings(2_000_000, 1000));
    logs.notice(ERR, "first").await;
    let out = bytes(3000, 11);
    super::write(logs.pipe(OUT).unwrap(), vec![out.clone()]).join().unwrap();
    logs.end_of_output(LONG).await;
    assert!(logs.shipped(LONG).await.complete);
    bed.cancel.cancel();
    bed.tasks.close();
    bed.tasks.wait().await;
    let found = recover(&bed.spool_root()).unwrap();
    assert_eq!(found[0].waiting_bytes(), 0);
    let summary = ship_leftovers(&bed, found).await;
    assert!(summary.complete, "{summary:?}");
    assert_eq!((summary.stream(OUT).bytes, summary.stream(ERR).chunks), (3000, 2));
    assert!(bed.server.stored(OUT) == out);
    assert_eq!(bed.server.stored(ERR), b"first\n\n[nexusd] restarted\n", "a line by itself, whatever came before");
    assert!(bed.spool_is_empty());
}

/// Killed twice between the last chunk and the end, with nothing more to say: the numbers outlive the first recovery, and once
/// the end is told no folder stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_with_nothing_to_ship_keeps_the_numbers_and_then_leaves_no_trace() {
    let bed = Bed::new().await;
    let logs = bed.logs(bed.settings(2_000_000, 1000));
    super::write(logs.pipe(OUT).unwrap(), vec![bytes(3000, 11)]).join().unwrap();
    logs.end_of_output(LONG).await;
    assert!(logs.shipped(LONG).await.complete);
    bed.cancel.cancel();
    bed.tasks.close();
    bed.tasks.wait().await;
    for told in [false, true] {
        let leftover = recover(&bed.spool_root()).unwrap().remove(0);
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let calls = directive(&bed.server);
        let logs = Logs::recovered(leftover, calls, bed.settings(1, 1), &tasks, cancel.clone()).unwrap();
        logs.end_of_output(LONG).await;
        assert_eq!(logs.shipped(LONG).await.stream(OUT).chunks, 3, "told: {told}");
        if !told {
            cancel.cancel();
            tasks.close();
            tasks.wait().await;
        }
        drop(logs);
        tasks.close();
        tasks.wait().await;
    }
    assert!(bed.spool_is_empty());
}

fn last_segment(dir: &std::path::Path) -> std::path::PathBuf {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries.filter(|p| p.extension().is_some_and(|e| e == "seg")).max().unwrap()
}
