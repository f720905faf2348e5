//! Snapshots and diffs: what a directive changed, whatever it left behind for the git that looks.

use std::path::PathBuf;

use conduits::FinishedRequest;
use serde_json::json;
use testkit::require;

use crate::bed::{Bed, Ended};

/// Made in the facility by a directive of its own.
const REPOSITORY: &str = "git init -q -b main . && printf 'one\\n' > tracked && printf 'x\\n' > gone && echo '*.tmp' > .gitignore \
    && git add . && git -c user.name=t -c user.email=t@t commit -qm first && git rev-parse HEAD";

async fn changed(bed: &Bed, facility: &str, command: &str) -> Ended {
    bed.run(json!({
        "facility": { "id": facility }, "command": command, "artifacts": { "always_diff": true },
        "limits": { "max_diff_bytes": 100_000 },
    }))
    .await
}

fn diff(report: &FinishedRequest) -> String {
    String::from_utf8(report.diff_base64.clone().unwrap_or_default()).unwrap()
}

fn facility(bed: &Bed, id: &str) -> PathBuf {
    bed.dir.join("w").join(id)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_diff_is_of_the_work_tree_as_the_run_found_and_left_it() {
    require!(Bwrap, Git);
    let bed = Bed::new();
    let head = bed.run(json!({ "facility": { "id": "f" }, "command": REPOSITORY })).await.stdout;
    // Dirty before the run, so not of the run.
    let earlier = bed.run(json!({ "facility": { "id": "f" }, "command": "echo earlier > earlier" })).await;
    assert_eq!(earlier.report.diff_base64, None, "nobody asked for a diff");
    let index = std::fs::read(facility(&bed, "f").join(".git/index")).unwrap();
    let script = "echo two >> tracked; rm gone; echo new > new; echo no > a.tmp; mkdir -p .nexus; echo no > .nexus/x; \
        git init -q nested; git init -q other; cd other; git -c user.name=t -c user.email=t@t commit -q --allow-empty -m x";
    let ended = changed(&bed, "f", script).await;
    assert_eq!(ended.report.exit_code, Some(0), "{}", ended.stderr);
    let text = diff(&ended.report);
    let files: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("diff --git a/")).collect();
    assert_eq!(files, ["gone b/gone", "new b/new", "other b/other", "tracked b/tracked"], "{text}\n{}", ended.stderr);
    assert!(text.contains("+two\n") && text.contains("+new\n") && text.contains("-x\n"), "{text}");
    let head = Some(head.trim().to_owned());
    assert_eq!((&ended.report.snapshot_before, &ended.report.snapshot_after), (&head, &head));
    // A repository without a commit is nothing that a diff could name: that is said.
    assert!(ended.stderr.contains("not whole") && ended.stderr.contains("nested"), "{}", ended.stderr);
    assert_eq!(std::fs::read(facility(&bed, "f").join(".git/index")).unwrap(), index, "the repository's own index");
    let same = changed(&bed, "f", "true").await;
    assert_eq!((same.report.diff_base64, same.report.diff_truncated), (None, false));
    let long = changed(&bed, "f", "seq 100000 > long").await;
    assert!(long.report.diff_truncated);
    let text = diff(&long.report);
    assert!(
        text.len() <= 100_000 && text.starts_with("diff --git a/long") && text.ends_with("+100000\n"),
        "{text:.99}"
    );
}

