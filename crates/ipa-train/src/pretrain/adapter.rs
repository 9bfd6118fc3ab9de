//! The pocket model's base adapter.

use std::path::{Path, PathBuf};

use ipa_adapter::{AdapterConfig, IpAdapter};
use ipa_clip::TextTower;
use ipa_core::noise::Draws;
use ipa_core::tch::{self, Device, Kind, Tensor, nn::VarStore};
use ipa_core::{Component, ThreadLimit, WeightsError};
use ipa_pocket::{Scene, Split, render_many};
use ipa_sample::{ImageEncoder, NoiseSchedule, SchedulerConfig};
use ipa_unet::{Unet, UnetConfig};
use serde_json::json;

use super::captions::Captions;
use super::kept::{kept, world};
use super::unet::loss_weights;
use super::{Recipe, Stage, StageError, halves};
use crate::Batch;
use crate::gradients::Gradients;
use crate::objective::weighted_loss;

/// Share of captions that are empty: image prompts are often used alone, and what captions say is not learned from
/// images.
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
        encoder.image_embeds(&render_many(&scenes, recipe.size)).to_device(Device::Cpu)
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
/// [`StageError`].
pub fn train(
    folder: &Path,
    recipe: &Recipe,
    materials: &Materials,
    progress: impl FnMut(&Stage),
) -> Result<IpAdapter, StageError> {
    let _threads = (recipe.device == Device::Cpu).then(|| ThreadLimit::new(1)); // a thread for each half
    let unet = materials.unet;
    let config = AdapterConfig::classic(materials.image_embeds.size()[1], &unet.config);
    let options = (recipe.device, Kind::Float);
    let adapter = match &materials.start {
        Some(file) => IpAdapter::load(file, &unet.config, options)?,
        None => {
            let adapter = IpAdapter::new(&config, options);
            adapter.initialize(&unet.vs.variables(), recipe.seed);
            adapter
        }
    };
    let origin = json!({ "world": world(recipe), "num_scenes": recipe.num_scenes });
    let mut stage = Stage::resume(folder, adapter.variables(), recipe.adapter, origin)?;
    let weighted = Weighted::new(&materials.scheduler);
    let mut twin = (recipe.device == Device::Cpu).then(|| Twin::new(unet, &adapter, &materials.scheduler));
    let learn = |stage: &mut Stage, (mut batch, ids): (Batch, Tensor)| {
        batch.text_embeds = tch::no_grad(|| materials.text.forward(&ids).last_hidden_state);
        match &mut twin {
            Some((twin, gradients)) => {
                let [near, far] = halves_of(&batch);
                let near = || weighted.loss(&unet.model, &adapter, &near);
                // Models may move to another thread, but not be seen by two.
                stage.learn_halves(gradients, near, move || twin.weighted.loss(&twin.unet, &twin.adapter, &far));
            }
            None => stage.learn(&weighted.loss(&unet.model, &adapter, &batch)),
        }
    };
    let source = Source::new(recipe, materials);
    stage.run(move |step| source.batch(step), learn, progress)?;
    Ok(adapter)
}

/// The loss of the schedule's timesteps.
struct Weighted {
    schedule: NoiseSchedule,
    weights: Tensor,
}

impl Weighted {
    fn new(scheduler: &SchedulerConfig) -> Self {
        let schedule = NoiseSchedule::new(scheduler);
        Self { weights: loss_weights(&schedule), schedule }
    }

    fn loss(&self, unet: &Unet, adapter: &IpAdapter, batch: &Batch) -> Tensor {
        let loss = weighted_loss(unet, adapter, &self.schedule, &self.weights, batch);
        loss.expect("the adapter was made for these embeddings")
    }
}

/// What the second half of a batch learns with on the CPU.
struct Twin {
    unet: Unet,
    adapter: IpAdapter,
    weighted: Weighted,
}

impl Twin {
    fn new(unet: &Component<UnetConfig, Unet>, adapter: &IpAdapter, scheduler: &SchedulerConfig) -> (Self, Gradients) {
        let vs = VarStore::new(Device::Cpu);
        let unet_twin = Unet::new(&vs.root(), &unet.config);
        let _frozen = halves::share(&unet.vs.variables(), vs.variables());
        let twin = IpAdapter::new(adapter.config(), (Device::Cpu, Kind::Float));
        let gradients = halves::share(&adapter.variables(), twin.variables());
        (Self { unet: unet_twin, adapter: twin, weighted: Weighted::new(scheduler) }, gradients)
    }
}

/// Where the batches come from.
struct Source<'a> {
    recipe: &'a Recipe,
    latents: Tensor,
    image_embeds: Tensor,
    captions: Captions<'a>,
    num_timesteps: i64,
}

impl<'a> Source<'a> {
    fn new(recipe: &'a Recipe, materials: &Materials<'a>) -> Self {
        let (latents, image_embeds) = (materials.latents.shallow_clone(), materials.image_embeds.shallow_clone());
        let num_timesteps = materials.scheduler.num_train_timesteps;
        Self { recipe, latents, image_embeds, captions: materials.captions, num_timesteps }
    }

    /// A batch without its text, and the ids of that.
    fn batch(&self, step: u64) -> (Batch, Tensor) {
        let (recipe, num) = (self.recipe, self.recipe.adapter.batch as i64);
        let draws = |purpose| Draws::counted(recipe.seed, purpose, step);
        let scenes = draws("adapter.scenes").integers(recipe.num_scenes as i64, &[num]);
        let latents = self.latents.index_select(0, &scenes);
        let noise = draws("adapter.noise").normal(&latents.size());
        let timesteps = draws("adapter.timesteps").integers(self.num_timesteps, &[num]);
        let kept = draws("adapter.images").uniform(&[num, 1]).ge(IMAGE_DROP_RATE);
        let image_features = self.image_embeds.index_select(0, &scenes) * kept.to_kind(Kind::Float);
        let ids = self.captions.ids(recipe.seed, "adapter.texts", &scenes, step);
        let batch = Batch {
            latents,
            noise,
            perturbation: None,
            timesteps,
            text_embeds: Tensor::new(),
            image_features: Some(image_features),
            face: None,
            weights: None,
            mask: None,
        };
        (batch, ids)
    }
}

fn halves_of(batch: &Batch) -> [Batch; 2] {
    let size = batch.latents.size()[0] / 2;
    [batch.narrow(0, size), batch.narrow(size, size)]
}
