//! Where references act: the softmax weights of their attention, gathered while a picture is drawn.

use std::cell::RefCell;
use std::collections::BTreeMap;

use ipa_core::tch::{self, Kind, Tensor};
use ipa_unet::{CrossAttentionHook, SiteId};

use crate::ComposedPrompt;

/// Gathers the shares of attention that image tokens have, over layers, heads and calls.
#[derive(Debug, Default)]
pub struct AttentionMaps {
    sums: RefCell<BTreeMap<Key, (Tensor, f64)>>,
}

/// What one map is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    prompt: usize,
    part: usize,
    first: i64,
}

/// A call of the model whose attention is gathered.
#[derive(Debug, Clone, Copy)]
pub struct WatchedCall {
    /// The first of its pictures.
    pub first: i64,
    /// How many they are; under guidance, the half that is conditional comes last.
    pub num: i64,
    /// Height of the latents.
    pub height: i64,
    /// Width of the latents.
    pub width: i64,
}

/// The maps of references that share one softmax.
#[derive(Debug)]
pub struct PartMaps {
    /// Which of the image prompts.
    pub prompt: usize,
    /// Which of its parts: 0, or with masks the number of the reference.
    pub part: usize,
    /// `[pictures, tokens, height, width]`, the mean share of each token; those of one place sum to 1, times the mask.
    pub shares: Tensor,
}

impl AttentionMaps {
    /// `prompt`, watched in one call of the model.
    pub fn watching<'a>(&'a self, prompt: &'a ComposedPrompt<'a>, call: WatchedCall) -> Watched<'a> {
        Watched { maps: self, prompt, call }
    }

    /// What was gathered.
    pub fn finish(self) -> Vec<PartMaps> {
        let mut found: BTreeMap<(usize, usize), Vec<Tensor>> = BTreeMap::new();
        for (Key { prompt, part, .. }, (sum, count)) in self.sums.into_inner() {
            found.entry((prompt, part)).or_default().push(sum / count);
        }
        let joined = |((prompt, part), shares): ((usize, usize), Vec<Tensor>)| PartMaps {
            prompt,
            part,
            shares: Tensor::cat(&shares, 0),
        };
        found.into_iter().map(joined).collect()
    }

    fn add(&self, key: Key, shares: &Tensor, call: WatchedCall) {
        let shares = spread(shares, call);
        let mut sums = self.sums.borrow_mut();
        match sums.get_mut(&key) {
            Some((sum, count)) => {
                *sum = &*sum + shares;
                *count += 1.0;
            }
            None => {
                sums.insert(key, (shares, 1.0));
            }
        }
    }
}

/// `[pictures, heads, queries, tokens]` → `[pictures, tokens, height, width]` at the latents' size.
fn spread(shares: &Tensor, WatchedCall { height, width, .. }: WatchedCall) -> Tensor {
    let queries = shares.size()[2];
    let halved = |side: i64, times: u32| (side + (1 << times) - 1) >> times; // rounded up
    let times = (0..16).find(|&times| halved(height, times) * halved(width, times) == queries);
    let times = times.expect("layers work at the latents' size, halved some times");
    let shares = shares.mean_dim(1, false, Kind::Float).transpose(1, 2); // [pictures, tokens, queries]
    let maps = shares.reshape([shares.size()[0], -1, halved(height, times), halved(width, times)]);
    maps.upsample_bilinear2d([height, width], false, None, None).to_device(tch::Device::Cpu)
}

/// A prompt that acts as ever while its attention is gathered.
#[derive(Debug)]
pub struct Watched<'a> {
    maps: &'a AttentionMaps,
    prompt: &'a ComposedPrompt<'a>,
    call: WatchedCall,
}

impl CrossAttentionHook for Watched<'_> {
    fn attend(&self, site: SiteId, query: &Tensor) -> Option<Tensor> {
        let batch = query.size()[0];
        for (prompt, part_number, part) in self.prompt.parts(site) {
            let shares = part.shares(site, query).narrow(0, batch - self.call.num, self.call.num);
            self.maps.add(Key { prompt, part: part_number, first: self.call.first }, &shares, self.call);
        }
        self.prompt.attend(site, query)
    }
}