/// Each of these makes git run a program in the directive's repository; the program leaves a file and kills its git.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_directive_left_runs_in_the_look_at_it() {
    require!(Bwrap, Git);
    let bed = Bed::new();
    let planted = [
        ("fsmonitor", "git config core.fsmonitor /workspace/evil"),
        (
            "hooks",
            "mkdir h; for h in post-index-change pre-commit post-checkout reference-transaction; do cp evil h/$h; done; \
            git config core.hooksPath /workspace/h; cp h/* .git/hooks/",
        ),
        (
            "filter",
            "echo '* filter=f' > .gitattributes; git config filter.f.clean /workspace/evil; git config filter.f.required true",
        ),
        ("process", "echo '* filter=f' > .git/info/attributes; git config filter.f.process /workspace/evil"),
        (
            "external",
            "echo '* diff=d' > .gitattributes; git config diff.d.command /workspace/evil; git config diff.external /workspace/evil",
        ),
        ("textconv", "echo '* diff=d' > .gitattributes; git config diff.d.textconv /workspace/evil"),
        ("include", "printf '[core]\\n fsmonitor = /workspace/evil\\n' > inc; git config include.path ../inc"),
        (
            "submodule",
            "git -c protocol.file.allow=always submodule --quiet add ./. sub; \
            git -c user.name=t -c user.email=t@t commit -qm sub; git -C sub config core.fsmonitor /workspace/evil; \
            printf '[submodule \"sub\"]\\n path = sub\\n url = ./.\\n ignore = none\\n' > .gitmodules; echo x >> sub/tracked",
        ),
        ("index", "echo hidden >> tracked; git update-index --assume-unchanged tracked"),
    ];
    for (name, script) in planted {
        assert_eq!(
            bed.run(json!({ "facility": { "id": name }, "command": REPOSITORY })).await.report.exit_code,
            Some(0)
        );
        let evil = r#"printf '#!/bin/sh\ntouch /workspace/ran\nkill -9 $PPID\n' > evil; chmod +x evil"#;
        let ended = changed(&bed, name, &format!("{evil}; {script}; echo changed > witness; rm -f ran")).await;
        assert_eq!(ended.report.exit_code, Some(0), "{name}: {}", ended.stderr);
        let text = diff(&ended.report);
        assert!(text.contains("+changed\n"), "{name}: no diff: {}", ended.stderr);
        assert!(name != "index" || text.contains("+hidden\n"), "the index hid a change: {text}");
        assert!(!facility(&bed, name).join("ran").exists(), "{name}: a program of the directive ran");
        // And in the look that the next run begins with.
        let again = changed(&bed, name, "echo more > witness").await;
        assert!(diff(&again.report).contains("+more\n"), "{name}: {}", again.stderr);
        assert!(!facility(&bed, name).join("ran").exists(), "{name}: a program of the directive ran before the next");
    }
    // Control: git itself does run them, by whoever asks it in that folder.
    for name in ["fsmonitor", "filter", "submodule"] {
        bed.run(json!({ "facility": { "id": name }, "command": "touch *; git status; git add -A; true" })).await;
        assert!(facility(&bed, name).join("ran").exists(), "{name} was never a danger");
    }
}

/// The facility of profile host is the daemon's own, and closed to everybody else: git's sandbox gets it lent.
#[tokio::test(flavor = "multi_thread")]
async fn a_directive_on_the_host_has_its_diff_too() {
    require!(Bwrap, Git);
    let bed = Bed::new();
    let on_host = |command: &str| {
        json!({
            "facility": { "id": "h" }, "command": command, "sandbox_profile": "host", "artifacts": { "always_diff": true },
        })
    };
    assert_eq!(bed.run(on_host(REPOSITORY)).await.report.exit_code, Some(0));
    let ended = bed.run(on_host("echo two >> tracked; echo new > new")).await;
    let text = diff(&ended.report);
    assert!(text.contains("+two\n") && text.contains("+new\n"), "{text}\n{}", ended.stderr);
    assert_eq!(ended.stderr, "");
    // What git wrote is the daemon's like all the rest.
    let owner = |path: &std::path::Path| std::os::unix::fs::MetadataExt::uid(&std::fs::symlink_metadata(path).unwrap());
    let mut left = vec![facility(&bed, "h")];
    while let Some(path) = left.pop() {
        assert_eq!(owner(&path), rustix::process::geteuid().as_raw(), "{}", path.display());
        if path.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
}
