//! Files of a killed daemon that somebody or something has damaged: said by name, never lost in silence, in nobody's way.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use conduits::{DirectiveId, DirectiveState};
use rustix::process::Signal;
use serde_json::json;
use testkit::stub::FaultKind;
use testkit::wait::until;
use testkit::{Dice, Endpoint, Fault, Output, Process, StubOptions, require};

use crate::bed::{Bed, ORDINARY, SOON, ordinary_user_s, start};

/// The slot with this report of a directive.
fn slot_of(slots: &Path, id: &DirectiveId, kind: &str) -> Option<usize> {
    let bytes = std::fs::read(slots).unwrap();
    let parts = [format!("\"directive_id\":\"{id}\""), format!("\"kind\":\"{kind}\"")];
    let holds = |slot: &[u8], part: &str| slot.windows(part.len()).any(|found| found == part.as_bytes());
    bytes.chunks(4096).position(|slot| slot[0] == b'n' && parts.iter().all(|part| holds(slot, part)))
}

/// A report that the disk ate is known to be missing, and its neighbours are told.
#[tokio::test(flavor = "multi_thread")]
async fn damage_to_the_outbox_s_slots_is_said_and_the_other_reports_are_told() {
    require!(Bwrap);
    type Damage = fn(&mut Vec<u8>, usize);
    let damages: [(&str, Damage, bool); 5] = [
        ("a first byte of zero", |bytes, at| bytes[at] = 0, true),
        ("a block of zeros", |bytes, at| bytes[at..at + 4096].fill(0), true),
        ("a flipped bit", |bytes, at| bytes[at + 200] ^= 1, true),
        ("cut short", |bytes, at| bytes.truncate(at + 100), true),
        ("emptied", |bytes, _| bytes.clear(), false),
    ];
    let mut bed = Bed::with(StubOptions::full(), "max_concurrent_directives: 2\nobservability: {enabled: false}\n");
    let slots = bed.dir.join("w/.nexus/outbox/slots");
    for (what, damage, other_is_told) in damages {
        bed.stub.fail(Endpoint::Finished, Fault::always(FaultKind::Status(503, None)));
        let ids = [bed.queue(json!({"command": "true"})), bed.queue(json!({"command": "true"}))];
        until("both ends are kept", SOON, || {
            let ended = |id: &DirectiveId| slot_of(&slots, id, "finished").is_some();
            ids.iter().all(ended).then_some(())
        });
        bed.daemon.signal(Signal::KILL);
        bed.daemon.wait(SOON);
        let mut at = ids.clone().map(|id| (slot_of(&slots, &id, "finished").unwrap(), id));
        at.sort();
        let [(_, kept), (slot, hit)] = at;
        let mut bytes = std::fs::read(&slots).unwrap();
        damage(&mut bytes, slot * 4096);
        std::fs::write(&slots, bytes).unwrap();
        bed.stub.mend(Endpoint::Finished);
        bed.daemon = start(&bed.dir);
        let said = bed.daemon.text(Output::Stderr);
        let line = said.lines().find(|line| line.contains("ERROR") && line.contains("outbox/slots"));
        let line = line.unwrap_or_else(|| panic!("{what}: {said}"));
        assert!(line.contains(&slot.to_string()) || what == "emptied" && line.contains("0"), "{what}: {line}");
        if other_is_told {
            assert_eq!(bed.ended(kept).await.report.status.as_str(), "succeeded", "{what}");
        }
        assert_ne!(bed.stub.directive(&hit).state, DirectiveState::Succeeded, "{what}");
        // Said once, and the outbox works on.
        assert_eq!(bed.run(json!({"command": "true"})).await.outcome(), ("succeeded", 0, ""), "{what}");
        bed.daemon.signal(Signal::KILL);
        bed.daemon.wait(SOON);
        bed.daemon = start(&bed.dir);
        let said = bed.daemon.text(Output::Stderr);
        assert!(!said.contains("ERROR"), "{what}: {said}");
    }
}

#[test]
fn an_outbox_that_is_another_user_s_is_named_with_what_mends_it() {
    require!(Root, Bwrap);
    let mut bed = Bed::started_by(StubOptions::full(), "", ordinary_user_s);
    bed.daemon.signal(Signal::TERM);
    assert!(bed.daemon.wait(SOON).success());
    let outbox = bed.dir.join("w/.nexus/outbox");
    for (of_another, mode) in [(outbox.join("slots"), 0o600), (outbox, 0o700)] {
        std::os::unix::fs::chown(&of_another, Some(0), Some(0)).unwrap();
        std::fs::set_permissions(&of_another, std::fs::Permissions::from_mode(mode)).unwrap();
        let mut program = ordinary_user_s(&bed.dir);
        let mut daemon = Process::start(program.arg("-config").arg(bed.dir.join("config.yaml")));
        assert_eq!(daemon.wait(SOON).code(), Some(1));
        let said = daemon.text(Output::Stderr);
        let mend = format!("chown {} {}", ORDINARY, of_another.display());
        assert!(said.contains(&mend), "{said}");
        std::os::unix::fs::chown(&of_another, Some(ORDINARY), None).unwrap();
    }
}

