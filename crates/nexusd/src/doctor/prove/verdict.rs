//! From what was seen to rows. Pure.

use super::plan::{Class, Promise};
use crate::doctor::report::Row;

/// How one thing came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    /// It could be done.
    Open,
    /// It could not, for this reason.
    Shut(String),
    /// The host cannot keep it, so nothing runs that names it; why.
    Refused(String),
    /// Nobody can tell: it was not tried, or who tried it said nothing.
    Unknown(String),
}

/// One probe in the sandbox, and as a control without one.
#[derive(Debug, Clone)]
pub(super) struct Trial {
    pub(super) class: Class,
    pub(super) what: String,
    pub(super) inside: Seen,
    /// `None`: it has no control of its own.
    pub(super) outside: Option<Seen>,
}

impl Trial {
    /// The one trial of its class.
    pub(super) fn of_one(class: Class, inside: Seen, outside: Seen) -> Self {
        let what = match class {
            Class::Survivors => "a process that left its session outlived its command",
            Class::Memory => "more memory than was given",
            _ => "more processes than were given",
        };
        Self { class, what: what.to_owned(), inside, outside: Some(outside) }
    }
}

const MEND: &str = "take the profile out of supported_sandbox_profiles on this host until this is understood";

/// A class's row. A leak fails, and so does what was not tried; what holds, and holds without a sandbox as well, proves
/// nothing and is said.
pub(super) fn row(class: Class, promise: Promise, trials: &[Trial]) -> Row {
    let name = class.name();
    let of_class: Vec<&Trial> = trials.iter().filter(|trial| trial.class == class).collect();
    let open: Vec<&str> =
        of_class.iter().filter(|trial| trial.inside == Seen::Open).map(|trial| trial.what.as_str()).collect();
    match promise {
        Promise::None => return Row::skip(name, "not promised by this profile"),
        Promise::LeftOpen(why) => {
            let seen = if open.is_empty() { String::new() } else { format!("open: {}; ", open.join(", ")) };
            return Row::skip(name, format!("{seen}{why}"));
        }
        Promise::Held => {}
    }
    if !open.is_empty() {
        return Row::fail(name, format!("LEAK: {}", open.join(", ")), MEND);
    }
    let untold = of_class.iter().find_map(|trial| match &trial.inside {
        Seen::Unknown(why) => Some(format!("not proved: {}: {why}", trial.what)),
        Seen::Open | Seen::Shut(_) | Seen::Refused(_) => None,
    });
    if let Some(untold) = untold {
        return Row::fail(name, untold, "mend that, and prove it again");
    }
    let refused = of_class.iter().find_map(|trial| match &trial.inside {
        Seen::Refused(why) => {
            Some(format!("cannot be kept on this host, and a directive that names it is refused: {why}"))
        }
        Seen::Open | Seen::Shut(_) | Seen::Unknown(_) => None,
    });
    if let Some(refused) = refused {
        return Row::warn(name, refused, "nexusd doctor says what keeps limits here");
    }
    let controls: Vec<&Seen> = of_class.iter().filter_map(|trial| trial.outside.as_ref()).collect();
    let worked = controls.iter().filter(|seen| ***seen == Seen::Open).count();
    match (of_class.len(), worked) {
        (0, _) => Row::skip(name, "there is nothing of the kind here to reach for"),
        (tried, 0) => {
            let why = controls.iter().find_map(|seen| match seen {
                Seen::Shut(why) | Seen::Unknown(why) | Seen::Refused(why) => Some(format!(": {why}")),
                Seen::Open => None,
            });
            let why = why.unwrap_or_default();
            Row::skip(name, format!("{tried} held, which proves nothing: without a sandbox it fails as well{why}"))
        }
        (tried, worked) => {
            Row::pass(name, format!("{tried} held; {worked} of {} open without a sandbox", controls.len()))
        }
    }
}

