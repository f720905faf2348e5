//! `retention.*`: facilities go when they have had their time, and none that is in use.

use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use serde_json::json;
use testkit::StubOptions;
use testkit::wait::until;

use crate::bed::{Bed, SOON, start};

/// As if its last use had been an hour ago, where it is there. A directive that is just being let go may touch it after that.
fn age(bed: &Bed, id: &str) {
    let lock = bed.dir.join("w/.nexus/locks").join(id);
    let old = SystemTime::now() - Duration::from_secs(3600);
    if let Ok(lock) = std::fs::File::options().write(true).open(&lock) {
        lock.set_modified(old).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_facility_that_nothing_uses_goes_and_one_in_use_stays() {
    let keys = "supported_sandbox_profiles: [host]\nmax_concurrent_directives: 4\nretention: {facility_ttl: 1m}\n";
    let bed = Bed::with(StubOptions::full(), keys);
    let held = bed.queue(json!({
        "facility": { "id": "held" },
        "sandbox_profile": "host",
        "command": "echo kept > file; until test -e ../go; do sleep 0.05; done; cat file",
    }));
    for id in ["idle", "fresh"] {
        let ended =
            bed.run(json!({ "facility": { "id": id }, "sandbox_profile": "host", "command": "echo > f" })).await;
        assert_eq!(ended.outcome(), ("succeeded", 0, ""));
    }
    let folder = |id: &str| bed.dir.join("w").join(id);
    std::fs::create_dir(folder("foreign")).unwrap();
    until("the other runs", SOON, || folder("held").join("file").exists().then_some(()));
    let goes = |id: &str| {
        age(&bed, id);
        !folder(id).exists()
    };
    age(&bed, "held");
    until("what is unused goes", SOON, || goes("idle").then_some(()));
    assert!(folder("held").exists(), "a directive works there");
    bed.dir.write("w/go", "");
    assert_eq!(bed.ended(held).await.outcome(), ("succeeded", 0, "kept\n"));
    let again = bed.run(json!({ "facility": { "id": "idle" }, "sandbox_profile": "host", "command": "ls" })).await;
    assert_eq!(again.outcome(), ("succeeded", 0, ""), "it is made anew, empty");
    until("what is unused goes again", SOON, || goes("idle").then_some(()));
    assert!(folder("held").exists(), "its time begins with the end of its last use");
    assert!(folder("fresh").exists() && folder("foreign").exists());
    let removed = bed.dir.join("w/.nexus/removed");
    until("nothing of them stays", SOON, || (std::fs::read_dir(&removed).unwrap().count() == 0).then_some(()));
    assert_eq!(bed.stub.violations(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_recently_used_make_room_at_a_start() {
    let keys = "supported_sandbox_profiles: [host]\n";
    let mut bed = Bed::with(StubOptions::full(), keys);
    for id in ["first", "second", "third"] {
        let command = "head -c 3000000 /dev/urandom > file";
        let id = bed.queue(json!({ "facility": { "id": id }, "sandbox_profile": "host", "command": command }));
        assert_eq!(bed.ended(id).await.outcome(), ("succeeded", 0, ""));
    }
    let again = bed.queue(json!({ "facility": { "id": "first" }, "sandbox_profile": "host", "command": "ls" }));
    assert_eq!(bed.ended(again).await.outcome(), ("succeeded", 0, "file\n"));
    let folder = |id: &str| bed.dir.join("w").join(id);
    assert!(["first", "second", "third"].iter().all(|id| folder(id).exists()), "without the key all stay");
    bed.daemon.signal(Signal::TERM);
    bed.daemon.wait(SOON);
    let config = std::fs::read_to_string(bed.dir.join("config.yaml")).unwrap();
    bed.dir.write("config.yaml", format!("{config}retention: {{max_total_bytes: 7000000}}\n"));
    bed.daemon = start(&bed.dir);
    until("the least recently used goes", SOON, || (!folder("second").exists()).then_some(()));
    assert!(folder("first").exists() && folder("third").exists());
}
