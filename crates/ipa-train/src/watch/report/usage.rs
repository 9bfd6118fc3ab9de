//! How to use the adapter that was trained, here and elsewhere.

use ipa_formats::AdapterVariant;
use ipa_metrics::Report;

/// What the model that is built into the program is called.
const POCKET: &str = "pocket";

/// A finished adapter, as far as it takes to use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainedAdapter {
    /// Its file, relative to the page.
    pub file: String,
    /// What it is.
    pub variant: AdapterVariant,
    /// Tokens a picture becomes, where the variant leaves that open.
    pub num_tokens: Option<i64>,
    /// The base model, as it was named.
    pub model: String,
    /// Its image encoder, where it was named.
    pub image_encoder: Option<String>,
}

pub(super) fn section(page: &mut Report, adapter: Option<&TrainedAdapter>) {
    page.section("Use it");
    let Some(adapter) = adapter else {
        page.paragraph(
            "The run has not ended, so there is no finished adapter yet. Go on with `--resume`; the checkpoints' adapters \
             can be used already.",
        );
        return;
    };
    page.paragraph("In the folder of this page, with a picture of your own (relative paths of models begin where the training was started):");
    page.command(&command(adapter));
    match obstacle(adapter) {
        Some(obstacle) => page.paragraph(obstacle),
        None => elsewhere(page, adapter),
    };
}

fn command(adapter: &TrainedAdapter) -> String {
    let TrainedAdapter { file, model, image_encoder, variant, .. } = adapter;
    let encoder = image_encoder.as_ref().map(|folder| format!("--image-encoder {} ", quoted(folder)));
    let picture = if reads_pictures(*variant) { " --image picture.png" } else { "" };
    let face = if reads_faces(*variant) { " --face face.npy" } else { "" };
    format!(
        "ipa generate --model {} --adapter {} \\\n  {}--scale 0.6{picture}{face} \\\n  \
         --prompt \"what else is to be seen\" --output drawn.png",
        quoted(model),
        quoted(file),
        encoder.unwrap_or_default(),
    )
}

/// Why no other program reads it.
fn obstacle(adapter: &TrainedAdapter) -> Option<&'static str> {
    match (adapter.variant, adapter.num_tokens) {
        _ if adapter.model == POCKET => {
            Some("An adapter for the pocket model fits the pocket model alone; other programs do not have that.")
        }
        (AdapterVariant::Simple | AdapterVariant::Prefusion, _) => {
            Some("Variants for research are read by no other program.")
        }
        (AdapterVariant::Base, Some(num_tokens)) if num_tokens != 4 => {
            Some("Other programs take every adapter of this variant for one with 4 tokens and read this one wrong.")
        }
        _ => None,
    }
}

fn elsewhere<'a>(page: &'a mut Report, adapter: &TrainedAdapter) -> &'a mut Report {
    let TrainedAdapter { file, variant, num_tokens, .. } = adapter;
    let lora = match variant.has_lora() {
        true => " (its LoRA needs the package `peft`)",
        false => "",
    };
    page.paragraph(&format!("In diffusers{lora}:"));
    page.command(&format!(
        "{}\npipeline.load_ip_adapter(\".\", subfolder=\"\", weight_name={file:?}, image_encoder_folder=None)\n\
         pipeline.set_ip_adapter_scale(0.6)",
        pipeline(adapter)
    ));
    let comfy = match (variant, num_tokens) {
        (AdapterVariant::Plus, Some(num_tokens)) if *num_tokens != 16 => {
            "ComfyUI takes every adapter of this variant for one with 16 tokens and cannot read this one."
        }
        _ if reads_faces(*variant) => {
            "ComfyUI, with the ComfyUI_IPAdapter_plus nodes: copy the file to ComfyUI/models/ipadapter/, the encoder, if it \
             has one, to ComfyUI/models/clip_vision/, and connect “IPAdapter Model Loader” to “IPAdapter FaceID”. A LoRA \
             inside the file is ignored there."
        }
        _ => {
            "ComfyUI, with the ComfyUI_IPAdapter_plus nodes: copy the file to ComfyUI/models/ipadapter/ and the encoder's \
             model.safetensors to ComfyUI/models/clip_vision/, load them with “IPAdapter Model Loader” and “Load CLIP \
             Vision”, and connect both to “IPAdapter Advanced”. The “Unified Loader” knows published names only."
        }
    };
    page.paragraph(comfy)
}

/// The lines that make diffusers' pipeline, with the encoder of the training if the adapter reads one.
fn pipeline(TrainedAdapter { variant, model, image_encoder, .. }: &TrainedAdapter) -> String {
    if !reads_pictures(*variant) {
        return format!("pipeline = StableDiffusionPipeline.from_pretrained({model:?})");
    }
    let encoder = image_encoder.clone().unwrap_or_else(|| format!("{model}/image_encoder"));
    format!(
        "pipeline = StableDiffusionPipeline.from_pretrained(\n    {model:?},\n    \
         image_encoder=CLIPVisionModelWithProjection.from_pretrained({encoder:?}),\n)"
    )
}

fn reads_pictures(variant: AdapterVariant) -> bool {
    !matches!(variant, AdapterVariant::FaceId | AdapterVariant::Portrait | AdapterVariant::PortraitUnnorm)
}

fn reads_faces(variant: AdapterVariant) -> bool {
    variant.has_lora() || matches!(variant, AdapterVariant::Portrait | AdapterVariant::PortraitUnnorm)
}

/// For a shell, only where that is needed.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(variant: AdapterVariant, num_tokens: Option<i64>) -> TrainedAdapter {
        let (file, model) = ("ip_adapter.safetensors".to_owned(), "models/my sd".to_owned());
        TrainedAdapter { file, variant, num_tokens, model, image_encoder: Some("encoder".to_owned()) }
    }

    fn shown(adapter: &TrainedAdapter) -> String {
        let mut page = Report::new("", "");
        section(&mut page, Some(adapter));
        page.to_html()
    }

    #[test]
    fn the_command_can_be_pasted() {
        let command = command(&adapter(AdapterVariant::Plus, Some(16)));
        let opening =
            "ipa generate --model 'models/my sd' --adapter ip_adapter.safetensors \\\n  --image-encoder encoder";
        assert!(command.starts_with(opening), "{command}");
        let face = super::command(&TrainedAdapter { image_encoder: None, ..adapter(AdapterVariant::FaceId, None) });
        assert!(face.contains("--face face.npy") && !face.contains("--image"), "{face}");
        assert_eq!(quoted("it's"), "'it'\\''s'");
    }

    #[test]
    fn programs_that_cannot_read_it_are_not_named() {
        for (adapter, diffusers, comfy) in [
            (adapter(AdapterVariant::Base, Some(4)), true, true),
            (adapter(AdapterVariant::Base, Some(8)), false, false),
            (adapter(AdapterVariant::Plus, Some(32)), true, false),
            (adapter(AdapterVariant::Simple, Some(16)), false, false),
            (adapter(AdapterVariant::FaceId, None), true, true),
            (TrainedAdapter { model: POCKET.into(), ..adapter(AdapterVariant::Base, Some(4)) }, false, false),
        ] {
            let html = shown(&adapter);
            assert_eq!(html.contains("load_ip_adapter"), diffusers, "{adapter:?}");
            assert_eq!(html.contains("models/ipadapter/"), comfy, "{adapter:?}");
        }
    }

    #[test]
    fn a_run_that_has_not_ended_says_so() {
        let mut page = Report::new("", "");
        section(&mut page, None);
        assert!(page.to_html().contains("has not ended"));
    }
}
