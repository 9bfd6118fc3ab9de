//! Whether the parts of a model belong together, and the size they draw at together.

use ipa_clip::TextConfig;
use ipa_core::{Config, read_config};
use ipa_formats::{Component, ModelFiles, ModelTask};
use ipa_unet::UnetConfig;
use ipa_vae::VaeConfig;

use crate::PipelineError;

/// Compares what the parts' `config.json` say of each other, before any weights are loaded, and tells by the UNet's
/// channels what the model is for.
///
/// Tokenizer and text encoder are compared by [`ClipTokenizer::for_tower`](ipa_clip::ClipTokenizer::for_tower).
///
/// # Errors
/// [`PipelineError::Parts`] naming the two fields that differ; as for loading if a part cannot be read.
pub fn check_parts(model: &ModelFiles) -> Result<ModelTask, PipelineError> {
    let text: TextConfig = part(model, Component::TextEncoder)?;
    let unet: UnetConfig = part(model, Component::Unet)?;
    let vae: VaeConfig = part(model, Component::Vae)?;
    let latents = ("vae", "latent_channels", vae.latent_channels);
    // Beside the noisy latents: a mask and a masked picture's latents.
    let is_inpainting = unet.in_channels == 2 * vae.latent_channels + 1;
    let latents_in = if is_inpainting { vae.latent_channels } else { unet.in_channels };
    let pairs = [
        (("unet", "in_channels", latents_in), latents),
        (("unet", "out_channels", unet.out_channels), latents),
        (("unet", "cross_attention_dim", unet.cross_attention_dim), ("text_encoder", "hidden_size", text.hidden_size)),
    ];
    match pairs.into_iter().find(|((.., found), (.., expected))| found != expected) {
        Some((found, expected)) => {
            let place = if model.single_file().is_some() { "" } else { "/config.json" };
            let said = |(part, field, value)| format!("`{field}` of {part}{place} is {value}");
            Err(PipelineError::Parts { model: model.path().into(), found: said(found), expected: said(expected) })
        }
        None if is_inpainting => Ok(ModelTask::Inpainting),
        None => Ok(ModelTask::TextToImage),
    }
}

/// The side of a picture at which a model was trained, in pixels.
pub fn native_side(unet: &UnetConfig, vae: &VaeConfig) -> u32 {
    let version = unet.others.get("_diffusers_version").and_then(|version| version.as_str());
    let latents = match unet.sample_size {
        // Parity: diffusers takes no smaller size from files of its first versions, which said 32 of models for 64.
        Some(side) if version.is_some_and(is_before_0_9) => side.max(64),
        Some(side) => side,
        None => 64,
    };
    (latents * vae.downsampling()) as u32
}

fn part<C: Config>(model: &ModelFiles, part: Component) -> Result<C, PipelineError> {
    Ok(read_config(&model.component(part)?)?)
}

fn is_before_0_9(version: &str) -> bool {
    let minor = version.strip_prefix("0.").and_then(|rest| rest.split('.').next());
    minor.and_then(|minor| minor.parse::<u32>().ok()).is_some_and(|minor| minor < 9)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(sample_size: Option<i64>, version: Option<&str>) -> u32 {
        let others = version.map(|version| ("_diffusers_version".to_owned(), version.into())).into_iter().collect();
        native_side(&UnetConfig { sample_size, others, ..UnetConfig::sd15() }, &VaeConfig::sd15())
    }

    #[test]
    fn files_of_the_first_versions_say_too_small_a_size() {
        for version in ["0.2.2", "0.6.0", "0.8.1"] {
            assert_eq!(side(Some(32), Some(version)), 512, "{version}");
            assert_eq!(side(Some(96), Some(version)), 768, "{version}");
        }
        for version in [Some("0.9.0"), Some("0.10.2"), Some("0.42.1"), Some("1.0.0"), None] {
            assert_eq!(side(Some(32), version), 256, "{version:?}");
        }
        assert_eq!(side(None, None), 512);
    }
}
