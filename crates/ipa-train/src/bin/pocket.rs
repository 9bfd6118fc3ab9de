//! Rebuilds the pocket model from nothing: `cargo xtask pocket [--short] [--folder DIR] [STAGE]...`
//!
//! Stages, in order: `vae`, `clip`, `scorer`, `unet`, `adapter`, `scores`. Without one, all of them. Each goes on where it was interrupted; state and
//! the model lie in `--folder`, by default `ipa/pocket` in the user's cache folder.

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use ipa_clip::{ClipModel, ClipTokenizer, TextTower};
use ipa_core::tch::{Device, Kind};
use ipa_formats::write_atomically;
use ipa_sample::{ImageEncoder, NoiseSchedule, Pipeline, SchedulerConfig};
use ipa_train::pretrain::captions::Captions;
use ipa_train::pretrain::{Recipe, Stage, adapter, clip, export, scores, unet, vae, vocabulary};
use ipa_unet::Unet;
use ipa_vae::{Vae, VaeConfig};

// libtorch allocates large activations anew at every operation; this keeps them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const OPTIONS: (Device, Kind) = (Device::Cpu, Kind::Float);

struct Workshop {
    folder: PathBuf,
    recipe: Recipe,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut recipe = Recipe::full();
    let mut folder =
        dirs::cache_dir().ok_or("this user has no cache folder; name one with --folder")?.join("ipa/pocket");
    let mut stages = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--short" => recipe = Recipe::short(),
            "--folder" => folder = arguments.next().ok_or("--folder needs a path")?.into(),
            _ => stages.push(argument),
        }
    }
    if stages.is_empty() {
        stages = ["vae", "clip", "scorer", "unet", "adapter", "scores"].map(str::to_owned).to_vec();
    }
    let workshop = Workshop { folder, recipe };
    for stage in stages {
        match stage.as_str() {
            "vae" => workshop.vae()?,
            "clip" => workshop.clip()?,
            "scorer" => workshop.scorer()?,
            "unet" => workshop.unet()?,
            "adapter" => workshop.adapter()?,
            "scores" => workshop.scores()?,
            _ => {
                return Err(
                    format!("`{stage}` is not a stage; choose vae, clip, scorer, unet, adapter or scores").into()
                );
            }
        }
    }
    Ok(())
}

impl Workshop {
    fn model(&self) -> PathBuf {
        self.folder.join("model")
    }

    fn stage(&self, name: &str) -> std::io::Result<PathBuf> {
        let folder = self.folder.join(name);
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    fn tokenizer(&self) -> Result<ClipTokenizer, Box<dyn Error>> {
        let folder = self.model().join("tokenizer");
        std::fs::create_dir_all(&folder)?;
        vocabulary::write(&folder, &ipa_pocket::vocabulary())?;
        Ok(ClipTokenizer::from_folder(&folder)?)
    }

    fn vae(&self) -> Result<(), Box<dyn Error>> {
        let (vs, vae) = vae::train(&self.stage("vae")?, &self.recipe, progress("vae"))?;
        let scaling_factor = vae::scaling_factor(&self.recipe, &vae);
        let psnr = vae::psnr(&self.recipe, &vae);
        println!("vae: {psnr:.2} dB on held-out scenes, scaling factor {scaling_factor:.5}");
        Ok(export::vae(&self.model(), &vs, &VaeConfig { scaling_factor, ..vae::config() })?)
    }

    fn clip(&self) -> Result<(), Box<dyn Error>> {
        let tokenizer = self.tokenizer()?;
        let towers = clip::train(&self.stage("clip")?, &self.recipe, &tokenizer, 4, progress("clip"))?;
        export::encoders(&self.model(), &towers)?;
        Ok(export::index(&self.model())?)
    }

    /// A second pair of towers from other weights and pictures, so that an adapter is not judged by its own eyes.
    fn scorer(&self) -> Result<(), Box<dyn Error>> {
        let tokenizer = self.tokenizer()?;
        let recipe = Recipe { seed: self.recipe.seed + 1, ..self.recipe.clone() };
        let towers = clip::train(&self.stage("scorer")?, &recipe, &tokenizer, 3, progress("scorer"))?;
        let folder = self.model().join("clip");
        export::clip(&folder, &towers)?;
        Ok(vocabulary::write(&folder, &ipa_pocket::vocabulary())?)
    }

    fn adapter(&self) -> Result<(), Box<dyn Error>> {
        let (stage, model) = (self.stage("adapter")?, self.model());
        let vae = Vae::load(&model.join("vae"), OPTIONS)?;
        let text = TextTower::load(&model.join("text_encoder"), OPTIONS)?;
        let encoder = ImageEncoder::load(&model.join("image_encoder"), None, OPTIONS)?;
        let unet = Unet::load_with_variables(&model.join("unet"), OPTIONS)?;
        let tokenizer = self.tokenizer()?;
        let materials = adapter::Materials {
            latents: unet::latents(&self.stage("unet")?, &self.recipe, &vae, vae.config().scaling_factor)?,
            image_embeds: adapter::image_embeds(&stage, &self.recipe, &encoder)?,
            captions: Captions { tokenizer: &tokenizer, text: &text, drop_rate: adapter::TEXT_DROP_RATE },
            unet: &unet,
            scheduler: SchedulerConfig::sd15_ddim(),
        };
        let adapter = adapter::train(&stage, &self.recipe, &materials, progress("adapter"))?;
        Ok(export::adapter(&model, &adapter)?)
    }

    fn unet(&self) -> Result<(), Box<dyn Error>> {
        let (stage, model) = (self.stage("unet")?, self.model());
        let vae = Vae::load(&model.join("vae"), OPTIONS)?;
        let text = TextTower::load(&model.join("text_encoder"), OPTIONS)?;
        let tokenizer = self.tokenizer()?;
        let materials = unet::Materials {
            latents: unet::latents(&stage, &self.recipe, &vae, vae.config().scaling_factor)?,
            captions: Captions { tokenizer: &tokenizer, text: &text, drop_rate: unet::TEXT_DROP_RATE },
            schedule: NoiseSchedule::new(&SchedulerConfig::sd15_ddim()),
        };
        let (vs, unet) = unet::train(&stage, &self.recipe, &materials, progress("unet"))?;
        Ok(export::unet(&model, &vs, unet.config())?)
    }

    /// Writes `scores.json` and `samples.png` beside the model.
    fn scores(&self) -> Result<(), Box<dyn Error>> {
        let model = self.model();
        let pipeline = Pipeline::load(&model, OPTIONS)?.with_adapter(&model.join("ip_adapter.safetensors"), None)?;
        let clip = ClipModel::load(&model.join("clip"), OPTIONS)?;
        let scored = scores::score(&pipeline, &clip, self.recipe.size, |done| {
            if done.is_multiple_of(20) {
                println!("scores {done} of {}", scores::NUM_SCENES);
            }
        })?;
        let text = serde_json::to_string_pretty(&scored.scores)?;
        println!("{text}");
        write_atomically(&self.folder.join("scores.json"), |file| file.write_all(text.as_bytes()))?;
        Ok(ipa_sample::write_png(&self.folder.join("samples.png"), &scored.sheet, &serde_json::Value::Null)?)
    }
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
