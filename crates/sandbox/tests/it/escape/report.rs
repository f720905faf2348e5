//! `docs/escape-report.md`: the attacks, what holds them, and what becomes of them when a layer is left out.
//!
//! The text is a function of the table and of verdicts. The committed one is written with the verdicts that the table
//! promises, and says nothing that depends on a machine; `make escape-report` measures every one of them.

use std::fmt::Write;
use std::path::PathBuf;

use super::ALL;
use super::attack::{Attack, ForUser, Layer};
use super::scene::Setting;

/// Under what an attack is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    In(Setting),
    /// The host's `/usr` and root's daemon, these layers left out.
    Without(Vec<Layer>),
}

/// Whether an attack gets what it wants, as the table promises.
pub(crate) fn promised(attack: &Attack, case: &Case) -> bool {
    match case {
        Case::In(setting) => setting.ordinary && matches!(attack.user, ForUser::Nothing(_)),
        Case::Without(layers) => attack.held_by.iter().all(|layer| layers.contains(layer)),
    }
}

/// All of an attack's layers left out at once, where there are several and each can be.
pub(crate) fn together(attack: &Attack) -> Option<Case> {
    let all = attack.held_by.len() > 1 && attack.held_by.iter().all(|layer| Layer::KNOCKABLE.contains(layer));
    all.then(|| Case::Without(attack.held_by.to_vec()))
}

const INTRODUCTION: &str = "\
# The attacks on the sandbox

This page is made by `make escape-report WRITE=1` from the attacks in `crates/sandbox/tests/it/escape`; `make escape-report`
makes every one of them anew and says where this page is not true. The attacks themselves are tests of `make test`: one
test each, in the real sandbox, with a positive control beside it (the same code without the sandbox, or at something that
it may do). Each is made in four settings: the host's `/usr` or a distribution's root directory, beneath root's daemon or an
ordinary user's, who has no usable cgroups.

";

const MATRIX: &str = "\
## With a layer left out

`make escape-report KNOCKOUT=LAYER` leaves one layer out, in builds for tests alone: `seccomp`, the system-call filter;
`userns`, the ban on further user namespaces; `etc`, the synthetic `/etc`; `proc`, the masks in `/proc`; `net`, the network
namespace; `cgroup`, its limits; `uid`, the change to an unprivileged uid. The setting is the host's `/usr` and root's daemon. An attack
that the layer holds alone is then **broken**; one that another layer holds too stays held. The last column leaves out all
layers that hold the attack, where each can be. Attacks that are held in every column are not listed.

";

/// The page, for these verdicts.
pub(crate) fn page(broken: impl Fn(&Attack, &Case) -> bool) -> String {
    let count: usize = ALL.iter().map(|family| family.len()).sum();
    let mut page = format!("{INTRODUCTION}{count} attacks in {} families.\n", ALL.len());
    for attacks in ALL {
        let Some(first) = attacks.first() else { continue };
        writeln!(page, "\n## {}\n", first.family.heading()).unwrap();
        page.push_str("| attack | what it does | held by | verdict | an ordinary user without cgroups |\n");
        page.push_str("| --- | --- | --- | --- | --- |\n");
        for attack in *attacks {
            let any = |ordinary| {
                let settings = Setting::ALL.into_iter().filter(|setting| setting.ordinary == ordinary);
                let broken = settings.map(Case::In).filter(|case| broken(attack, case)).count() > 0;
                if broken { "**broken**" } else { "held" }
            };
            let user = match attack.user {
                ForUser::Same => any(true).to_owned(),
                ForUser::Otherwise(how) => format!("{}: {how}", any(true)),
                ForUser::Nothing(how) => format!("{}, not promised: {how}", any(true)),
            };
            let layers: Vec<_> = attack.held_by.iter().map(|layer| layer.name()).collect();
            let (name, what) = (attack.name, attack.what);
            writeln!(page, "| `{name}` | {what} | {} | {} | {user} |", layers.join(", "), any(false)).unwrap();
        }
    }
    page.push('\n');
    page.push_str(MATRIX);
    let heads: Vec<_> = Layer::KNOCKABLE.iter().map(|layer| layer.name()).collect();
    writeln!(page, "| attack | {} | all of its layers |", heads.join(" | ")).unwrap();
    writeln!(page, "| --- |{}", " --- |".repeat(heads.len() + 1)).unwrap();
    for attack in ALL.iter().copied().flatten() {
        let cell = |case: &Case| if broken(attack, case) { "**broken**" } else { "held" };
        let mut row: Vec<_> = Layer::KNOCKABLE.iter().map(|layer| cell(&Case::Without(vec![*layer]))).collect();
        row.push(together(attack).as_ref().map_or("", cell));
        if row.contains(&"**broken**") {
            let family = attack.family.heading();
            writeln!(page, "| {family}: `{}` | {} |", attack.name, row.join(" | ")).unwrap();
        }
    }
    page
}

pub(crate) fn path() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/escape-report.md"))
}

#[test]
fn the_committed_page_is_what_the_table_promises() {
    let committed = std::fs::read_to_string(path()).unwrap_or_default();
    assert!(committed == page(promised), "docs/escape-report.md is stale: make escape-report WRITE=1");
}

#[test]
fn every_family_has_two_attacks_and_no_test_has_two_names() {
    let mut names: Vec<_> =
        ALL.iter().copied().flatten().map(|attack| (attack.family.heading(), attack.name)).collect();
    assert!(names.len() >= 60, "{} attacks", names.len());
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    for family in ALL {
        assert!(family.len() >= 2, "{}", family[0].family.heading());
        assert!(family.iter().all(|attack| attack.family == family[0].family && !attack.held_by.is_empty()));
    }
}
