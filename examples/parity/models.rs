//! The models at their real sizes, one forward call each.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use ipa_adapter::IpAdapter;
use ipa_clip::{TextTower, VisionTower};
use ipa_core::tch::Tensor;
use ipa_unet::Unet;
use ipa_vae::Vae;
use tempfile::tempdir;

use crate::F32;
use crate::outcome::{Comparison, Outcome, num_parameters};
use crate::reference::Reference;

/// Sums over thousands of numbers, through dozens of layers.
const TOLERANCE: f64 = 1e-4;

type Outputs = Vec<(&'static str, Tensor)>;

/// CLIP ViT-L/14's text tower.
pub(crate) fn text() -> Result<Outcome> {
    let reference = Reference::make("text", tempdir()?, &[])?;
    let (model, ids) = (reference.model(), reference.input("input_ids")?);
    let forward = |tower: &TextTower| {
        let features = tower.forward(&ids);
        Ok(vec![("last_hidden_state", features.last_hidden_state), ("pooled", features.pooled)])
    };
    compare("text", &reference, &[&ipa_formats::weights_file(&model)?], || Ok(TextTower::load(&model, F32)?), forward)
}

/// A vision tower, `vit-l` or `vit-h`.
pub(crate) fn vision(part: &'static str) -> Result<Outcome> {
    let reference = Reference::make(part, tempdir()?, &[])?;
    let (model, pixel_values) = (reference.model(), reference.input("pixel_values")?);
    let forward = |tower: &VisionTower| {
        let features = tower.forward(&pixel_values);
        Ok(vec![("image_embeds", features.image_embeds), ("penultimate", features.penultimate)])
    };
    compare(part, &reference, &[&ipa_formats::weights_file(&model)?], || Ok(VisionTower::load(&model, F32)?), forward)
}

/// The autoencoder, both ways.
pub(crate) fn vae() -> Result<Outcome> {
    let reference = Reference::make("vae", tempdir()?, &[])?;
    let model = reference.model();
    let (pixels, latents) = (reference.input("pixels")?, reference.input("latents")?);
    let forward = |vae: &Vae| {
        let posterior = vae.encode(&pixels);
        Ok(vec![("mean", posterior.mean), ("logvar", posterior.logvar), ("decoded", vae.decode(&latents))])
    };
    compare("vae", &reference, &[&ipa_formats::weights_file(&model)?], || Ok(Vae::load(&model, F32)?), forward)
}

/// The UNet with a classic adapter.
pub(crate) fn unet() -> Result<Outcome> {
    let reference = Reference::make("unet", tempdir()?, &[])?;
    let (model, file) = (reference.model(), reference.adapter());
    let [latents, timestep, context, image_embeds, scale] =
        ["latents", "timestep", "context", "image_embeds", "scale"].map(|name| reference.input(name));
    let (latents, timestep, context, image_embeds) = (latents?, timestep?, context?, image_embeds?);
    let scale = scale?.double_value(&[]);
    let load = || {
        let unet = Unet::load(&model, F32)?;
        let adapter = IpAdapter::load(&file, unet.config(), F32)?;
        Ok((unet, adapter))
    };
    let forward = |(unet, adapter): &(Unet, IpAdapter)| {
        let prompt = adapter.prompt(&image_embeds, scale)?;
        Ok(vec![("noise_pred", unet.forward(&latents, &timestep, &context, &prompt))])
    };
    compare("unet", &reference, &[&ipa_formats::weights_file(&model)?, &file], load, forward)
}

/// Loads, runs and compares every output; the model is dropped before the outputs are looked at.
fn compare<M>(
    name: &'static str,
    reference: &Reference,
    weights: &[&Path],
    load: impl FnOnce() -> Result<M>,
    forward: impl FnOnce(&M) -> Result<Outputs>,
) -> Result<Outcome> {
    let start = Instant::now();
    let model = load()?;
    let (load, start) = (start.elapsed(), Instant::now());
    let outputs = forward(&model)?;
    let here = start.elapsed();
    drop(model);
    let compare =
        |(name, found): &(&'static str, Tensor)| Comparison::relative(name, found, &reference.output(name)?, TOLERANCE);
    let comparisons = outputs.iter().map(compare).collect::<Result<_>>()?;
    let num_parameters = num_parameters(weights)?;
    Ok(Outcome { name, num_parameters, load, here, reference: reference.forward_time()?, comparisons })
}