/// What lies where a spool's folder belongs is set aside under a name that says so, and a link is not followed.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_folder_among_the_spools_is_set_aside_and_never_followed() {
    require!(Bwrap);
    let mut bed = Bed::new();
    bed.daemon.signal(Signal::KILL);
    bed.daemon.wait(SOON);
    let spool = bed.dir.join("w/.nexus/spool");
    std::fs::create_dir_all(&spool).unwrap();
    let elsewhere = bed.dir.join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::write(elsewhere.join("00000001.seg"), "somebody's own file").unwrap();
    std::fs::write(spool.join("d-file"), "no folder").unwrap();
    std::os::unix::fs::symlink(&elsewhere, spool.join("d-link")).unwrap();
    for start_number in [1, 2] {
        bed.daemon = start(&bed.dir);
        let said = bed.daemon.text(Output::Stderr);
        for name in ["d-file", "d-link"] {
            let aside = spool.join(format!("{name}.corrupt"));
            assert!(std::fs::symlink_metadata(&aside).is_ok(), "{name} at start {start_number}: {said}");
            assert!(std::fs::symlink_metadata(spool.join(name)).is_err(), "{name}: {said}");
            let named = said.lines().any(|line| line.contains("ERROR") && line.contains(aside.to_str().unwrap()));
            assert_eq!(named, start_number == 1, "{name} at start {start_number}: {said}");
        }
        assert_eq!(std::fs::read_to_string(elsewhere.join("00000001.seg")).unwrap(), "somebody's own file");
        bed.daemon.signal(Signal::KILL);
        bed.daemon.wait(SOON);
    }
    bed.daemon = start(&bed.dir);
    assert_eq!(bed.run(json!({"command": "echo next"})).await.outcome(), ("succeeded", 0, "next\n"));
}

/// Neither keeps the daemon from starting, nor directives from running.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_the_place_of_the_outbox_or_the_spools_is_set_aside() {
    require!(Bwrap);
    let mut bed = Bed::new();
    for name in ["outbox", "spool"] {
        bed.daemon.signal(Signal::KILL);
        bed.daemon.wait(SOON);
        let place = bed.dir.join(format!("w/.nexus/{name}"));
        if place.exists() {
            std::fs::rename(&place, bed.dir.join(name)).unwrap();
        }
        std::fs::write(&place, "no folder").unwrap();
        bed.daemon = start(&bed.dir);
        let aside = place.with_extension("corrupt");
        assert_eq!(std::fs::read_to_string(&aside).unwrap(), "no folder");
        let said = bed.daemon.text(Output::Stderr);
        assert!(said.lines().any(|line| line.contains("ERROR") && line.contains(aside.to_str().unwrap())), "{said}");
        assert_eq!(bed.run(json!({"command": "echo next"})).await.outcome(), ("succeeded", 0, "next\n"), "{name}");
    }
}

/// Without what the outbox knew of a run, its spool still says whose it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_start_is_damaged_is_shipped_or_set_aside() {
    require!(Bwrap);
    let mut bed = Bed::with(StubOptions::full(), "heartbeat: {interval: 1s}\nlog: {chunk_bytes: 1000}\n");
    for lease in ["known", "unknown"] {
        bed.stub.fail(Endpoint::LogChunk, Fault::always(FaultKind::Status(503, None)));
        let id = bed.queue(json!({"command": "seq 1 1000; sleep 60"}));
        let spool = bed.dir.join(format!("w/.nexus/spool/{id}"));
        until("all that it prints is spooled", SOON, || {
            std::fs::metadata(spool.join("00000001.seg")).ok().filter(|file| file.len() > 3893)
        });
        bed.daemon.signal(Signal::KILL);
        bed.daemon.wait(SOON);
        let slots = bed.dir.join("w/.nexus/outbox/slots");
        let slot = slot_of(&slots, &id, "started").unwrap();
        let mut bytes = std::fs::read(&slots).unwrap();
        bytes[slot * 4096 + 200] ^= 1;
        std::fs::write(&slots, bytes).unwrap();
        bed.stub.mend(Endpoint::LogChunk);
        if lease == "known" {
            bed.daemon = start(&bed.dir);
            let ended = bed.ended(id.clone()).await;
            assert_eq!(ended.report.artifacts_manifest["reason"], "nexusd_restarted");
            assert_eq!(ended.stdout, (1..=1000).map(|n| format!("{n}\n")).collect::<String>());
            assert_eq!(ended.report.artifacts_manifest["log"]["complete"], true);
            assert_eq!(bed.run(json!({"command": "echo next"})).await.outcome(), ("succeeded", 0, "next\n"));
            assert!(!spool.exists());
        } else {
            let all = std::fs::read(spool.join("00000001.seg")).unwrap();
            std::fs::remove_file(spool.join("lease")).unwrap_or_default();
            bed.daemon = start(&bed.dir);
            let said = bed.daemon.text(Output::Stderr);
            let named = said.lines().any(|line| line.contains("ERROR") && line.contains(spool.to_str().unwrap()));
            assert!(named, "{said}");
            assert_eq!(std::fs::read(spool.join("00000001.seg.corrupt")).unwrap(), all);
        }
    }
}

