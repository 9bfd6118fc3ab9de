//! The pocket model's base adapter.

use std::path::Path;

use ipa_adapter::{AdapterConfig, AdapterError, IpAdapter};
use ipa_clip::{ClipTokenizer, TextTower, token_tensor};
use ipa_core::noise::Draws;
use ipa_core::tch::{self, Device, Kind, Tensor};
use ipa_core::{Checkpoint, Component, WeightsError, save_tensors};
use ipa_pocket::{Scene, Split, caption, render_many};
use ipa_sample::{ImageEncoder, NoiseSchedule};
use ipa_unet::{Unet, UnetConfig};

use super::{Recipe, Stage};
use crate::{Batch, training_loss};

/// Share of captions that are empty: image prompts are often used alone.
const TEXT_DROP_RATE: f64 = 0.3;
const IMAGE_DROP_RATE: f64 = 0.1;

/// Image embeddings of the recipe's scenes, `[num_scenes, embed_dim]`; computed once, then read from `folder`.
///
/// # Errors
/// [`WeightsError`] if the cache cannot be read or written.
pub fn image_embeds(folder: &Path, recipe: &Recipe, encoder: &ImageEncoder) -> Result<Tensor, WeightsError> {
    let path = folder.join("image_embeds.safetensors");
    if !path.exists() {
        let embed = |first: u64| {
            let indices = first..(first + 128).min(recipe.num_scenes);
            let scenes: Vec<Scene> = indices.map(|index| Scene::draw_at(recipe.seed, index, Split::Train)).collect();
            encoder.image_embeds(&render_many(&scenes, recipe.size))
        };
        let chunks: Vec<Tensor> = (0..recipe.num_scenes).step_by(128).map(embed).collect();
        save_tensors(&path, [("image_embeds".to_owned(), Tensor::cat(&chunks, 0))], None)?;
    }
    Checkpoint::open(&path)?.tensor("image_embeds")
}

/// What a step learns from.
#[derive(Debug)]
pub struct Materials<'a> {
    /// Scaled latents of the scenes.
    pub latents: Tensor,
    /// Their image embeddings.
    pub image_embeds: Tensor,
    /// Tokenizer of the captions.
    pub tokenizer: &'a ClipTokenizer,
    /// Frozen text tower.
    pub text: &'a TextTower,
    /// Frozen UNet and its variables.
    pub unet: &'a Component<UnetConfig, Unet>,
    /// Its schedule.
    pub schedule: NoiseSchedule,
}

/// Trains in `folder`, calling `progress` after every step; the adapter ends as its average.
///
/// # Errors
/// [`AdapterError`] if the state cannot be read or written.
pub fn train(
    folder: &Path,
    recipe: &Recipe,
    materials: &Materials,
    mut progress: impl FnMut(&Stage),
) -> Result<IpAdapter, AdapterError> {
    let embed_dim = materials.image_embeds.size()[1];
    let config = AdapterConfig::classic(embed_dim, &materials.unet.config);
    let adapter = IpAdapter::new(&config, (Device::Cpu, Kind::Float));
    adapter.initialize(&materials.unet.vs.variables(), recipe.seed);
    let mut stage = Stage::resume(folder, adapter.variables(), recipe.adapter)?;
    while let Some(step) = stage.next_step() {
        let batch = batch(recipe, materials, step);
        stage.learn(&training_loss(&materials.unet.model, &adapter, &materials.schedule, &batch)?);
        if (step + 1) % 100 == 0 || stage.next_step().is_none() {
            stage.save()?;
        }
        progress(&stage);
    }
    stage.use_average();
    Ok(adapter)
}

fn batch(recipe: &Recipe, materials: &Materials, step: u64) -> Batch {
    let num = recipe.adapter.batch as i64;
    let draws = |purpose| Draws::counted(recipe.seed, purpose, step);
    let scenes = draws("adapter.scenes").integers(recipe.num_scenes as i64, &[num]);
    let latents = materials.latents.index_select(0, &scenes);
    let noise = draws("adapter.noise").normal(&latents.size());
    let timesteps = draws("adapter.timesteps").integers(materials.schedule.len(), &[num]);
    let kept = draws("adapter.images").uniform(&[num, 1]).ge(IMAGE_DROP_RATE);
    let image_embeds = materials.image_embeds.index_select(0, &scenes) * kept.to_kind(Kind::Float);
    Batch { latents, noise, timesteps, text_embeds: text_embeds(recipe, materials, &scenes, step), image_embeds }
}

fn text_embeds(recipe: &Recipe, materials: &Materials, scenes: &Tensor, step: u64) -> Tensor {
    let _no_grad = tch::no_grad_guard();
    let indices = Vec::<i64>::try_from(scenes).expect("scene numbers");
    let chances = Draws::counted(recipe.seed, "adapter.texts", step).uniform(&[indices.len() as i64]);
    let chances = Vec::<f32>::try_from(chances).expect("one number a scene");
    let encode = |(index, chance): (i64, f32)| {
        let scene = Scene::draw_at(recipe.seed, index as u64, Split::Train);
        let dropped = f64::from(chance) < TEXT_DROP_RATE;
        let text = if dropped { String::new() } else { caption(&scene, step, index as u64) };
        materials.tokenizer.encode(&text).expect("captions are plain text")
    };
    let ids: Vec<Vec<i64>> = indices.into_iter().zip(chances).map(encode).collect();
    materials.text.forward(&token_tensor(&ids)).last_hidden_state
}
