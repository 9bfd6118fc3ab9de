//! Pictures from held-out references.

use image::RgbImage;
use ipa_adapter::{Features, ImageFeatures, ImagePrompt, IpAdapter};
use ipa_core::tch::{self, Tensor};
use ipa_sample::guided;
use ipa_unet::{CrossAttentionHook, NoHook, Unet};

use super::rows::{batches, features, is_finite, noise, stack};
use super::{ValidationError, ValidationSettings, Work};
use crate::{EncodedRow, FrozenModels};

/// What a picture is drawn from beside its reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    Empty,
    Caption,
}

/// Draws with DDIM, which adds no noise on the way: the same adapter gives the same pictures.
#[derive(Debug)]
pub(super) struct Drawing<'a> {
    pub(super) models: &'a FrozenModels,
    pub(super) settings: &'a ValidationSettings,
    pub(super) empty_text: &'a Tensor,
    pub(super) seed: u64,
}

impl Drawing<'_> {
    /// Calls of the model that a picture of every row takes.
    pub(super) fn num_calls(&self, rows: &[&EncodedRow]) -> u64 {
        (batches(rows).len() * self.settings.num_steps) as u64
    }

    /// A picture of every row, at a strength of the adapter or without one.
    pub(super) fn pictures(
        &self,
        unet: &Unet,
        adapter: Option<(&IpAdapter, f64)>,
        text: Text,
        rows: &[&EncodedRow],
        work: &mut Work,
    ) -> Result<Vec<RgbImage>, ValidationError> {
        let _no_grad = tch::no_grad_guard();
        let mut pictures: Vec<Option<RgbImage>> = vec![None; rows.len()];
        for batch in batches(rows) {
            let numbered: Vec<(u64, &EncodedRow)> = batch.iter().map(|&row| (row as u64, rows[row])).collect();
            for (row, picture) in batch.iter().zip(self.batch(unet, adapter, text, &numbered, work)?) {
                pictures[*row] = Some(picture);
            }
        }
        Ok(pictures.into_iter().flatten().collect())
    }

    fn batch(
        &self,
        unet: &Unet,
        adapter: Option<(&IpAdapter, f64)>,
        text: Text,
        numbered: &[(u64, &EncodedRow)],
        work: &mut Work,
    ) -> Result<Vec<RgbImage>, ValidationError> {
        let (device, kind) = self.models.options();
        let rows: Vec<&EncodedRow> = numbered.iter().map(|(_, row)| *row).collect();
        let text = self.text(text, &rows);
        let prompt = adapter.map(|(adapter, scale)| self.prompt(adapter, scale, &rows, &text)).transpose()?;
        let context = prompt.as_ref().map_or(text.shallow_clone(), |prompt| prompt.context(&text, 1.0));
        let hook = prompt.as_ref().map_or(&NoHook as &dyn CrossAttentionHook, |prompt| prompt);
        let mut sampler = self.models.sampler(self.settings.num_steps)?;
        // The same noise whatever the strength, the text and the step of the run.
        let noise = noise(self.seed, "validation_picture", numbered).to_device(device).to_kind(kind);
        let mut latents = noise * sampler.init_noise_sigma();
        for (index, timestep) in sampler.timesteps().to_vec().into_iter().enumerate() {
            let input = self.halves(&sampler.scale_model_input(index, &latents));
            let output = unet.forward(&input, &Tensor::from(timestep as f32), &context, hook);
            let output = if self.is_guided() { guided(&output, self.settings.guidance_scale) } else { output };
            latents = sampler.step(index, &output, &latents, None);
            work.done()?;
        }
        let pictures = if is_finite(&latents) { self.models.decode(&latents) } else { None };
        pictures.ok_or(ValidationError::NotANumber { what: "a sample picture" })
    }

    fn is_guided(&self) -> bool {
        self.settings.guidance_scale > 1.0
    }

    /// Twice under guidance: unconditional half, conditional half.
    fn halves(&self, conditional: &Tensor) -> Tensor {
        match self.is_guided() {
            true => Tensor::cat(&[conditional, conditional], 0),
            false => conditional.shallow_clone(),
        }
    }

    /// Text features of both halves.
    fn text(&self, text: Text, rows: &[&EncodedRow]) -> Tensor {
        let (device, kind) = self.models.options();
        let empty = self.empty_text.expand([rows.len() as i64, -1, -1], false);
        let conditional = match text {
            Text::Empty => empty.shallow_clone(),
            Text::Caption => stack(rows, |row| &row.text_embeds),
        };
        let both = if self.is_guided() { Tensor::cat(&[empty, conditional], 0) } else { conditional };
        both.to_device(device).to_kind(kind)
    }

    /// Image tokens of both halves, as the models compute.
    fn prompt(
        &self,
        adapter: &IpAdapter,
        scale: f64,
        rows: &[&EncodedRow],
        text: &Tensor,
    ) -> Result<ImagePrompt, ValidationError> {
        let (device, kind) = self.models.options();
        let features = features(rows, device);
        let tokens = match self.is_guided() {
            true => {
                Tensor::cat(&[adapter.ip_tokens(self.nothing(adapter, &features))?, adapter.ip_tokens(features)?], 0)
            }
            false => adapter.ip_tokens(features)?,
        };
        Ok(adapter.prompt_of(&adapter.fused(&tokens, text), scale).to_kind(kind))
    }

    /// What stands for no reference: zeros in place of embeddings and identities, and what the encoder says of a picture
    /// of zeros in place of its finer features.
    fn nothing(&self, adapter: &IpAdapter, features: &Features) -> Features {
        let of_no_picture = |image: &Tensor| match adapter.image_features() {
            Some(ImageFeatures::Penultimate) => {
                let nothing = self.models.encoder().unconditional(ImageFeatures::Penultimate);
                nothing.to_device(image.device()).to_kind(image.kind()).expand_as(image)
            }
            Some(ImageFeatures::Embedding) | None => image.zeros_like(),
        };
        Features {
            image: features.image.as_ref().map(of_no_picture),
            face: features.face.as_ref().map(Tensor::zeros_like),
            structure: features.structure,
        }
    }
}
