//! Fence or watch: which of the two keeps a disk limit.

/// Numbers of projects that Nexus gives away: far from those that people choose, and enough of them.
pub(super) const FIRST_PROJECT: u32 = 0x4E00_0000;
pub(super) const PROJECTS: u32 = 1 << 24;

/// What decides it.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    /// The folder is a facility beneath `work_dir`. A folder of the user's own (`nexusd run --facility`) is not made a
    /// project: files could not be moved into it any more.
    pub(super) persistent: bool,
    /// The command runs as root.
    pub(super) as_root: bool,
    /// The daemon does.
    pub(super) by_root: bool,
    /// Whether the file system keeps the limits of projects, or why that is not known.
    pub(super) enforced: Result<bool, String>,
    /// The project of the folder; 0 is none.
    pub(super) project: Result<u32, String>,
}

/// What keeps the limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    /// The quota of the project that the facility is.
    Fence {
        /// Its number.
        project: u32,
    },
    /// The quota of a project that the facility becomes.
    NewFence,
    /// The watch, and why.
    Watch(String),
}

/// Whether a project is one of those that Nexus gives away.
pub(super) fn is_ours(project: u32) -> bool {
    (FIRST_PROJECT..FIRST_PROJECT + PROJECTS).contains(&project)
}

pub(super) fn choose(facts: &Facts) -> Choice {
    let watch = |why: &str| Choice::Watch(why.to_owned());
    if !facts.persistent {
        return watch("the folder is no facility of work_dir");
    }
    if !facts.by_root {
        return watch("nexusd is not root");
    }
    if facts.as_root {
        return watch("the command runs as root, which quotas do not bind");
    }
    match (&facts.enforced, &facts.project) {
        (Err(why), _) => Choice::Watch(format!("the file system of work_dir keeps no project quotas: {why}")),
        (Ok(false), _) => watch("the file system of work_dir is not mounted with prjquota"),
        (_, Err(why)) => Choice::Watch(format!("the project of the facility cannot be read: {why}")),
        (Ok(true), Ok(0)) => Choice::NewFence,
        (Ok(true), Ok(project)) if is_ours(*project) => Choice::Fence { project: *project },
        (Ok(true), Ok(project)) => {
            Choice::Watch(format!("the facility is in project {project}, which is not nexusd's"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_is_for_facilities_of_root_daemons_with_quotas_and_for_commands_that_are_not_root() {
        let good = Facts { persistent: true, as_root: false, by_root: true, enforced: Ok(true), project: Ok(0) };
        let fence = |project| Choice::Fence { project };
        assert_eq!(choose(&good), Choice::NewFence);
        let in_project = |project| Facts { project: Ok(project), ..good.clone() };
        assert_eq!(choose(&in_project(FIRST_PROJECT)), fence(FIRST_PROJECT));
        assert_eq!(choose(&in_project(FIRST_PROJECT + PROJECTS - 1)), fence(FIRST_PROJECT + PROJECTS - 1));

        let no = || "no".to_owned();
        for (facts, part) in [
            (Facts { persistent: false, ..good.clone() }, "no facility"),
            (Facts { as_root: true, ..good.clone() }, "runs as root"),
            (Facts { by_root: false, ..good.clone() }, "nexusd is not root"),
            (Facts { enforced: Ok(false), ..good.clone() }, "not mounted with prjquota"),
            (Facts { enforced: Err(no()), ..good.clone() }, "keeps no project quotas: no"),
            (Facts { project: Err(no()), ..good.clone() }, "cannot be read: no"),
            (in_project(FIRST_PROJECT - 1), "not nexusd's"),
            (in_project(FIRST_PROJECT + PROJECTS), "not nexusd's"),
            (in_project(1), "project 1"),
        ] {
            let Choice::Watch(why) = choose(&facts) else { panic!("{facts:?} is no case for a fence") };
            assert!(why.contains(part), "{why}");
        }
    }
}
