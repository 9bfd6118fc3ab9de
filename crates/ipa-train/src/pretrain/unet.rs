//! The pocket UNet.

use std::path::Path;

use ipa_clip::{ClipTokenizer, TextTower, token_tensor};
use ipa_core::noise::Draws;
use ipa_core::tch::{self, Device, Kind, Tensor, nn::VarStore};
use ipa_core::{Checkpoint, WeightsError, save_tensors};
use ipa_pocket::{Scene, Split, caption};
use ipa_sample::NoiseSchedule;
use ipa_unet::{NoHook, Unet, UnetConfig};
use ipa_vae::Vae;

use super::vae::pixels_at;
use super::{Recipe, Stage, initialize};

const TEXT_DROP_RATE: f64 = 0.1;
const MIN_SNR_GAMMA: f64 = 5.0;

/// SD1.x's blocks on 16×16 latents.
pub fn config(text_width: i64) -> UnetConfig {
    UnetConfig {
        sample_size: Some(16),
        attention_head_dim: 4,
        norm_num_groups: 16,
        ..UnetConfig::like_sd15(vec![48, 96, 96, 96], text_width)
    }
}

/// Scaled latents of the recipe's scenes, `[num_scenes, 4, 16, 16]`; computed once, then read from `folder`.
///
/// # Errors
/// [`WeightsError`] if the cache cannot be read or written.
pub fn latents(folder: &Path, recipe: &Recipe, vae: &Vae, scaling_factor: f64) -> Result<Tensor, WeightsError> {
    let path = folder.join("latents.safetensors");
    if !path.exists() {
        let _no_grad = tch::no_grad_guard();
        let encode = |first: u64| {
            let num = 64.min(recipe.num_scenes - first);
            vae.encode(&pixels_at(recipe, first, num, Split::Train)).mean
        };
        let chunks: Vec<Tensor> = (0..recipe.num_scenes).step_by(64).map(encode).collect();
        save_tensors(&path, [("latents".to_owned(), Tensor::cat(&chunks, 0))], None)?;
    }
    Ok(Checkpoint::open(&path)?.tensor("latents")? * scaling_factor)
}

/// What a step learns from.
#[derive(Debug)]
pub struct Materials<'a> {
    /// Scaled latents of the scenes.
    pub latents: Tensor,
    /// Tokenizer of the captions.
    pub tokenizer: &'a ClipTokenizer,
    /// Frozen text tower.
    pub text: &'a TextTower,
    /// The schedule that sampling will use.
    pub schedule: NoiseSchedule,
}

/// Trains in `folder`, calling `progress` after every step; the variables end as their average.
///
/// The noise-prediction loss of arXiv:2006.11239 Eq. 14 with min-SNR weights (arXiv:2303.09556, γ = 5); one caption in
/// ten is empty, for guidance.
///
/// # Errors
/// [`WeightsError`] if the state cannot be read or written.
pub fn train(
    folder: &Path,
    recipe: &Recipe,
    materials: &Materials,
    mut progress: impl FnMut(&Stage),
) -> Result<(VarStore, Unet), WeightsError> {
    let vs = VarStore::new(Device::Cpu);
    let unet = Unet::new(&vs.root(), &config(materials.text.config().hidden_size));
    initialize(&vs, recipe.seed, &["conv2", "proj_out", "conv_out"]);
    let mut stage = Stage::resume(folder, vs.variables(), recipe.unet)?;
    while let Some(step) = stage.next_step() {
        stage.learn(&loss(recipe, materials, &unet, step));
        if (step + 1) % 100 == 0 || stage.next_step().is_none() {
            stage.save()?;
        }
        progress(&stage);
    }
    stage.use_average();
    Ok((vs, unet))
}

fn loss(recipe: &Recipe, materials: &Materials, unet: &Unet, step: u64) -> Tensor {
    let batch = recipe.unet.batch as i64;
    let scenes = Draws::counted(recipe.seed, "unet.scenes", step).integers(recipe.num_scenes as i64, &[batch]);
    let latents = materials.latents.index_select(0, &scenes);
    let noise = Draws::counted(recipe.seed, "unet.noise", step).normal(&latents.size());
    let timesteps = Draws::counted(recipe.seed, "unet.timesteps", step).integers(materials.schedule.len(), &[batch]);
    let context = tch::no_grad(|| contexts(recipe, materials, &scenes, step));
    let noisy = materials.schedule.add_noise(&latents, &noise, &timesteps);
    let errors = (unet.forward(&noisy, &timesteps, &context, &NoHook) - noise).square();
    let errors = errors.mean_dim([1_i64, 2, 3].as_slice(), false, None::<Kind>);
    (errors * min_snr_weights(&materials.schedule, &timesteps)).mean(Kind::Float)
}

fn contexts(recipe: &Recipe, materials: &Materials, scenes: &Tensor, step: u64) -> Tensor {
    let indices = Vec::<i64>::try_from(scenes).expect("scene numbers");
    let drops = Draws::counted(recipe.seed, "unet.drops", step).uniform(&[indices.len() as i64]);
    let drops = Vec::<f32>::try_from(drops).expect("one number a scene");
    let encode = |(index, drop): (i64, f32)| {
        let scene = Scene::draw_at(recipe.seed, index as u64, Split::Train);
        // Another caption at every visit: each names other attributes.
        let text = if f64::from(drop) < TEXT_DROP_RATE { String::new() } else { caption(&scene, step, index as u64) };
        materials.tokenizer.encode(&text).expect("captions are plain text")
    };
    let ids: Vec<Vec<i64>> = indices.into_iter().zip(drops).map(encode).collect();
    materials.text.forward(&token_tensor(&ids)).last_hidden_state
}

/// `min(SNR, γ) / SNR` for noise prediction.
fn min_snr_weights(schedule: &NoiseSchedule, timesteps: &Tensor) -> Tensor {
    let acp = schedule.alphas_cumprod().index_select(0, timesteps);
    let noise_level: Tensor = 1.0 - &acp;
    let snr = acp / noise_level;
    snr.clamp_max(MIN_SNR_GAMMA) / snr
}
