//! From a prompt to what the UNet reads: in one piece as the reference does it, or, if the request asks, with weights or
//! in as many pieces as it takes.

pub(crate) mod weighting;

use ipa_clip::{ClipTokenizer, TextTower, TokenizerError};
use ipa_core::tch::{Kind, Tensor};

use crate::GenerateRequest;

/// Tokens of a prompt in pieces of the text tower's length, and a weight for each.
struct Pieces {
    ids: Vec<Vec<i64>>,
    weights: Vec<f32>,
}

/// What reads prompts.
#[derive(Clone, Copy)]
pub(crate) struct Prompts<'a> {
    pub(crate) tokenizer: &'a ClipTokenizer,
    pub(crate) tower: &'a TextTower,
    /// Whether weights are looked for, and whether what does not fit one piece goes into others.
    pub(crate) weighted: bool,
    pub(crate) long: bool,
}

impl<'a> Prompts<'a> {
    pub(crate) fn new(tokenizer: &'a ClipTokenizer, tower: &'a TextTower, request: &GenerateRequest) -> Self {
        Self { tokenizer, tower, weighted: request.prompt_weights, long: request.long_prompts }
    }

    /// Features `[1, tokens, width]` of a prompt, and of a negative one of as many tokens if there is one.
    ///
    /// Parity: `num_skipped` last layers are left out for the prompt alone.
    pub(crate) fn features(
        self,
        prompt: &str,
        negative: Option<&str>,
        num_skipped: usize,
    ) -> Result<(Tensor, Option<Tensor>), TokenizerError> {
        let prompt = self.pieces(prompt)?;
        let negative = negative.map(|negative| self.pieces(negative)).transpose()?;
        let num = prompt.ids.len().max(negative.as_ref().map_or(0, |negative| negative.ids.len()));
        let negative = negative.map(|negative| self.embedded(negative, num, 0)).transpose()?;
        Ok((self.embedded(prompt, num, num_skipped)?, negative))
    }

    /// The words of a prompt that the tower will not see.
    pub(crate) fn overflow(self, prompt: &str) -> Option<String> {
        if self.long {
            return None;
        }
        let mut room = self.room();
        let mut parts = self.parts(prompt).into_iter().map(|(text, _)| text);
        while let Some(text) = parts.next() {
            if let Some(cut) = self.tokenizer.overflow_of(&text, room) {
                return Some([cut, parts.collect()].concat());
            }
            room -= self.tokenizer.word_ids(&text).ok()?.len();
        }
        None
    }

    /// Tokens between start and end.
    fn room(self) -> usize {
        self.tokenizer.max_length() - 2
    }

    fn parts(self, prompt: &str) -> Vec<(String, f64)> {
        match self.weighted {
            true => weighting::parts(prompt),
            false => vec![(prompt.to_owned(), 1.0)],
        }
    }

    fn pieces(self, prompt: &str) -> Result<Pieces, TokenizerError> {
        let mut tokens: Vec<(i64, f32)> = Vec::new();
        for (text, weight) in self.parts(prompt) {
            tokens.extend(self.tokenizer.word_ids(&text)?.into_iter().map(|id| (id, weight as f32)));
        }
        let room = self.room();
        if !self.long {
            tokens.truncate(room);
        }
        let mut pieces = Pieces { ids: Vec::new(), weights: Vec::new() };
        for part in tokens.chunks(room.max(1)) {
            pieces.push(self.tokenizer, part);
        }
        if pieces.ids.is_empty() {
            pieces.push(self.tokenizer, &[]);
        }
        Ok(pieces)
    }

    /// `num` pieces one after the other; those beyond the prompt are empty.
    fn embedded(self, mut pieces: Pieces, num: usize, num_skipped: usize) -> Result<Tensor, TokenizerError> {
        while pieces.ids.len() < num {
            pieces.push(self.tokenizer, &[]);
        }
        let features = self.tower.forward(&ipa_clip::token_tensor(&pieces.ids));
        let features = self.tower.skipping(&features, num_skipped); // [pieces, tokens, width]
        let width = features.size()[2];
        Ok(weighted(&features.reshape([1, -1, width]), &pieces.weights))
    }
}

impl Pieces {
    /// Start, tokens, end, and what fills up.
    fn push(&mut self, tokenizer: &ClipTokenizer, tokens: &[(i64, f32)]) {
        let mut ids = vec![tokenizer.bos_id()];
        ids.extend(tokens.iter().map(|(id, _)| id));
        ids.push(tokenizer.eos_id());
        ids.resize(tokenizer.max_length(), tokenizer.pad_id());
        self.ids.push(ids);
        let begin = self.weights.len();
        self.weights.resize(begin + tokenizer.max_length(), 1.0);
        for (weight, (_, own)) in self.weights[begin + 1..].iter_mut().zip(tokens) {
            *weight = *own;
        }
    }
}

/// Features times their tokens' weights, brought back to the mean they had.
///
/// Parity: diffusers' community pipeline `lpw_stable_diffusion`, all pieces together.
fn weighted(features: &Tensor, weights: &[f32]) -> Tensor {
    if weights.iter().all(|&weight| weight == 1.0) {
        return features.shallow_clone();
    }
    let factors = Tensor::from_slice(weights).view([1, -1, 1]).to_device(features.device());
    let wanted = features.to_kind(Kind::Float);
    let scaled = &wanted * factors;
    let mean = |tensor: &Tensor| tensor.mean(Kind::Float);
    (&scaled * (mean(&wanted) / mean(&scaled))).to_kind(features.kind())
}
