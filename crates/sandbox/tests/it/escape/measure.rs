//! Every attack, in every setting and with every layer left out: `make escape-report`, in a build with `knockout`.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::ALL;
use super::attack::{Attack, Layer, Verdict};
use super::report::{Case, page, path, promised, together};
use super::scene::Setting;
use super::trial::made;

/// As many at once: most of the time of each is waiting.
const AT_ONCE: usize = 4;

type Verdicts = BTreeMap<(&'static str, &'static str, String), Result<Verdict, String>>;

/// Every case of an attack.
fn cases(attack: &Attack) -> Vec<Case> {
    let settings = Setting::ALL.map(Case::In);
    let singles = Layer::KNOCKABLE.map(|layer| Case::Without(vec![layer]));
    settings.into_iter().chain(singles).chain(together(attack)).collect()
}

fn key(attack: &Attack, case: &Case) -> (&'static str, &'static str, String) {
    (attack.family.heading(), attack.name, format!("{case:?}"))
}

fn measure(attack: &Attack, case: &Case) -> Result<Verdict, String> {
    let usual = Setting { rootfs: false, ordinary: false };
    let made = std::panic::catch_unwind(AssertUnwindSafe(|| match case {
        Case::In(setting) => made(attack, *setting, &[]),
        Case::Without(layers) => made(attack, usual, layers),
    }));
    made.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
    })
}

fn measure_all(work: &[(&'static Attack, Case)]) -> Verdicts {
    let (next, verdicts) = (AtomicUsize::new(0), Mutex::new(Verdicts::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((attack, case)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let verdict = measure(attack, case);
                    verdicts.lock().unwrap().insert(key(attack, case), verdict);
                }
            });
        }
    });
    verdicts.into_inner().unwrap()
}

/// The layer that `KNOCKOUT` names.
fn asked_for() -> Option<Layer> {
    let name = std::env::var("KNOCKOUT").ok().filter(|name| !name.is_empty())?;
    let layer = Layer::KNOCKABLE.into_iter().find(|layer| layer.name() == name);
    Some(layer.unwrap_or_else(|| panic!("KNOCKOUT={name}: it takes {:?}", Layer::KNOCKABLE.map(Layer::name))))
}

#[test]
#[ignore = "make escape-report runs it: some minutes"]
fn every_verdict() {
    testkit::require!(Root, Bwrap, Compiler, Rootfs);
    let only = asked_for().map(|layer| Case::Without(vec![layer]));
    let attacks = || ALL.iter().copied().flatten();
    let wanted = |case: &Case| only.as_ref().is_none_or(|only| only == case);
    let work: Vec<_> = attacks().flat_map(|attack| cases(attack).into_iter().map(move |case| (attack, case))).collect();
    let work: Vec<_> = work.into_iter().filter(|(_, case)| wanted(case)).collect();
    let verdicts = measure_all(&work);
    let mut wrong = Vec::new();
    for (attack, case) in &work {
        let (verdict, promised) = (&verdicts[&key(attack, case)], promised(attack, case));
        let name = format!("{}: {}", attack.family.heading(), attack.name);
        match verdict {
            Ok(verdict @ Verdict::Absent(_)) if promised => {
                println!("{name}, {case:?}: cannot be told on this kernel: {verdict:?}");
            }
            Ok(verdict) if verdict.is_broken() == promised => {
                if only.is_some() {
                    println!("{name}: {verdict:?}");
                }
            }
            other => wrong.push(format!("{name}, {case:?}: {other:?}, but promised is {}", told(promised))),
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), work.len(), wrong.join("\n"));
    if only.is_none() {
        let text = page(|attack, case| match &verdicts[&key(attack, case)] {
            Ok(Verdict::Absent(_)) => promised(attack, case),
            verdict => verdict.as_ref().is_ok_and(Verdict::is_broken),
        });
        println!("{text}");
        if std::env::var("WRITE").is_ok_and(|write| write == "1") {
            std::fs::write(path(), &text).unwrap();
        }
        assert!(
            std::fs::read_to_string(path()).unwrap_or_default() == text,
            "docs/escape-report.md is not this: WRITE=1"
        );
    }
}

fn told(broken: bool) -> &'static str {
    if broken { "broken" } else { "held" }
}
