//! With a layer left out, exactly the cases that it holds no longer do. So each of them can fail, and fails for want of
//! the layer that it names.

use super::{Layer, PARTS, outcomes};
use crate::netns::can_make_namespaces;

fn exactly_its_own_fall(layer: Layer) {
    if !can_make_namespaces() {
        return;
    }
    let (mut fell, mut wrong) = (0, Vec::new());
    for (_, part) in PARTS {
        if !part().iter().any(|case| case.layer == layer) {
            continue;
        }
        for (name, (its_layer, outcome)) in outcomes(*part, layer) {
            fell += usize::from(outcome.is_err());
            if outcome.is_ok() != (its_layer != layer) {
                wrong.push(format!("{name}, held by {its_layer:?}: {outcome:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "without {layer:?}, {} cases came out wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(fell >= 15, "only {fell} cases depend on {layer:?}");
}

#[test]
fn without_the_address_ladder() {
    exactly_its_own_fall(Layer::Addresses);
}

#[test]
fn without_the_look_into_the_hello() {
    exactly_its_own_fall(Layer::Hello);
}

#[test]
fn without_the_name_rules() {
    exactly_its_own_fall(Layer::Names);
}
