//! What a command may try to get out of its sandbox, one attack a test, each in the real sandbox.
//!
//! An attack runs in four settings: the host's `/usr` or a distribution's root directory, beneath a daemon that is root
//! or an ordinary user. What came of it is judged by what the attack itself says and, where the attack would have an
//! effect outside, by looking there. Beside each stands its control: the same code without the sandbox, or at
//! something that it may do, gets what it wants; so the test can fail.
//!
//! In the machine in the machine (`make test-vm`), where root has cgroup v2, the attacks on what the host has are made again,
//! over its `/usr`: the attack program comes compiled, and there is no other root.
//!
//! The attacks are data (`attack.rs`, and a file a family); `docs/escape-report.md` is made of them. With the feature
//! `knockout` (`make escape-report`) single layers are left out, which shows what each of them holds.

mod attack;
#[cfg(feature = "knockout")]
mod measure;
mod program;
mod report;
mod scene;
mod trial;

/// The attacks of one family: the table, and a test for each of them.
macro_rules! attacks {
    ($family:ident: $($name:ident, $held_by:expr, $act:expr, $what:literal
        $(, a user: $user:ident $why:literal)?;)+) => {
        /// The family's table.
        pub(crate) const ATTACKS: &[$crate::escape::attack::Attack] = &[$(
            $crate::escape::attack::Attack {
                name: stringify!($name),
                family: $crate::escape::attack::Family::$family,
                what: $what,
                held_by: &$held_by,
                user: attacks!(@user $($user $why)?),
                act: $act,
            },
        )+];
        $(
            #[test]
            fn $name() {
                testkit::require!(Root, Bwrap);
                if !$crate::escape::scene::in_the_machine() {
                    testkit::require!(Compiler, Rootfs);
                }
                $crate::escape::trial::holds(ATTACKS.iter().find(|attack| attack.name == stringify!($name)).unwrap());
            }
        )+
    };
    (@user) => {
        $crate::escape::attack::ForUser::Same
    };
    (@user $user:ident $why:literal) => {
        $crate::escape::attack::ForUser::$user($why)
    };
}

mod devices;
mod doors;
mod filters;
mod kernel;
mod keyrings;
mod links;
mod local;
mod mounts;
mod namespaces;
mod network;
mod resources;
mod secrets;
mod settings;
mod setuid;
mod signals;
mod sockets;
mod survivors;
mod terminals;
mod tracing;
mod writing;

/// Every attack, by family.
pub(crate) const ALL: &[&[attack::Attack]] = &[
    secrets::ATTACKS,
    writing::ATTACKS,
    links::ATTACKS,
    devices::ATTACKS,
    mounts::ATTACKS,
    namespaces::ATTACKS,
    tracing::ATTACKS,
    signals::ATTACKS,
    settings::ATTACKS,
    keyrings::ATTACKS,
    kernel::ATTACKS,
    doors::ATTACKS,
    filters::ATTACKS,
    sockets::ATTACKS,
    local::ATTACKS,
    terminals::ATTACKS,
    setuid::ATTACKS,
    network::ATTACKS,
    network::loopback::ATTACKS,
    resources::ATTACKS,
    survivors::ATTACKS,
];
