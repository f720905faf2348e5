//! Keyrings, which belong to a uid and not to a namespace.

use super::attack::Control::User;
use super::attack::Layer::{Proc, Seccomp};
use super::attack::{Act, Verdict, probe};
use super::scene::Scene;

const LISTED: [&str; 3] = ["read-for", "/proc/keys", "nexus-escape-{unique}"];

/// A key in the keyring of the sandbox's uid, made outside, is looked for in `/proc/keys`.
fn listed(scene: &Scene) -> Verdict {
    let planted = scene.outside(&["plant-key", "nexus-escape-{unique}"], true);
    assert!(planted.is_broken(), "{planted:?}");
    let verdict = scene.inside(&LISTED, sandbox::Limits::default());
    let control = scene.outside(&LISTED, true);
    let removed = scene.outside(&["unlink-key", "nexus-escape-{unique}"], true);
    assert!(control.is_broken() && removed.is_broken(), "{control:?} {removed:?}");
    verdict
}

attacks! { Keyrings:
    add_a_key, [Seccomp],
        probe(&["add-key"], User).act(),
        "add_key(2)";
    the_keyring_of_the_uid, [Seccomp],
        probe(&["user-keyring"], User).act(),
        "keyctl(2): the keyring that all processes of the uid share";
    ask_for_a_key, [Seccomp],
        probe(&["request-key", "nexus-escape"], User).act(),
        "request_key(2)";
    keys_of_others, [Proc],
        Act::Own(listed),
        "finds a key of the same uid's outside in `/proc/keys`";
}
