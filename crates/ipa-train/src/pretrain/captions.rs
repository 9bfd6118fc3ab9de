//! Captions of training scenes.

use ipa_clip::{ClipTokenizer, token_tensor};
use ipa_core::noise::{Draws, counter_seed};
use ipa_core::tch::Tensor;
use ipa_pocket::{Scene, Split, caption};
use rayon::prelude::*;

/// How captions become token ids.
#[derive(Debug, Clone, Copy)]
pub struct Captions<'a> {
    /// Tokenizer of the captions.
    pub tokenizer: &'a ClipTokenizer,
    /// Share of captions that are left empty.
    pub drop_rate: f64,
}

impl Captions<'_> {
    /// Token ids `[scenes, tokens]`: another caption of every scene at every step, for each names other attributes.
    ///
    /// # Panics
    /// If `scenes` is not a vector of integers.
    pub fn ids(&self, seed: u64, purpose: &str, scenes: &Tensor, step: u64) -> Tensor {
        let indices = Vec::<i64>::try_from(scenes).expect("scene numbers");
        let chances = Draws::counted(seed, purpose, step).uniform(&[indices.len() as i64]);
        let wording = counter_seed(seed, purpose, step);
        let chances = Vec::<f32>::try_from(chances).expect("one number a scene");
        let text = |(index, chance): (i64, f32)| {
            let scene = Scene::draw_at(seed, index as u64, Split::Train);
            let dropped = f64::from(chance) < self.drop_rate;
            if dropped { String::new() } else { caption(&scene, wording, index as u64) }
        };
        token_ids(self.tokenizer, indices.into_iter().zip(chances).map(text).collect())
    }
}

/// Token ids `[captions, tokens]`.
pub(super) fn token_ids(tokenizer: &ClipTokenizer, captions: Vec<String>) -> Tensor {
    let encode = |text: String| tokenizer.encode(&text).expect("captions are plain text");
    token_tensor(&captions.into_par_iter().map(encode).collect::<Vec<_>>())
}
