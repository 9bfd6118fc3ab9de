//! The stages, each with its folder.

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use ipa_clip::{ClipModel, ClipTokenizer, TextTower};
use ipa_core::tch::{Device, Kind};
use ipa_formats::write_atomically;
use ipa_sample::{ImageEncoder, Pipeline, SchedulerConfig};
use ipa_train::pretrain::captions::Captions;
use ipa_train::pretrain::{Recipe, Stage, adapter, clip, export, scores, unet, vae, vocabulary};
use ipa_unet::Unet;
use ipa_vae::{Vae, VaeConfig};

use crate::curves;

const MAX_PIPELINES: usize = 8;

/// Where the state of every stage and the model lie, and how long the stages are.
#[derive(Debug)]
pub(crate) struct Workshop {
    pub(crate) folder: PathBuf,
    pub(crate) recipe: Recipe,
    /// A finished model that autoencoder, UNet and adapter begin with.
    pub(crate) from: Option<PathBuf>,
}

impl Workshop {
    fn options(&self) -> (Device, Kind) {
        (self.recipe.device, Kind::Float)
    }

    fn model(&self) -> PathBuf {
        self.folder.join("model")
    }

    /// The weights file of one of the model's components.
    fn weights(&self, component: &str) -> PathBuf {
        let name = match component {
            "vae" | "unet" => "diffusion_pytorch_model.safetensors",
            _ => "model.safetensors",
        };
        self.model().join(component).join(name)
    }

    /// Takes over the finished model to begin with, if there is one and it was not taken over before.
    pub(crate) fn adopt(&self) -> Result<()> {
        match &self.from {
            Some(from) if !self.model().exists() => {
                let unfinished = self.folder.join("model-unfinished"); // an interrupted copy is begun again
                copy_folder(from, &unfinished)?;
                Ok(std::fs::rename(unfinished, self.model())?)
            }
            _ => Ok(()),
        }
    }

    /// A file of the adopted model, for a stage to begin with.
    fn start(&self, file: PathBuf) -> Option<PathBuf> {
        self.from.as_ref().map(|_| file)
    }

