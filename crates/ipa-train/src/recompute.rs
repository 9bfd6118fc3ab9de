//! Gradients in less memory: most of what the way back needs is computed again when it is needed (arXiv:1604.06174).
//!
//! The UNet's graph is cut between its segments. A cut tensor goes on as a leaf, whose gradient is what the way back hands
//! to the segment before. Keys and values, tokens and timesteps, which many segments read, are leaves too: what the adapter
//! made them of is walked once, at the end.

use ipa_adapter::{AdapterError, IpAdapter};
use ipa_core::FewerProducts;
use ipa_core::tch::{Kind, Tensor};
use ipa_sample::NoiseSchedule;
use ipa_unet::{Conditions, Flow, Unet};

use crate::Batch;
use crate::objective::{UnetInputs, unet_inputs};

/// A segment whose features take at most this share of the finest level's is not computed twice. It takes about as long
/// as one at the finest level, but keeps as much less as its features are smaller: in Stable Diffusion the coarsest
/// level's, a sixteenth. With the next level's, a quarter, memory above the weights was half of what it is without
/// recomputation.
const KEPT_SHARE: f64 = 0.1;

/// As `loss_of(prediction).backward()`, with gradients added in the same places to rounding, in 0.38 of the memory above
/// the weights (Stable Diffusion 1.5, 512 px) for most of a forward call more. The prediction is in f32 whatever the UNet
/// computes in; the result is the loss.
///
/// # Errors
/// [`AdapterError`] if the batch's features are not those that the adapter reads.
pub fn backward_by_segments(
    unet: &Unet,
    adapter: &IpAdapter,
    schedule: &NoiseSchedule,
    batch: &Batch,
    loss_of: impl Fn(&Tensor) -> Tensor,
) -> Result<f64, AdapterError> {
    let _fewer = FewerProducts::new();
    let UnetInputs { noisy, context, prompt } = unet_inputs(adapter, schedule, batch)?;
    let mut shared = Cuts::default();
    let time_embeds = shared.cut(unet.time_embeds(&batch.timesteps, &noisy));
    let context = shared.cut(context);
    let hook = prompt.map(|tensor| shared.cut(tensor.shallow_clone()));
    drop(prompt);
    let conditions = Conditions { time_embeds: &time_embeds, context: &context, hook: &hook };
    let (start, mut walked, last) = forward(unet, &noisy, &conditions);
    let loss = loss_of(&unet.finish(last).to_kind(Kind::Float));
    loss.backward();
    while let Some(stretch) = walked.pop().filter(Stretch::learns) {
        stretch.backward(unet, &conditions);
    }
    start.backward();
    shared.backward();
    Ok(loss.double_value(&[]))
}

/// Tensors where the graph is cut: as they were made, and as leaves.
#[derive(Default)]
struct Cuts {
    made: Vec<Tensor>,
    leaves: Vec<Tensor>,
}

impl Cuts {
    /// The leaf that stands for a tensor from here on; it gathers a gradient if the tensor wants one.
    fn cut(&mut self, made: Tensor) -> Tensor {
        let leaf = made.detach().set_requires_grad(made.requires_grad());
        self.leaves.push(leaf.shallow_clone());
        self.made.push(made);
        leaf
    }

    /// As [`Cuts::cut`], features first.
    fn cut_flow(&mut self, Flow { hidden, skips }: Flow) -> Flow {
        Flow { hidden: self.cut(hidden), skips: skips.into_iter().map(|skip| self.cut(skip)).collect() }
    }

    /// Hands the leaves' gradients to what made them. The gradient of `Σ made · gradient` is that gradient exactly.
    fn backward(&self) {
        let cuts = self.made.iter().zip(&self.leaves).filter(|(_, leaf)| leaf.requires_grad());
        let with_gradients = cuts.map(|(made, leaf)| (made, leaf.grad())).filter(|(_, gradient)| gradient.defined());
        let sums = with_gradients.map(|(made, gradient)| (made * gradient).sum(Kind::Float));
        if let Some(sum) = sums.reduce(|sum, more| sum + more) {
            sum.backward();
        }
    }
}

/// A segment, walked through on the way forward.
struct Stretch {
    index: usize,
    /// What it read: leaves.
    read: Flow,
    /// What it made, features first; only the leaves if it is to be made again.
    cuts: Cuts,
}

/// Walks through all segments: where it began, how it went, and what is left for [`Unet::finish`].
fn forward(unet: &Unet, noisy: &Tensor, conditions: &Conditions) -> (Cuts, Vec<Stretch>, Flow) {
    let begun = unet.begin(noisy);
    let most = KEPT_SHARE * begun.hidden.numel() as f64;
    let mut start = Cuts::default();
    let mut flow = start.cut_flow(begun);
    let mut walked = Vec::new();
    for index in 0..unet.num_segments() {
        let num_skips = flow.skips.len();
        let mut made = unet.segment(index, shared(&flow), conditions);
        let untouched = made.skips.len().min(num_skips);
        let read = Flow { skips: flow.skips.split_off(untouched), hidden: flow.hidden };
        made.skips.drain(..untouched);
        let is_small = made.hidden.numel() as f64 <= most;
        let mut cuts = Cuts::default();
        let left = cuts.cut_flow(made);
        flow.skips.extend(left.skips);
        flow.hidden = left.hidden;
        // The way back begins with the last one.
        if !is_small && index + 1 < unet.num_segments() {
            cuts.made.clear();
        }
        walked.push(Stretch { index, read, cuts });
    }
    (start, walked, flow)
}

impl Stretch {
    /// Whether it, or anything before it, has something to learn.
    fn learns(&self) -> bool {
        self.cuts.leaves[0].requires_grad()
    }

    fn backward(mut self, unet: &Unet, conditions: &Conditions) {
        if self.cuts.made.is_empty() {
            let Flow { hidden, skips } = unet.segment(self.index, self.read, conditions);
            self.cuts.made = [hidden].into_iter().chain(skips).collect();
        }
        self.cuts.backward();
    }
}

fn shared(flow: &Flow) -> Flow {
    Flow { hidden: flow.hidden.shallow_clone(), skips: flow.skips.iter().map(Tensor::shallow_clone).collect() }
}
