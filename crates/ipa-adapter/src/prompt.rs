//! The hook that listens at every cross-attention layer.

use ipa_core::attention;
use ipa_core::tch::{Kind, Tensor};
use ipa_unet::{CrossAttentionHook, SiteId};

use crate::RegionMask;

/// References, projected and ready for every cross-attention layer of one UNet.
#[derive(Debug)]
pub struct ImagePrompt {
    pub(crate) parts: Vec<Part>,
    /// Strength by site.
    scales: Vec<f64>,
    /// Sites where the reference does not stand in the conditional half.
    absent: Vec<bool>,
    /// Tokens that go beside those of the text, for adapters without attention of their own.
    appended: Option<Tensor>,
}

/// References that share one softmax.
#[derive(Debug)]
pub(crate) struct Part {
    /// By site, each `[batch, heads, tokens, head_dim]`.
    keys_values: Vec<(Tensor, Tensor)>,
    weight: f64,
    mask: Option<RegionMask>,
}

impl ImagePrompt {
    /// Of keys and values for every cross-attention layer in execution order, each `[batch, heads, tokens, head_dim]`, at
    /// the same strength everywhere.
    pub fn new(keys_values: Vec<(Tensor, Tensor)>, scale: f64) -> Self {
        let scales = vec![scale; keys_values.len()];
        let absent = vec![false; keys_values.len()];
        Self { parts: vec![Part { keys_values, weight: 1.0, mask: None }], scales, absent, appended: None }
    }

    /// Tokens that the UNet's own attention is to read.
    pub(crate) fn appended(tokens: Tensor, num_sites: usize, scale: f64) -> Self {
        let (scales, absent) = (vec![scale; num_sites], vec![false; num_sites]);
        Self { parts: Vec::new(), scales, absent, appended: Some(tokens) }
    }

    /// The same references at another strength; keys and values are shared.
    pub fn with_scale(&self, scale: f64) -> Self {
        let parts = self.parts.iter().map(Part::shared).collect();
        let appended = self.appended.as_ref().map(Tensor::shallow_clone);
        Self { parts, scales: vec![scale; self.scales.len()], absent: self.absent.clone(), appended }
    }

    /// The same with a strength for every cross-attention layer, in execution order.
    ///
    /// # Panics
    /// If there are not as many as layers.
    pub fn with_scales(self, scales: Vec<f64>) -> Self {
        assert_eq!(scales.len(), self.scales.len(), "a strength for every cross-attention layer");
        Self { scales, ..self }
    }

    /// The same, known to stand in the unconditional half at these layers, where [`AttentionMaps`](crate::AttentionMaps)
    /// are not to look for it.
    pub fn absent_at(self, absent: Vec<bool>) -> Self {
        Self { absent, ..self }
    }

    /// The same with a factor on what each token adds, `[tokens]`; shares of the softmax stay.
    pub fn weighted(self, weights: &Tensor) -> Self {
        let along = |tensor: &Tensor, shape: [i64; 2]| {
            tensor * weights.to_device(tensor.device()).to_kind(tensor.kind()).view(shape)
        };
        let weigh = |part: Part| {
            let weigh = |(key, value): (Tensor, Tensor)| (key, along(&value, [-1, 1]));
            Part { keys_values: part.keys_values.into_iter().map(weigh).collect(), ..part }
        };
        let appended = self.appended.as_ref().map(|tokens| along(tokens, [-1, 1]));
        Self { parts: self.parts.into_iter().map(weigh).collect(), appended, ..self }
    }

    /// The same in a part of the picture, or all of it, and so much stronger or weaker.
    pub fn within(self, mask: Option<RegionMask>, weight: f64) -> Self {
        let mask = || mask.as_ref().map(RegionMask::shared);
        let within = |part: Part| Part { weight: part.weight * weight, mask: mask(), ..part };
        Self { parts: self.parts.into_iter().map(within).collect(), ..self }
    }

