//! A batch's two halves at once, each on a thread of its own.
//!
//! Small models spend most of a step in operations too short to share among threads: measured on two cores, halves on
//! two threads learn from half as many samples again a second as one batch on libtorch's threads.

use std::collections::{BTreeMap, HashMap};
use std::thread;

use ipa_core::tch::Tensor;

use crate::gradients::Gradients;

/// Makes the variables of a model share the memory of another's of the same kind; gradients stay its own, and are given
/// in the order of the names.
///
/// # Panics
/// If the models differ.
pub(super) fn share(original: &HashMap<String, Tensor>, twin: HashMap<String, Tensor>) -> Gradients {
    assert_eq!(original.len(), twin.len(), "twins have the same variables");
    let twin: BTreeMap<String, Tensor> = twin.into_iter().collect();
    let share = |(name, mut variable): (String, Tensor)| {
        let original = &original[&name];
        variable.set_data(&original.detach());
        variable.set_requires_grad(original.requires_grad())
    };
    Gradients::new(twin.into_iter().map(share).collect())
}

/// Both losses and their gradients, at once; gives the mean loss.
pub(super) fn backward(near: impl FnOnce() -> Tensor, far: impl FnOnce() -> Tensor + Send) -> f64 {
    fn learn(loss: impl FnOnce() -> Tensor) -> f64 {
        let loss = loss() * 0.5;
        loss.backward();
        loss.double_value(&[])
    }
    thread::scope(|scope| {
        let far = scope.spawn(|| learn(far));
        let near = learn(near);
        near + far.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
