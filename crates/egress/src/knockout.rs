//! Layers of the policy that a test may leave out, to see what each of them holds.
//!
//! Only with the feature `knockout`, which `tools/test.sh` alone enables: without it there is nothing to set, and every
//! question is answered with no.

/// A layer that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "knockout"), expect(unreachable_pub, reason = "public with the feature"))]
pub enum Knockout {
    /// The judgement of addresses.
    Addresses,
    /// The look into the first bytes of a tunnel.
    Hello,
    /// The judgement of names: the allowlist, the operator's list, the daemon's own names.
    Names,
}

/// The layers that are left out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Knockouts {
    #[cfg(feature = "knockout")]
    layers: Vec<Knockout>,
}

#[cfg(feature = "knockout")]
impl Knockouts {
    pub(crate) fn add(&mut self, layer: Knockout) {
        self.layers.push(layer);
    }

    /// Whether this layer is left out.
    pub(crate) fn has(&self, layer: Knockout) -> bool {
        self.layers.contains(&layer)
    }
}

#[cfg(not(feature = "knockout"))]
impl Knockouts {
    /// Whether this layer is left out: never.
    #[expect(clippy::unused_self, reason = "with the feature it is asked")]
    pub(crate) const fn has(&self, _: Knockout) -> bool {
        false
    }
}