/// What the helper printed of so many probes: `N open` or `N shut REASON`, a line each. `why` stands where it printed
/// nothing.
pub(super) fn answers(count: usize, stdout: &str, why: &str) -> Vec<Seen> {
    let said = |index: usize| {
        stdout.lines().find_map(|line| line.strip_prefix(&format!("{index} "))).map(|said| match said.split_once(' ') {
            None if said == "open" => Seen::Open,
            Some(("shut", reason)) => Seen::Shut(reason.to_owned()),
            _ => Seen::Unknown(format!("it said {said:?}")),
        })
    };
    (0..count).map(|index| said(index).unwrap_or_else(|| Seen::Unknown(why.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::report::State;

    fn trial(inside: Seen, outside: Option<Seen>) -> Trial {
        Trial { class: Class::HostFiles, what: "a file".to_owned(), inside, outside }
    }

    fn shut() -> Seen {
        Seen::Shut("No such file or directory".to_owned())
    }

    #[test]
    fn a_row_is_what_was_seen() {
        let open = || Seen::Open;
        let untold = || Seen::Unknown("it did not start".to_owned());
        let cases: Vec<(Promise, Vec<Trial>, State, &str)> = vec![
            (Promise::Held, vec![trial(shut(), Some(open()))], State::Pass, "1 held; 1 of 1 open without a sandbox"),
            (Promise::Held, vec![trial(open(), Some(open()))], State::Fail, "LEAK: a file"),
            // A leak is one whatever the control says, and beside others that hold.
            (Promise::Held, vec![trial(shut(), Some(open())), trial(open(), None)], State::Fail, "LEAK: a file"),
            (Promise::Held, vec![trial(untold(), Some(open()))], State::Fail, "not proved: a file: it did not start"),
            (Promise::Held, vec![trial(open(), None), trial(untold(), None)], State::Fail, "LEAK: a file"),
            (
                Promise::Held,
                vec![trial(shut(), Some(shut())), trial(shut(), None)],
                State::Skip,
                "2 held, which proves nothing: without a sandbox it fails as well: No such file or directory",
            ),
            (
                Promise::Held,
                vec![trial(Seen::Refused("no cgroups".to_owned()), Some(open()))],
                State::Warn,
                "cannot be kept on this host, and a directive that names it is refused: no cgroups",
            ),
            (Promise::Held, vec![], State::Skip, "there is nothing of the kind here to reach for"),
            (Promise::LeftOpen("as set"), vec![trial(open(), None)], State::Skip, "open: a file; as set"),
            (Promise::None, vec![trial(open(), None)], State::Skip, "not promised by this profile"),
        ];
        for (promise, trials, state, detail) in cases {
            let row = row(Class::HostFiles, promise, &trials);
            assert_eq!((row.state, row.detail.as_str()), (state, detail), "{promise:?} {trials:?}");
            assert_eq!(row.mend.is_some(), matches!(state, State::Fail | State::Warn), "{row:?}");
        }
        // Another class's leak is another row's.
        assert_eq!(row(Class::Memory, Promise::Held, &[trial(open(), None)]).state, State::Skip);
    }

    #[test]
    fn only_what_was_said_counts() {
        let seen = answers(12, "0 open\n1 shut Permission denied\n3 openly\n10 open\n 5 open\n6 shut\n", "killed");
        let killed = || Seen::Unknown("killed".to_owned());
        assert_eq!(seen[..3], [Seen::Open, Seen::Shut("Permission denied".to_owned()), killed()]);
        assert!(matches!(&seen[3], Seen::Unknown(said) if said.contains("openly")), "{:?}", seen[3]);
        assert!(matches!(&seen[6], Seen::Unknown(said) if said.contains("shut")), "{:?}", seen[6]);
        assert_eq!((&seen[10], &seen[5], &seen[11], seen.len()), (&Seen::Open, &killed(), &killed(), 12));
    }
}