    fn stage(&self, name: &str) -> std::io::Result<PathBuf> {
        let folder = self.folder.join(name);
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    fn tokenizer(&self) -> Result<ClipTokenizer> {
        let folder = self.model().join("tokenizer");
        std::fs::create_dir_all(&folder)?;
        vocabulary::write(&folder, &ipa_pocket::vocabulary())?;
        Ok(ClipTokenizer::from_folder(&folder)?)
    }

    pub(crate) fn vae(&self) -> Result<()> {
        let (vs, vae) =
            vae::train(&self.stage("vae")?, &self.recipe, self.start(self.weights("vae")).as_deref(), progress("vae"))?;
        let scaling_factor = vae::scaling_factor(&self.recipe, &vae);
        println!("vae: scaling factor {scaling_factor:.5}");
        Ok(export::vae(&self.model(), &vs, &VaeConfig { scaling_factor, ..vae::config() })?)
    }

    pub(crate) fn clip(&self) -> Result<()> {
        let tokenizer = self.tokenizer()?;
        let towers = clip::train(&self.stage("clip")?, &self.recipe, &tokenizer, 4, progress("clip"))?;
        // A UNet learns with the text tower, which is its own from then on.
        if self.from.is_none() && !self.stage("unet")?.join("state.safetensors").exists() {
            export::text_encoder(&self.model(), &towers)?;
        }
        export::image_encoder(&self.model(), &towers)?;
        Ok(export::index(&self.model())?)
    }

    /// A second pair of towers from other weights and pictures, so that an adapter is not judged by its own eyes.
    pub(crate) fn scorer(&self) -> Result<()> {
        let tokenizer = self.tokenizer()?;
        let recipe = Recipe { seed: self.recipe.seed + 1, ..self.recipe.clone() };
        let towers = clip::train(&self.stage("scorer")?, &recipe, &tokenizer, 3, progress("scorer"))?;
        let folder = self.model().join("clip");
        export::clip(&folder, &towers)?;
        Ok(vocabulary::write(&folder, &ipa_pocket::vocabulary())?)
    }

    pub(crate) fn adapter(&self) -> Result<()> {
        let (stage, model) = (self.stage("adapter")?, self.model());
        let vae = Vae::load(&model.join("vae"), self.options())?;
        let text = TextTower::load(&model.join("text_encoder"), self.options())?;
        let encoder = ImageEncoder::load(&model.join("image_encoder"), None, self.options())?;
        let unet = Unet::load_with_variables(&model.join("unet"), self.options())?;
        let tokenizer = self.tokenizer()?;
        let materials = adapter::Materials {
            latents: unet::latents(&self.stage("unet")?, &self.weights("vae"), &self.recipe, &vae)?,
            image_embeds: adapter::image_embeds(&stage, &self.weights("image_encoder"), &self.recipe, &encoder)?,
            captions: Captions { tokenizer: &tokenizer, drop_rate: adapter::TEXT_DROP_RATE },
            text: &text,
            unet: &unet,
            scheduler: SchedulerConfig::sd15_ddim(),
            // One that was made for another image encoder is no beginning.
            start: self.start(model.join("ip_adapter.safetensors")).filter(|_| !self.folder.join("clip").exists()),
        };
        let adapter = adapter::train(&stage, &self.recipe, &materials, progress("adapter"))?;
        Ok(export::adapter(&model, &adapter)?)
    }

    pub(crate) fn unet(&self) -> Result<()> {
        let (stage, model) = (self.stage("unet")?, self.model());
        let vae = Vae::load(&model.join("vae"), self.options())?;
        let tokenizer = self.tokenizer()?;
        let materials = unet::Materials {
            latents: unet::latents(&stage, &self.weights("vae"), &self.recipe, &vae)?,
            captions: Captions { tokenizer: &tokenizer, drop_rate: unet::TEXT_DROP_RATE },
            text: TextTower::load_with_variables(&model.join("text_encoder"), self.options())?,
            scheduler: SchedulerConfig::sd15_ddim(),
            start: self.start(self.weights("unet")),
        };
        let (vs, unet) = unet::train(&stage, &self.recipe, &materials, progress("unet"))?;
        export::text_weights(&model, &materials.text.vs)?;
        Ok(export::unet(&model, &vs, unet.config())?)
    }

    /// Writes `scores.json` and `samples.png` beside the model.
    pub(crate) fn scores(&self) -> Result<()> {
        let model = self.model();
        let load =
            |_| Pipeline::load(&model, self.options())?.with_adapter(&model.join("ip_adapter.safetensors"), None);
        let num = std::thread::available_parallelism().map_or(1, NonZero::get).min(MAX_PIPELINES);
        let mut pipelines = (0..num).map(load).collect::<Result<Vec<_>, _>>()?;
        let clip = ClipModel::load(&model.join("clip"), self.options())?;
        let vae = Vae::load(&model.join("vae"), self.options())?;
        let scored = scores::score(&mut pipelines, (&clip, &vae), &self.recipe, |done| {
            if done.is_multiple_of(20) {
                println!("scores {done} of {}", self.recipe.num_scored);
            }
        })?;
        let text = serde_json::to_string_pretty(&scored.scores)?;
        println!("{text}");
        write_atomically(&self.folder.join("scores.json"), |file| file.write_all(text.as_bytes()))?;
        let sheet = ipa_metrics::encode_png(&scored.sheet);
        Ok(write_atomically(&self.folder.join("samples.png"), |file| file.write_all(&sheet))?)
    }

    /// Writes `losses.svg` beside the model.
    pub(crate) fn curves(&self) -> Result<()> {
        let curves = curves::svg(&self.folder)?;
        Ok(write_atomically(&self.folder.join("losses.svg"), |file| file.write_all(curves.as_bytes()))?)
    }
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_folder(&entry.path(), &to)?,
            false => drop(std::fs::copy(entry.path(), to)?),
        }
    }
    Ok(())
}

fn progress(name: &'static str) -> impl FnMut(&Stage) {
    let started = Instant::now();
    move |stage| {
        let step = stage.losses().len();
        if step % 50 == 0 {
            println!(
                "{name} step {step} loss {:.5} after {:.0} s",
                stage.recent_loss(50),
                started.elapsed().as_secs_f64()
            );
        }
    }
}
