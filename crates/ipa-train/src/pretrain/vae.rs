//! The pocket autoencoder.

use std::path::Path;

use image::RgbImage;
use ipa_core::noise::Draws;
use ipa_core::tch::{self, Kind, Reduction, Tensor, nn::VarStore};
use ipa_core::{Checkpoint, picture};
use ipa_pocket::{Scene, Split, render_many};
use ipa_vae::{Vae, VaeConfig};

use super::kept::world;
use super::{Recipe, Stage, StageError, initialize};

/// So faint that an encoded picture's distribution stays narrow: adapters are trained on samples of it.
const KL_WEIGHT: f64 = 1e-8;

/// Three levels: a latent for every 4×4 pixels.
pub fn config() -> VaeConfig {
    VaeConfig {
        block_out_channels: vec![32, 64, 64],
        layers_per_block: 1,
        norm_num_groups: 8,
        sample_size: 64,
        ..VaeConfig::sd15()
    }
}

/// Trains in `folder`, from the weights in the file `start` if there is one, calling `progress` after every step; the
/// variables end as their average.
///
/// Loss: squared and absolute error of the reconstruction, and a faint pull to the standard normal.
///
/// # Errors
/// [`StageError`].
pub fn train(
    folder: &Path,
    recipe: &Recipe,
    start: Option<&Path>,
    progress: impl FnMut(&Stage),
) -> Result<(VarStore, Vae), StageError> {
    let vs = VarStore::new(recipe.device);
    let vae = Vae::new(&vs.root(), &config());
    match start {
        Some(weights) => Checkpoint::open(weights)?.load_into(&vs)?,
        None => initialize(&vs, recipe.seed, &[]),
    }
    let mut stage = Stage::resume(folder, vs.variables(), recipe.vae, world(recipe))?;
    let make = |step| (step, colorful_pixels_at(recipe, step * recipe.vae.batch, recipe.vae.batch));
    let learn = |stage: &mut Stage, (step, pixels): (u64, Tensor)| {
        let pixels = pixels.to_device(recipe.device);
        let posterior = vae.encode(&pixels);
        let noise = Draws::counted(recipe.seed, "vae.noise", step).normal(&posterior.mean.size());
        let decoded = vae.decode(&posterior.sample(&noise.to_device(recipe.device)));
        let reconstruction =
            decoded.mse_loss(&pixels, Reduction::Mean) + decoded.l1_loss(&pixels, Reduction::Mean) * 0.2;
        stage.learn(&(reconstruction + posterior.kl().mean(Kind::Float) * KL_WEIGHT));
    };
    stage.run(make, learn, progress)?;
    Ok((vs, vae))
}

/// Scenes numbered from `first`, every second one jumbled and in colours that the world may lack, as pixels.
///
/// An autoencoder that knows the world's colours alone paints any other as the nearest of them, and no adapter could
/// teach a subject of other colours.
fn colorful_pixels_at(recipe: &Recipe, first: u64, num: u64) -> Tensor {
    let scene = |index: u64| match index.is_multiple_of(2) {
        true => Scene::draw_at(recipe.seed, index, Split::Train),
        false => Scene::jumbled_at(recipe.seed, index),
    };
    let scenes: Vec<Scene> = (first..first + num).map(scene).collect();
    picture::to_pixels(&render_many(&scenes, recipe.size))
}

/// Scenes of the drawn world, numbered from `first`, as pixels on the recipe's device.
pub fn pixels_at(recipe: &Recipe, first: u64, num: u64, split: Split) -> Tensor {
    let scenes: Vec<Scene> = (first..first + num).map(|index| Scene::draw_at(recipe.seed, index, split)).collect();
    picture::to_pixels(&render_many(&scenes, recipe.size)).to_device(recipe.device)
}

/// One over the deviation of encoded latents, so that diffusion sees unit variance.
pub fn scaling_factor(recipe: &Recipe, vae: &Vae) -> f64 {
    let _no_grad = tch::no_grad_guard();
    1.0 / vae.encode(&pixels_at(recipe, 0, 256, Split::Train)).mean.std(true).double_value(&[])
}

/// Peak signal-to-noise ratio in dB of every picture, encoded and decoded again.
///
/// # Panics
/// If the pictures differ in size.
pub fn psnr(recipe: &Recipe, vae: &Vae, pictures: &[RgbImage]) -> Vec<f64> {
    const BATCH: usize = 64;
    let _no_grad = tch::no_grad_guard();
    let decode = |pictures: &[RgbImage]| {
        let decoded = vae.decode(&vae.encode(&picture::to_pixels(pictures).to_device(recipe.device)).mean);
        picture::to_pictures(&decoded)
    };
    let decoded: Vec<RgbImage> = pictures.chunks(BATCH).flat_map(decode).collect();
    let pairs = pictures.iter().zip(&decoded);
    pairs.map(|(picture, decoded)| ipa_metrics::psnr(picture, decoded).expect("pictures of one size")).collect()
}
