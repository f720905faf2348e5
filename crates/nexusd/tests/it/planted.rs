//! What one directive leaves in its facility for the daemon's own look at it, and for the next directive.
//!
//! Git executes what its configuration and attributes name; the daemon asks git for snapshots and diffs. Each of these
//! plants leaves a mark where it is executed: in a folder of the host that everybody may write, and in the workspace. None
//! may appear on the host; what appears in the workspace came from a sandbox without a network. Each is made beneath root's
//! daemon and beneath an ordinary user's, whose sandboxes have his own uid.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use serde_json::json;
use testkit::{StubOptions, WorkDir, require};

use crate::bed::{Bed, Ended, ORDINARY, nexusd, ordinary_user_s};

const REPOSITORY: &str = "git init -q -b main . && git config user.name t && git config user.email t@t && echo one > file && \
    git add file && git commit -qm first";

/// A daemon, and a folder of the host that every user of it may write.
struct Planted {
    bed: Bed,
    outside: tempfile::TempDir,
}

/// What is left in the workspace where a plant was executed.
const MARK: &str = "executed-in-the-workspace";

impl Planted {
    /// Beneath root's daemon, and beneath an ordinary user's.
    fn both() -> impl Iterator<Item = Self> {
        let keys = "supported_sandbox_profiles: [untrusted, host]\n";
        [false, true].into_iter().map(move |ordinary| {
            let outside = tempfile::tempdir().unwrap();
            std::fs::set_permissions(outside.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
            let bed = Bed::started_by(
                StubOptions::full(),
                keys,
                if ordinary { ordinary_user_s } else { |_: &WorkDir| nexusd() },
            );
            let owner = std::fs::metadata(bed.dir.join("w/.nexus")).unwrap().uid();
            assert_eq!(owner, if ordinary { ORDINARY } else { 0 }, "whose daemon it is");
            Self { bed, outside }
        })
    }

    /// A program, made in the workspace as `plant`: it marks both places and does no more.
    fn program(&self) -> String {
        let outside = self.outside.path().display();
        format!(
            "printf '#!/bin/sh\\ntouch {outside}/executed-on-the-host /workspace/{MARK} 2>/dev/null\\n\
             ls /etc/shadow /root > /workspace/{MARK} 2>/dev/null\\ncat\\n' > plant && chmod +x plant"
        )
    }

    /// A repository, then one directive that plants something, and a second that changes a file and whose diff is asked for.
    async fn after(&self, facility: &str, plant: &str) -> Ended {
        let (mine, always) = (json!({ "id": facility }), json!({ "always_diff": true }));
        let script = format!("{REPOSITORY} && {} && {plant}", self.program());
        let made = self.bed.run(json!({ "facility": mine, "command": script })).await;
        assert_eq!(made.report.exit_code, Some(0), "{}", made.stderr);
        let ended = self.bed.run(json!({ "facility": mine, "artifacts": always, "command": "echo two >> file" })).await;
        assert_eq!(ended.report.exit_code, Some(0), "{}", ended.stderr);
        ended
    }

    fn executed_on_the_host(&self) -> bool {
        self.outside.path().join("executed-on-the-host").exists()
    }

    /// Whether the plant was executed at all, and saw a file of the host where it was.
    fn executed_inside(&self, facility: &str) -> Option<String> {
        std::fs::read_to_string(self.bed.dir.join("w").join(facility).join(MARK)).ok()
    }

    /// Nothing was executed on the host. The control: the same git, on the host, executes the plant.
    fn held(&self, facility: &str, control: &[&str]) {
        assert!(!self.executed_on_the_host(), "{facility}");
        if let Some(seen) = self.executed_inside(facility) {
            assert_eq!(seen, "", "{facility}: it was executed where the host's files are");
        }
        let folder = self.bed.dir.join("w").join(facility);
        let plant = folder.join("plant");
        let script = format!("#!/bin/sh\ntouch {}/executed-on-the-host\ncat\n", self.outside.path().display());
        std::fs::write(&plant, script).unwrap();
        // As the facility's owner would, whom git trusts there.
        let mut git = std::process::Command::new("git");
        git.args(["-c", "safe.directory=*"]).args(control).current_dir(&folder);
        drop(git.env("PATH", format!("{}:/usr/bin:/bin", folder.display())).output().unwrap());
        assert!(self.executed_on_the_host(), "the control of {facility}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_monitor_of_the_file_system_is_not_run_on_the_host() {
    require!(Root, Bwrap, Git);
    for planted in Planted::both() {
        planted.after("f", "git config core.fsmonitor \"$PWD/plant\"").await;
        let folder = planted.bed.dir.join("w/f").display().to_string();
        planted.held("f", &["-c", &format!("core.fsmonitor={folder}/plant"), "status"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_external_diff_is_not_run() {
    require!(Root, Bwrap, Git);
    for planted in Planted::both() {
        let ended = planted
            .after("f", "git config diff.external /workspace/plant && git config diff.x.command /workspace/plant && echo '* diff=x' > .gitattributes")
            .await;
        assert!(ended.report.diff_base64.is_some(), "the control: there is a diff: {}", ended.stderr);
        assert_eq!(planted.executed_inside("f"), None, "not even in the sandbox");
        planted.held("f", &["-c", "diff.x.command=./plant", "diff"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_conversion_is_not_run() {
    require!(Root, Bwrap, Git);
    for planted in Planted::both() {
        planted.after("f", "git config diff.x.textconv /workspace/plant && echo 'file diff=x' > .gitattributes").await;
        assert_eq!(planted.executed_inside("f"), None, "not even in the sandbox");
        planted.held("f", &["-c", "diff.x.textconv=./plant", "diff"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_of_contents_is_not_run() {
    require!(Root, Bwrap, Git);
    for planted in Planted::both() {
        planted.after("f", "git config filter.x.clean /workspace/plant && echo 'file filter=x' > .gitattributes").await;
        assert_eq!(planted.executed_inside("f"), None, "not even in the sandbox");
        planted.held("f", &["-c", "filter.x.clean=./plant", "add", "file"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_are_not_run_on_the_host() {
    require!(Root, Bwrap, Git);
    for planted in Planted::both() {
        let all = "for hook in post-index-change post-checkout reference-transaction pre-commit fsmonitor-watchman; do \
            cp plant .git/hooks/$hook; done; git config core.hooksPath .git/hooks";
        planted.after("f", all).await;
        std::os::unix::fs::symlink("plant", planted.bed.dir.join("w/f/pre-commit")).unwrap();
        planted.held("f", &["-c", "core.hooksPath=.", "commit", "-qam", "second"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submodule_s_configuration_is_not_run_on_the_host() {
    require!(Root, Bwrap, Git);
    for planted in Planted::both() {
        let plant = "git init -q -b main sub && git -C sub -c user.name=t -c user.email=t@t commit -q --allow-empty -m s && \
            git -C sub config core.fsmonitor /workspace/plant && git -C sub config filter.x.clean /workspace/plant && \
            git -c protocol.file.allow=always submodule --quiet add ./sub sub && git commit -qm sub && echo dirty > sub/new";
        planted.after("f", plant).await;
        let folder = planted.bed.dir.join("w/f").display().to_string();
        planted.held("f", &["-C", "sub", "-c", &format!("core.fsmonitor={folder}/plant"), "status"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_git_folder_that_is_a_link_out_is_not_looked_at_on_the_host() {
    require!(Root, Bwrap, Git);
    for planted in Planted::both() {
        let other = planted.outside.path().join("repository");
        let make = format!("git init -q -b main {0} && touch {0}/untouched", other.display());
        assert!(std::process::Command::new("sh").args(["-c", &make]).status().unwrap().success());
        let before = std::fs::read_dir(other.join(".git")).unwrap().count();
        let link = format!("ln -s {}/.git .git && {}", other.display(), planted.program());
        let made = planted.bed.run(json!({ "facility": { "id": "f" }, "command": link })).await;
        assert_eq!(made.report.exit_code, Some(0), "{}", made.stderr);
        let fields =
            json!({ "facility": { "id": "f" }, "artifacts": { "always_diff": true }, "command": "echo x > y" });
        let ended = planted.bed.run(fields).await;
        assert!(ended.stderr.contains("no diff of the work tree"), "{}", ended.stderr);
        assert_eq!(std::fs::read_dir(other.join(".git")).unwrap().count(), before);
    }
}

/// By design a facility belongs to the directives that work in it: what one leaves, the next finds. What it does not do
/// is reach the next one by the environment, which is built from nothing.
#[tokio::test(flavor = "multi_thread")]
async fn start_up_files_reach_the_next_directive_by_the_workspace_alone() {
    require!(Root, Bwrap);
    for planted in Planted::both() {
        let leave = "for file in .bashrc .profile .bash_profile .bash_login .zshenv .env; do \
            echo 'echo planted >&2; touch /workspace/started' > $file; done; \
            echo /workspace/evil.so > ld.so.preload; export LD_PRELOAD=/workspace/evil.so BASH_ENV=/workspace/.bashrc ENV=/workspace/.env";
        let look = "env | grep -E '^(LD_|BASH_ENV|ENV=)'; ls started /etc/ld.so.preload 2>/dev/null; echo looked";
        for shell in ["/bin/sh", "/bin/bash"] {
            let facility = json!({ "id": "f" });
            let left = planted.bed.run(json!({ "facility": facility, "shell": shell, "command": leave })).await;
            assert_eq!(left.report.exit_code, Some(0), "{}", left.stderr);
            let next = planted.bed.run(json!({ "facility": facility, "shell": shell, "command": look })).await;
            assert_eq!(next.outcome(), ("succeeded", 0, "looked\n"), "{}", next.stderr);
            // The control, and what is documented: HOME is the workspace, so a shell that asks for them gets them.
            let asked = "bash --login -c true; ls started; rm started";
            let asks = planted.bed.run(json!({ "facility": facility, "shell": shell, "command": asked })).await;
            assert_eq!(asks.stdout, "started\n", "{}", asks.stderr);
        }
    }
}
