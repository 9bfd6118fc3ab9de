//! The pocket UNet.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use ipa_clip::{TextConfig, TextTower};
use ipa_core::noise::Draws;
use ipa_core::tch::{self, Device, Kind, Tensor, nn::VarStore};
use ipa_core::{Checkpoint, Component, ThreadLimit, WeightsError};
use ipa_pocket::Split;
use ipa_sample::{NoiseSchedule, SchedulerConfig};
use ipa_unet::{NoHook, PerLevel, Unet, UnetConfig};
use ipa_vae::Vae;
use serde_json::json;

use super::captions::Captions;
use super::kept::{kept, world};
use super::vae::pixels_at;
use super::{Recipe, Stage, StageError, halves, initialize};
use crate::gradients::Gradients;

/// Share of captions left empty, for guidance.
pub const TEXT_DROP_RATE: f64 = 0.1;
const TEXT: &str = "text";

/// SD1.x's blocks on 16×16 latents.
pub fn config(text_width: i64) -> UnetConfig {
    UnetConfig {
        sample_size: Some(16),
        attention_head_dim: PerLevel::All(4),
        norm_num_groups: 16,
        ..UnetConfig::like_sd15(vec![48, 96, 96, 96], text_width)
    }
}

/// Scaled latents of the recipe's scenes, `[num_scenes, 4, 16, 16]`; computed once, then read from `folder`.
///
/// `weights` is the autoencoder's file.
///
/// # Errors
/// [`WeightsError`] if the cache cannot be read or written.
pub fn latents(folder: &Path, weights: &Path, recipe: &Recipe, vae: &Vae) -> Result<Tensor, WeightsError> {
    let encode = |first: u64| {
        let num = 64.min(recipe.num_scenes - first);
        vae.encode(&pixels_at(recipe, first, num, Split::Train)).mean.to_device(Device::Cpu)
    };
    let latents = kept(&folder.join("latents.safetensors"), weights, recipe, || {
        let _no_grad = tch::no_grad_guard();
        Tensor::cat(&(0..recipe.num_scenes).step_by(64).map(encode).collect::<Vec<_>>(), 0)
    })?;
    Ok(latents * vae.config().scaling_factor)
}

/// What a step learns from.
#[derive(Debug)]
pub struct Materials<'a> {
    /// Scaled latents of the scenes.
    pub latents: Tensor,
    /// Their captions, one in ten left out.
    pub captions: Captions<'a>,
    /// Text tower, which learns too: what tells pictures apart is not all that draws them.
    pub text: Component<TextConfig, TextTower>,
    /// The schedule that sampling will use.
    pub scheduler: SchedulerConfig,
    /// Weights to begin with instead of random ones.
    pub start: Option<PathBuf>,
}

/// Trains in `folder`, calling `progress` after every step; the variables, the text tower's too, end as their average.
///
/// The noise-prediction loss of arXiv:2006.11239 Eq. 14, weighted towards contours and shapes (`loss_weights`); one
/// caption in ten is empty, for guidance.
///
/// # Errors
/// [`StageError`].
pub fn train(
    folder: &Path,
    recipe: &Recipe,
    materials: &Materials,
    progress: impl FnMut(&Stage),
) -> Result<(VarStore, Unet), StageError> {
    let _threads = (recipe.device == Device::Cpu).then(|| ThreadLimit::new(1)); // a thread for each half
    let config = config(materials.text.config.hidden_size);
    let text = &materials.text;
    let vs = VarStore::new(recipe.device);
    let unet = Unet::new(&vs.root(), &config);
    match &materials.start {
        Some(weights) => Checkpoint::open(weights)?.load_into(&vs)?,
        None => initialize(&vs, recipe.seed, &["conv2", "proj_out", "conv_out"]),
    }
    let variables = || {
        let text = text.vs.variables().into_iter().map(|(name, variable)| (format!("{TEXT}.{name}"), variable));
        vs.variables().into_iter().chain(text).collect::<HashMap<_, _>>()
    };
    let origin = json!({ "world": world(recipe), "num_scenes": recipe.num_scenes });
    let mut stage = Stage::resume(folder, variables(), recipe.unet, origin)?;
    let mut twin = (recipe.device == Device::Cpu).then(|| Twin::new(&variables(), &config, &text.config));
    let learn = |stage: &mut Stage, sample: Sample| match &mut twin {
        Some(twin) => {
            let ([near, far], Twin { gradients, unet: twin, text: twin_text }) = (sample.halves(), twin);
            let near = || near.loss(&unet, &text.model);
            // Models may move to another thread, but not be seen by two.
            stage.learn_halves(gradients, near, move || far.loss(twin, twin_text));
        }
        None => stage.learn(&sample.on(recipe.device).loss(&unet, &text.model)),
    };
    let source = Source::new(recipe, materials);
    stage.run(move |step| source.sample(step), learn, progress)?;
    Ok((vs, unet))
}

