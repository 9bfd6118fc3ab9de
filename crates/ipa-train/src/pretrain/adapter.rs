//! The pocket model's base adapter.

use std::path::{Path, PathBuf};

use ipa_adapter::{AdapterConfig, AdapterError, IpAdapter};
use ipa_clip::TextTower;
use ipa_core::noise::Draws;
use ipa_core::tch::{self, Device, Kind, Tensor, nn::VarStore};
use ipa_core::{Component, ThreadLimit, WeightsError};
use ipa_pocket::{Scene, Split, render_many};
use ipa_sample::{ImageEncoder, NoiseSchedule, SchedulerConfig};
use ipa_unet::{Unet, UnetConfig};

use super::captions::Captions;
use super::kept::kept;
use super::unet::loss_weights;
use super::{Recipe, Stage, halves};
use crate::Batch;
use crate::objective::weighted_loss;

/// Share of captions that are empty: image prompts are often used alone, and what captions say is not learned from images.
pub const TEXT_DROP_RATE: f64 = 0.5;
const IMAGE_DROP_RATE: f64 = 0.1;

/// Image embeddings of the recipe's scenes, `[num_scenes, embed_dim]`; computed once, then read from `folder`.
///
/// `weights` is the encoder's file.
///
/// # Errors
/// [`WeightsError`] if the cache cannot be read or written.
pub fn image_embeds(
    folder: &Path,
    weights: &Path,
    recipe: &Recipe,
    encoder: &ImageEncoder,
) -> Result<Tensor, WeightsError> {
    let embed = |first: u64| {
        let indices = first..(first + 128).min(recipe.num_scenes);
        let scenes: Vec<Scene> = indices.map(|index| Scene::draw_at(recipe.seed, index, Split::Train)).collect();
        encoder.image_embeds(&render_many(&scenes, recipe.size))
    };
    kept(&folder.join("image_embeds.safetensors"), weights, recipe, || {
        Tensor::cat(&(0..recipe.num_scenes).step_by(128).map(embed).collect::<Vec<_>>(), 0)
    })
}

/// What a step learns from.
#[derive(Debug)]
pub struct Materials<'a> {
    /// Scaled latents of the scenes.
    pub latents: Tensor,
    /// Their image embeddings.
    pub image_embeds: Tensor,
    /// Their captions, some left out.
    pub captions: Captions<'a>,
    /// Frozen text tower.
    pub text: &'a TextTower,
    /// Frozen UNet and its variables.
    pub unet: &'a Component<UnetConfig, Unet>,
    /// Its schedule.
    pub scheduler: SchedulerConfig,
    /// An adapter to begin with instead of the UNet's own keys and values.
    pub start: Option<PathBuf>,
}

/// Trains in `folder`, calling `progress` after every step; the adapter ends as its average. Errors are weighted as in
/// the UNet's own training, towards contours and shapes.
///
/// # Errors
/// [`AdapterError`] if the state cannot be read or written.
pub fn train(
    folder: &Path,
    recipe: &Recipe,
    materials: &Materials,
    mut progress: impl FnMut(&Stage),
) -> Result<IpAdapter, AdapterError> {
    let _threads = ThreadLimit::new(1);
    let unet = materials.unet;
    let config = AdapterConfig::classic(materials.image_embeds.size()[1], &unet.config);
    let options = (Device::Cpu, Kind::Float);
    let twin = IpAdapter::new(&config, options);
    let adapter = match &materials.start {
        Some(file) => IpAdapter::load(file, &unet.config, options)?,
        None => {
            let adapter = IpAdapter::new(&config, options);
            adapter.initialize(&unet.vs.variables(), recipe.seed);
            adapter
        }
    };
    let mut stage = Stage::resume(folder, adapter.variables(), recipe.adapter)?;
    let twin_variables = twin.variables();
    halves::share(&adapter.variables(), &twin_variables);
    let schedule = NoiseSchedule::new(&materials.scheduler);
    let weights = loss_weights(&schedule);
    let mut others = (unet_twin(unet), twin, NoiseSchedule::new(&materials.scheduler), weights.copy());
    while let Some(step) = stage.next_step() {
        let [near, far] = halves_of(&batch(recipe, materials, step));
        let others = &mut others; // models may move to another thread, but not be seen by two
        let near = || loss(&unet.model, &adapter, &schedule, &weights, &near);
        stage.learn_halves(&twin_variables, near, move || loss(&others.0, &others.1, &others.2, &others.3, &far));
        if (step + 1) % 100 == 0 || stage.next_step().is_none() {
            stage.save()?;
        }
        progress(&stage);
    }
    stage.use_average();
    Ok(adapter)
}

fn loss(unet: &Unet, adapter: &IpAdapter, schedule: &NoiseSchedule, weights: &Tensor, batch: &Batch) -> Tensor {
    weighted_loss(unet, adapter, schedule, weights, batch).expect("the adapter was made for these embeddings")
}

fn unet_twin(unet: &Component<UnetConfig, Unet>) -> Unet {
    let vs = VarStore::new(Device::Cpu);
    let twin = Unet::new(&vs.root(), &unet.config);
    halves::share(&unet.vs.variables(), &vs.variables());
    twin
}

fn batch(recipe: &Recipe, materials: &Materials, step: u64) -> Batch {
    let num = recipe.adapter.batch as i64;
    let draws = |purpose| Draws::counted(recipe.seed, purpose, step);
    let scenes = draws("adapter.scenes").integers(recipe.num_scenes as i64, &[num]);
    let latents = materials.latents.index_select(0, &scenes);
    let noise = draws("adapter.noise").normal(&latents.size());
    let timesteps = draws("adapter.timesteps").integers(materials.scheduler.num_train_timesteps, &[num]);
    let kept = draws("adapter.images").uniform(&[num, 1]).ge(IMAGE_DROP_RATE);
    let image_embeds = materials.image_embeds.index_select(0, &scenes) * kept.to_kind(Kind::Float);
    let ids = materials.captions.ids(recipe.seed, "adapter.texts", &scenes, step);
    let text_embeds = tch::no_grad(|| materials.text.forward(&ids).last_hidden_state);
    Batch { latents, noise, timesteps, text_embeds, image_embeds }
}

fn halves_of(batch: &Batch) -> [Batch; 2] {
    [0, 1].map(|index| {
        let size = batch.latents.size()[0] / 2;
        let cut = |tensor: &Tensor| tensor.narrow(0, index * size, size);
        Batch {
            latents: cut(&batch.latents),
            noise: cut(&batch.noise),
            timesteps: cut(&batch.timesteps),
            text_embeds: cut(&batch.text_embeds),
            image_embeds: cut(&batch.image_embeds),
        }
    })
}
