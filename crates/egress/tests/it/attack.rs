//! Attacks on the proxy over a real network: the proxy and the attacker in one namespace, a name server and origins that
//! would answer to anybody in another.
//!
//! Each case makes one attack and looks for its effect from outside: what arrived at the far side, what the client was
//! told, what the proxy counted. After each case its positive control is made: the same way out, asked for what is
//! allowed, still works and arrives. A case names the layer that holds it, where it is one that can be left out
//! (`knockouts`).

mod addresses;
mod framing;
mod ground;
mod hosts;
#[cfg(feature = "knockout")]
mod knockouts;
mod names;
mod origins;
mod rebinding;
mod sni;
mod socks;
mod tunnels;

use std::collections::BTreeMap;

use ground::{Ground, Until};

use crate::bed::refusal;
use crate::netns::can_make_namespaces;

/// What holds a case, where a test build can leave it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layer {
    Addresses,
    Hello,
    Names,
    /// The parsers, the relay, the bounds: nothing that can be left out.
    Always,
}

/// What is done, and what has to come of it.
pub(crate) enum Attack {
    /// One connection that says this; it is refused with this reason and closed, and nothing arrives.
    Http { say: Vec<u8>, reason: &'static str },
    /// One connection that says this; it is answered so to the last byte and closed, and nothing arrives.
    Socks { say: Vec<u8>, answer: Vec<u8> },
    /// A tunnel that stands; the bytes sent into it, a packet each, end it, and none of them arrives.
    Tunnel { to: &'static str, packets: Vec<Vec<u8>> },
    /// One connection that says this is answered with a text of which this holds.
    Answered { say: Vec<u8>, holds: Holds },
    /// Something of its own.
    Scene(fn(&Ground) -> Scene<'_>),
}

pub(crate) type Holds = fn(&str) -> bool;

pub(crate) type Scene<'a> = std::pin::Pin<Box<dyn Future<Output = Result<(), String>> + 'a>>;

pub(crate) struct Case {
    family: &'static str,
    name: String,
    layer: Layer,
    attack: Attack,
}

impl Case {
    fn new(family: &'static str, name: impl Into<String>, layer: Layer, attack: Attack) -> Self {
        Self { family, name: name.into(), layer, attack }
    }
}

/// A part of the suite: cases that are made one after the other over one network.
type Part = fn() -> Vec<Case>;

const PARTS: &[(&str, Part)] = &[
    ("hosts", hosts::cases),
    ("addresses", addresses::cases),
    ("names", names::cases),
    ("rebinding", rebinding::cases),
    ("framing", framing::cases),
    ("origins", origins::cases),
    ("tunnels", tunnels::cases),
    ("socks", socks::cases),
    ("sni", sni::cases),
];

impl Attack {
    async fn make(&self, ground: &Ground) -> Result<(), String> {
        let before = (ground.arrived().len(), ground.denied());
        let one_denial = || match ground.denied() - before.1 {
            1 => Ok(()),
            count => Err(format!("counted as {count} denials")),
        };
        match self {
            Self::Http { say, reason } => {
                let answer = ground.answer(say, Until::Success).await;
                let (status, code, _) = refusal(&answer);
                if !matches!(status, 400..=499) || code != *reason {
                    return Err(format!("{status} {code}, not {reason}"));
                }
                if answer.matches("X-Nexus-Egress-Reason: ").count() != 1 {
                    return Err(format!("more than one answer: {answer:?}"));
                }
                one_denial()?;
            }
            Self::Socks { say, answer } => {
                let got = ground.reply(say).await;
                if got != *answer {
                    return Err(format!("answered {got:?}, not {answer:?}"));
                }
                one_denial()?;
            }
            Self::Tunnel { to, packets } => return ground.tunnel_is_cut(to, packets, one_denial).await,
            Self::Answered { say, holds } => {
                let answer = ground.answer(say, Until::Closed).await;
                return if holds(&answer) { Ok(()) } else { Err(format!("answered {answer:?}")) };
            }
            Self::Scene(scene) => return scene(ground).await,
        }
        match &ground.arrived()[before.0..] {
            [] => Ok(()),
            arrived => Err(format!("arrived: {arrived:?}")),
        }
    }
}

/// What came of a case: which layer holds it, and whether it did.
pub(crate) type Outcome = (Layer, Result<(), String>);

/// Makes every case of a part; what came of each, by name.
pub(crate) fn outcomes(part: Part, knockout: Layer) -> BTreeMap<String, Outcome> {
    ground::with(knockout, async move |ground| {
        let mut outcomes = BTreeMap::new();
        for case in part() {
            let outcome = match case.attack.make(&ground).await {
                Ok(()) => ground.control().await.map_err(|why| format!("the control afterwards: {why}")),
                Err(why) => Err(why),
            };
            let name = format!("{}: {}", case.family, case.name);
            assert!(outcomes.insert(name, (case.layer, outcome)).is_none(), "{}: {}, twice", case.family, case.name);
        }
        outcomes
    })
}

fn all_hold(part: Part) {
    if !can_make_namespaces() {
        return;
    }
    let failed: Vec<String> = outcomes(part, Layer::Always)
        .into_iter()
        .filter_map(|(name, (layer, outcome))| outcome.err().map(|why| format!("{name} ({layer:?}): {why}")))
        .collect();
    assert!(failed.is_empty(), "{} did not hold:\n{}", failed.len(), failed.join("\n"));
}

macro_rules! parts {
    ($($part:ident)*) => { $(
        #[test]
        fn $part() {
            all_hold($part::cases);
        }
    )* };
}

parts!(hosts addresses names rebinding framing origins tunnels socks sni);

#[test]
fn the_suite_is_as_large_as_it_should_be() {
    let mut families: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, part) in PARTS {
        for case in part() {
            *families.entry(case.family).or_default() += 1;
        }
    }
    let small: Vec<_> = families.iter().filter(|(_, count)| **count < 2).collect();
    assert!(small.is_empty(), "families of a single case: {small:?}");
    let total: usize = families.values().sum();
    eprintln!("{total} cases in {} families", families.len());
    assert!(total >= 250 && families.len() >= 25, "{total} cases in {} families: {families:?}", families.len());
}