/// What the second half of a batch learns with on the CPU.
struct Twin {
    unet: Unet,
    text: TextTower,
    gradients: Gradients,
}

impl Twin {
    fn new(original: &HashMap<String, Tensor>, unet: &UnetConfig, text: &TextConfig) -> Self {
        let vs = VarStore::new(Device::Cpu);
        let (unet, text) = (Unet::new(&vs.root(), unet), TextTower::new(&(vs.root() / TEXT), text));
        Self { unet, text, gradients: halves::share(original, vs.variables()) }
    }
}

/// A batch of noisy latents and what to predict of them.
struct Sample {
    noisy: Tensor,
    timesteps: Tensor,
    ids: Tensor,
    noise: Tensor,
    weights: Tensor,
}

/// Where the batches come from.
struct Source<'a> {
    recipe: &'a Recipe,
    latents: Tensor,
    captions: Captions<'a>,
    schedule: NoiseSchedule,
    weights: Tensor,
}

impl<'a> Source<'a> {
    fn new(recipe: &'a Recipe, materials: &Materials<'a>) -> Self {
        let schedule = NoiseSchedule::new(&materials.scheduler);
        let (latents, captions) = (materials.latents.shallow_clone(), materials.captions);
        Self { recipe, latents, captions, weights: loss_weights(&schedule), schedule }
    }

    fn sample(&self, step: u64) -> Sample {
        let (recipe, batch) = (self.recipe, self.recipe.unet.batch as i64);
        let draws = |purpose| Draws::counted(recipe.seed, purpose, step);
        let scenes = draws("unet.scenes").integers(recipe.num_scenes as i64, &[batch]);
        let latents = self.latents.index_select(0, &scenes);
        let noise = draws("unet.noise").normal(&latents.size());
        let timesteps = draws("unet.timesteps").integers(self.schedule.len(), &[batch]);
        let ids = self.captions.ids(recipe.seed, "unet.drops", &scenes, step);
        let noisy = self.schedule.add_noise(&latents, &noise, &timesteps);
        let weights = self.weights.index_select(0, &timesteps);
        Sample { noisy, timesteps, ids, noise, weights }
    }
}

impl Sample {
    fn on(self, device: Device) -> Self {
        let Self { noisy, timesteps, ids, noise, weights } = self;
        let [noisy, noise, weights] = [noisy, noise, weights].map(|tensor| tensor.to_device(device));
        Self { noisy, timesteps, ids, noise, weights }
    }

    fn halves(self) -> [Self; 2] {
        let half = |index: i64| {
            let size = self.noisy.size()[0] / 2;
            let cut = |tensor: &Tensor| tensor.narrow(0, index * size, size);
            Self {
                noisy: cut(&self.noisy),
                timesteps: cut(&self.timesteps),
                ids: cut(&self.ids),
                noise: cut(&self.noise),
                weights: cut(&self.weights),
            }
        };
        [half(0), half(1)]
    }

    fn loss(&self, unet: &Unet, text: &TextTower) -> Tensor {
        let context = text.forward(&self.ids).last_hidden_state;
        let errors = (unet.forward(&self.noisy, &self.timesteps, &context, &NoHook) - &self.noise).square();
        let errors = errors.mean_dim([1_i64, 2, 3].as_slice(), false, None::<Kind>);
        (errors * &self.weights).mean(Kind::Float)
    }
}

/// What an error at each timestep counts, `[timesteps]`, one on average.
///
/// An error of the noise hides one of the picture `1/√SNR` times as large, so equal weights teach contours long before
/// shapes. Those of velocity prediction, `1 + 1/SNR` (arXiv:2202.00512), up to a bound; and `γ/SNR` where the picture
/// is all but clear (arXiv:2303.09556).
pub(super) fn loss_weights(schedule: &NoiseSchedule) -> Tensor {
    const MIN_SNR_GAMMA: f64 = 5.0;
    const MAX_WEIGHT: f64 = 10.0;
    let acp = schedule.alphas_cumprod();
    let noise_level: Tensor = 1.0 - acp;
    let snr = acp / noise_level;
    let weights = (snr.reciprocal() + 1.0).clamp_max(MAX_WEIGHT) * (snr.clamp_max(MIN_SNR_GAMMA) / &snr);
    &weights / weights.mean(Kind::Float)
}