/// Whatever becomes of the files of a killed daemon, the next one starts, says what it set aside, works and ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_starts_over_any_damage() {
    require!(Bwrap);
    let mut dice = Dice::announced("damage");
    let rounds = std::env::var("NEXUS_DAMAGE_ROUNDS").map_or(6, |rounds| rounds.parse().unwrap());
    let mut bed = Bed::with(
        StubOptions::full(),
        "max_concurrent_directives: 8\nshutdown_timeout: 500ms\nlog: {chunk_bytes: 1000}\n",
    );
    for round in 0..rounds {
        for endpoint in [Endpoint::LogChunk, Endpoint::Finished] {
            bed.stub.fail(endpoint, Fault::always(FaultKind::Status(503, None)));
        }
        let before = bed.stub.count(Endpoint::LogChunk);
        for command in ["seq 1 2000", "seq 1 2000; sleep 60", "seq 1 1000 >&2; sleep 60"] {
            bed.queue(json!({"command": command, "limits": {"max_output_bytes": 8000}}));
        }
        bed.stub.requested(Endpoint::LogChunk, before + 3, SOON).await;
        tokio::time::sleep(dice.time(Duration::from_millis(200))).await;
        bed.daemon.signal(Signal::KILL);
        bed.daemon.wait(SOON);
        let mut said = Vec::new();
        for _ in 0..=dice.below(4) {
            let all = files(&bed.dir.join("w/.nexus"));
            let path = &all[usize::try_from(dice.below(all.len() as u64)).unwrap()];
            said.push((damage(path, &mut dice), path.clone()));
        }
        for endpoint in [Endpoint::LogChunk, Endpoint::Finished] {
            bed.stub.mend(endpoint);
        }
        bed.daemon = start(&bed.dir);
        let ended = bed.run(json!({"command": "echo next"})).await;
        assert_eq!(ended.outcome(), ("succeeded", 0, "next\n"), "round {round}: {said:?}");
        bed.daemon.signal(Signal::TERM);
        assert!(bed.daemon.wait(SOON).success(), "round {round}: {said:?}");
        let words = bed.daemon.text(Output::Stderr);
        assert!(!words.contains("panicked"), "round {round}: {said:?}\n{words}");
        bed.daemon = start(&bed.dir);
    }
}

/// The files of the outbox and the spools, and their folders.
fn files(state: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![state.join("outbox"), state.join("spool")];
    while let Some(folder) = folders.pop() {
        found.push(folder.clone());
        for item in std::fs::read_dir(folder).into_iter().flatten() {
            let item = item.unwrap();
            match item.file_type().unwrap().is_dir() {
                true => folders.push(item.path()),
                false => found.push(item.path()),
            }
        }
    }
    found.retain(|path| std::fs::symlink_metadata(path).is_ok());
    found.sort();
    found
}

/// One of the things that can happen to a file.
fn damage(path: &Path, dice: &mut Dice) -> &'static str {
    let is_file = std::fs::symlink_metadata(path).unwrap().is_file();
    let bytes = if is_file { std::fs::read(path).unwrap() } else { Vec::new() };
    let at = if bytes.is_empty() { 0 } else { usize::try_from(dice.below(bytes.len() as u64)).unwrap() };
    let gone = |path: &Path| {
        std::fs::remove_dir_all(path).or_else(|_| std::fs::remove_file(path)).unwrap();
    };
    match dice.below(if bytes.is_empty() { 4 } else { 8 }) {
        0 => {
            gone(path);
            "gone"
        }
        1 => {
            gone(path);
            std::fs::create_dir(path).unwrap();
            std::fs::write(path.join("in it"), "x").unwrap();
            "a folder"
        }
        2 => {
            gone(path);
            std::os::unix::fs::symlink("/dev/zero", path).unwrap();
            "a link"
        }
        3 => {
            gone(path);
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
            "a pipe"
        }
        4 => {
            std::fs::write(path, &bytes[..at]).unwrap();
            "cut short"
        }
        5 => {
            std::fs::write(path, [&bytes[..at], &vec![0; bytes.len() - at]].concat()).unwrap();
            "zeros to the end"
        }
        6 => {
            std::fs::write(path, [&bytes[..], b"more"].concat()).unwrap();
            "longer"
        }
        _ => {
            let mut bytes = bytes;
            bytes[at] ^= 1 << dice.below(8);
            std::fs::write(path, bytes).unwrap();
            "a flipped bit"
        }
    }
}
