//! An attack, made in every setting and judged.

use super::attack::{Act, Attack, Control, ForUser, Layer, Probe, Verdict};
use super::scene::{Scene, Setting, within};

/// The test of one attack: it is held in every setting that promises so, and its control gets what it wants.
pub(crate) fn holds(attack: &Attack) {
    for setting in Setting::here() {
        let verdict = made(attack, setting, &[]);
        let not_promised = setting.ordinary && matches!(attack.user, ForUser::Nothing(_));
        assert_eq!(verdict.is_broken(), not_promised, "{} ({}): {verdict:?}", attack.name, setting.name());
    }
}

/// Makes an attack in a setting with these layers left out, and its control after it.
pub(crate) fn made(attack: &Attack, setting: Setting, left_out: &[Layer]) -> Verdict {
    within(setting, attack.family.wants_network(), left_out, |scene| match &attack.act {
        Act::Probe(probe) => {
            let verdict = attacked(scene, probe);
            if left_out.is_empty() {
                control(scene, attack.name, probe, &verdict);
            }
            verdict
        }
        Act::Own(act) => act(scene),
    })
}

fn attacked(scene: &Scene, probe: &Probe) -> Verdict {
    let verdict = scene.inside(probe.words, (probe.limits)());
    match probe.seen {
        Some(seen) if seen(scene) => Verdict::Broken(format!("its effect is seen outside ({verdict:?})")),
        _ => verdict,
    }
}

/// The same code gets what it wants where nothing keeps it from it. Where this kernel has nothing of the kind, the
/// sandbox must have answered otherwise than the kernel does.
fn control(scene: &Scene, name: &str, probe: &Probe, inside: &Verdict) {
    let verdict = match probe.control {
        Control::Root | Control::RootAt(_) if scene.setting.ordinary => return,
        Control::RootAt(words) => scene.outside(words, false),
        Control::Root | Control::Daemon => scene.outside(probe.words, false),
        Control::User => scene.outside(probe.words, true),
        Control::Inside(words) => scene.inside(words, sandbox::Limits::default()),
    };
    match &verdict {
        Verdict::Absent(_) => assert_ne!(&verdict, inside, "{name}: the sandbox must answer before the kernel does"),
        _ => assert!(verdict.is_broken(), "{name}: its control in {}: {verdict:?}", scene.setting.name()),
    }
    if let (Verdict::Broken(_), Some(seen)) = (&verdict, probe.seen) {
        // A signal takes a moment to be heeded.
        let soon = scene.block_on(crate::bed::until_true(|| seen(scene)));
        assert!(soon, "{name}: the effect of its control is not seen in {}", scene.setting.name());
    }
}
