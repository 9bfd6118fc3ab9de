//! Where group normalisations take their means and variances from.

use std::cell::{Cell, RefCell};

use ipa_core::layers::{GroupMoments, GroupNorm};
use ipa_core::tch::Tensor;

/// The moments that a pass through encoder or decoder normalises by, layer by layer in the order of their calls.
pub(crate) enum Norms {
    /// Those of the features at hand.
    Own,
    /// The same, and they are kept.
    Recorded(RefCell<Vec<GroupMoments>>),
    /// Those of another pass, and the number of the next layer.
    Given(Vec<GroupMoments>, Cell<usize>),
}

impl Norms {
    /// Those of a pass, for others.
    pub(crate) fn recorded(pass: impl FnOnce(&Self) -> Tensor) -> Self {
        let recording = Self::Recorded(RefCell::default());
        drop(pass(&recording));
        match recording {
            Self::Recorded(moments) => Self::Given(moments.into_inner(), Cell::new(0)),
            other => other,
        }
    }

    /// Begins another pass.
    pub(crate) fn rewind(&self) {
        if let Self::Given(_, next) = self {
            next.set(0);
        }
    }

    pub(crate) fn apply(&self, norm: &GroupNorm, hidden: &Tensor) -> Tensor {
        match self {
            Self::Own => hidden.apply(norm),
            Self::Recorded(moments) => {
                moments.borrow_mut().push(norm.moments(hidden));
                hidden.apply(norm)
            }
            Self::Given(moments, next) => {
                let moments = &moments[next.replace(next.get() + 1)];
                norm.forward_with(hidden, moments)
            }
        }
    }

    /// The same, and SiLU.
    pub(crate) fn apply_silu(&self, norm: &GroupNorm, hidden: &Tensor) -> Tensor {
        match self {
            Self::Own => norm.forward_silu(hidden),
            _ => self.apply(norm, hidden).silu(),
        }
    }
}
