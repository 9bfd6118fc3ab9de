//! A model of full size with random weights, on the disk: what [`ipa_sample::Pipeline`] is loaded from.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use ipa_adapter::IpAdapter;
use ipa_clip::{TextConfig, TextTower};
use ipa_core::noise::Draws;
use ipa_core::tch::{Device, Kind, nn};
use ipa_core::{save_tensors, save_variables};
use ipa_formats::{Component, read_json};
use ipa_sample::{AdapterSource, ImagePromptSpec};
use ipa_unet::{Unet, UnetConfig};
use ipa_vae::Vae;
use serde::Serialize;
use serde_json::{Map, Value};

use super::models::{Variant, fill, random};
use super::preset::Preset;
use crate::{interrupt, model};

/// In half the space of f32; who loads it computes in what it wants.
const KIND: Kind = Kind::Half;

/// Writes text tower, VAE and UNet, and, those of the model inside this program, sampler and tokenizer.
///
/// # Errors
/// If a file cannot be written, or there is no model inside this program.
pub(super) fn write_model(folder: &Path, preset: Preset) -> Result<()> {
    let pocket = model::bundled()?.files.path().to_owned();
    let (text, vae) = (preset.text()?, preset.vae()?);
    let part = |part: Component| folder.join(part.folder());
    write_part(&part(Component::TextEncoder), "model", &text, KIND, |vs| TextTower::new(vs, &text))?;
    write_part(&part(Component::Vae), "diffusion_pytorch_model", &vae, KIND, |vs| Vae::new(vs, &vae))?;
    write_unet(&part(Component::Unet), &preset.unet()?, KIND)?;
    for (place, names) in [
        ("scheduler", &["scheduler_config.json"][..]),
        ("tokenizer", &["vocab.json", "merges.txt", "special_tokens_map.json", TOKENIZER_CONFIG]),
    ] {
        make_folder(&folder.join(place))?;
        for file in names.iter().map(|name| Path::new(place).join(name)) {
            fs::copy(pocket.join(&file), folder.join(&file))
                .with_context(|| format!("cannot write {}", folder.join(&file).display()))?;
        }
    }
    lengthen(&folder.join("tokenizer").join(TOKENIZER_CONFIG), &text)
}

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// Prompts as long as the text tower takes.
fn lengthen(tokenizer_config: &Path, text: &TextConfig) -> Result<()> {
    let mut settings: Map<String, Value> = read_json(tokenizer_config)?;
    settings.insert("model_max_length".to_owned(), text.max_position_embeddings.into());
    write_json(tokenizer_config, &settings)
}

/// Writes a UNet's folder; the path of its weights.
///
/// # Errors
/// If a file cannot be written.
pub(super) fn write_unet(folder: &Path, config: &UnetConfig, kind: Kind) -> Result<PathBuf> {
    write_part(folder, "diffusion_pytorch_model", config, kind, |vs| Unet::new(vs, config))
}

/// Writes adapters of four tokens and references for them as `ipa embed` does: what a request then names.
///
/// # Errors
/// If a file cannot be written.
pub(super) fn write_image_prompts(
    folder: &Path,
    preset: Preset,
    num_adapters: i64,
    num_references: i64,
) -> Result<Vec<ImagePromptSpec>> {
    let options = (Device::Cpu, KIND);
    let adapter = IpAdapter::new(&Variant::Classic.config(preset, &preset.unet()?), options);
    fill(adapter.variables(), options);
    let embeds = folder.join("references.safetensors");
    let references = Draws::seeded(2).normal(&Variant::Classic.features(preset, num_references));
    save_tensors(&embeds, [("image_embeds".to_owned(), references)], None)?;
    let write = |number| {
        let file = folder.join(format!("adapter-{number}.safetensors"));
        adapter.save(&file, KIND, None)?;
        let adapter = Some(AdapterSource { file, ..AdapterSource::default() });
        Ok(ImagePromptSpec { adapter, embeds: Some(embeds.clone()), ..ImagePromptSpec::default() })
    };
    (0..num_adapters).map(write).collect()
}

fn write_part<M>(
    folder: &Path,
    weights: &str,
    config: &impl Serialize,
    kind: Kind,
    build: impl FnOnce(&nn::Path) -> M,
) -> Result<PathBuf> {
    interrupt::stop_if_requested("nothing was measured");
    make_folder(folder)?;
    write_json(&folder.join("config.json"), config)?;
    let file = folder.join(weights).with_extension("safetensors");
    let (_model, vs) = random((Device::Cpu, kind), build);
    save_variables(&file, &vs, kind, None)?;
    Ok(file)
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    fs::write(path, serde_json::to_string(value)?).with_context(|| format!("cannot write {}", path.display()))
}

fn make_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}