    /// References attended one by one, their attentions added; strengths are those of the first.
    pub fn joined(prompts: Vec<Self>) -> Option<Self> {
        prompts.into_iter().reduce(|mut all, more| {
            all.parts.extend(more.parts);
            all
        })
    }

    /// The same for a UNet that computes in `kind`; gradients pass through.
    pub fn to_kind(&self, kind: Kind) -> Self {
        self.map(|tensor| tensor.to_kind(kind))
    }

    /// The same of other tensors: keys, values and tokens, each changed.
    pub fn map(&self, mut change: impl FnMut(&Tensor) -> Tensor) -> Self {
        Self {
            parts: self.parts.iter().map(|part| part.map(&mut change)).collect(),
            scales: self.scales.clone(),
            absent: self.absent.clone(),
            appended: self.appended.as_ref().map(change),
        }
    }

    /// What the UNet reads as text, `[batch, tokens, width]`: for adapters without attention of their own followed by
    /// the image tokens times their strength and `factor`, which is left out at 0.
    pub fn context(&self, text: &Tensor, factor: f64) -> Tensor {
        let scale = self.scales.first().copied().unwrap_or_default() * factor;
        match &self.appended {
            Some(tokens) if scale != 0.0 => Tensor::cat(&[text.shallow_clone(), tokens * scale], 1),
            _ => text.shallow_clone(),
        }
    }

    /// Whether it stands in the conditional half of a layer.
    pub(crate) fn is_present(&self, site: SiteId) -> bool {
        self.scale(site) != 0.0 && !self.absent[site.0]
    }

    /// Strength at a layer.
    pub(crate) fn scale(&self, site: SiteId) -> f64 {
        self.scales[site.0]
    }
}

impl CrossAttentionHook for ImagePrompt {
    /// `scale · Attn(Q, K', V')` (arXiv:2308.06721 Eq. 5); nothing at all at scale 0.
    fn attend(&self, site: SiteId, query: &Tensor) -> Option<Tensor> {
        let scale = self.scale(site);
        if scale == 0.0 {
            return None;
        }
        let parts = self.parts.iter().filter(|part| part.weight != 0.0);
        let sum = parts.map(|part| part.attend(site, query)).reduce(|sum, more| sum + more)?;
        Some(sum * scale)
    }
}

impl Part {
    fn attend(&self, site: SiteId, query: &Tensor) -> Tensor {
        let (key, value) = &self.keys_values[site.0];
        let attended = attention(query, key, value);
        let attended = match &self.mask {
            Some(mask) => attended * self.mask_for(mask, query),
            None => attended,
        };
        if self.weight == 1.0 { attended } else { attended * self.weight }
    }

    /// The share of every query's attention that each token has, `[batch, heads, queries, tokens]`, within the mask.
    pub(crate) fn shares(&self, site: SiteId, query: &Tensor) -> Tensor {
        let (key, _) = &self.keys_values[site.0];
        let head_dim = query.size()[3] as f64;
        let scores = query.to_kind(Kind::Float).matmul(&key.to_kind(Kind::Float).transpose(-2, -1)) / head_dim.sqrt();
        let shares = scores.softmax(-1, Kind::Float);
        match &self.mask {
            Some(mask) => shares * self.mask_for(mask, query).to_kind(Kind::Float),
            None => shares,
        }
    }

    /// `[queries, 1]`
    fn mask_for(&self, mask: &RegionMask, query: &Tensor) -> Tensor {
        mask.at_like(query.size()[2], query).unsqueeze(-1)
    }

    fn map(&self, mut change: impl FnMut(&Tensor) -> Tensor) -> Self {
        Self {
            keys_values: self.keys_values.iter().map(|(key, value)| (change(key), change(value))).collect(),
            weight: self.weight,
            mask: self.mask.as_ref().map(RegionMask::shared),
        }
    }

    fn shared(&self) -> Self {
        self.map(Tensor::shallow_clone)
    }
}
