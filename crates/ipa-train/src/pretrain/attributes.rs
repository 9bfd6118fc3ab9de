//! What the vision tower's embedding must say about the main object, besides which caption belongs to it.

use ipa_core::layers::{Linear, linear};
use ipa_core::tch::{Tensor, nn::VarStore};
use ipa_pocket::Scene;
use ipa_pocket::scene::{Fill, Place, Shape, Size, Style};

type ValueOf = fn(&Scene) -> i64;

/// Number of values and the value of a scene; colours and backgrounds are learned without being asked for.
const ATTRIBUTES: [(usize, ValueOf); 5] = [
    (Shape::ALL.len(), |scene| scene.main().shape as i64),
    (Fill::ALL.len(), |scene| scene.main().fill as i64),
    (Style::ALL.len(), |scene| scene.style as i64),
    (1 + Size::MAIN.len(), |scene| scene.main().size as i64), // tiny, which no main object is, comes first
    (Place::ALL.len(), |scene| scene.main().place() as i64),
];
const SCALE: f64 = 10.0; // of unit vectors, so that logits reach as far

/// A linear classifier of embeddings, used while training only.
#[derive(Debug)]
pub(super) struct Attributes {
    pub(super) vs: VarStore,
    logits: Linear,
}

impl Attributes {
    /// For embeddings of `width`; the caller sets the values.
    pub(super) fn new(vs: VarStore, width: i64) -> Self {
        let num_logits = ATTRIBUTES.iter().map(|(num, _)| *num as i64).sum();
        let logits = linear(&(vs.root() / "attributes"), width, num_logits);
        Self { vs, logits }
    }

    /// Mean cross-entropy over the attributes, of unit embeddings `[scenes, width]`.
    pub(super) fn loss(&self, embeds: &Tensor, scenes: &[Scene]) -> Tensor {
        let logits = (embeds * SCALE).apply(&self.logits);
        let mut start = 0;
        let losses = ATTRIBUTES.map(|(num, value)| {
            let group = logits.narrow(1, start, num as i64);
            start += num as i64;
            let targets = Tensor::from_slice(&scenes.iter().map(value).collect::<Vec<_>>());
            group.cross_entropy_for_logits(&targets.to_device(embeds.device()))
        });
        Tensor::stack(&losses, 0).mean(logits.kind())
    }
}
