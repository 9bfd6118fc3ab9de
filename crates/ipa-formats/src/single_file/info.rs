//! What a single file was recognised as, to be shown.

use std::fmt;

use serde::Serialize;

use super::{Component, PredictionType};

/// Generation of Stable Diffusion.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub enum ModelVersion {
    /// 1.x: OpenAI's CLIP text tower, projections by convolution.
    #[serde(rename = "sd-1.x")]
    V1,
    /// 2.x: OpenCLIP text tower, linear projections.
    #[serde(rename = "sd-2.x")]
    V2,
}

/// What a UNet takes beside the noisy latents, by its input channels.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelTask {
    /// Nothing: 4 channels.
    TextToImage,
    /// A mask and the masked picture's latents: 9 channels.
    Inpainting,
    /// The latents of the picture to be changed: 8 channels.
    InstructPix2Pix,
}

/// What a single file was recognised as.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct SingleFileInfo {
    /// Generation; `None` for an autoencoder alone, which does not show it.
    pub version: Option<ModelVersion>,
    /// What its UNet is for, if there is one.
    pub task: Option<ModelTask>,
    /// The models in it.
    pub components: Vec<Component>,
    /// What its UNet predicts, if there is one.
    pub prediction_type: Option<PredictionType>,
    /// Whether that is only the rule for its family: tensors do not show it.
    pub prediction_assumed: bool,
    /// Whether running averages of the UNet's weights lie beside the weights.
    pub has_ema: bool,
    /// Whether the averages are taken.
    pub uses_ema: bool,
    /// Number of tensors that are known and not needed, such as the noise schedule and the averages.
    pub num_unread: usize,
    /// Tensors that no published model has, sorted: worth a warning.
    pub unknown: Vec<String>,
}

impl fmt::Display for SingleFileInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.version {
            Some(ModelVersion::V1) => "Stable Diffusion 1.x",
            Some(ModelVersion::V2) => "Stable Diffusion 2.x",
            None => "Stable Diffusion",
        })?;
        f.write_str(match self.task {
            Some(ModelTask::Inpainting) => " for inpainting",
            Some(ModelTask::InstructPix2Pix) => " for editing by instruction (InstructPix2Pix)",
            Some(ModelTask::TextToImage) | None => "",
        })?;
        let components: Vec<&str> = self.components.iter().map(|component| component.folder()).collect();
        write!(f, ", single file with {}", components.join(", "))?;
        if let Some(prediction) = self.prediction_type {
            let why = if self.prediction_assumed { " (by rule; tensors do not show it)" } else { "" };
            write!(f, "; predicts {}{why}", prediction.name())?;
        }
        match (self.has_ema, self.uses_ema) {
            (_, true) => f.write_str("; averaged weights (EMA) in use")?,
            (true, false) => f.write_str("; averaged weights (EMA) there, not in use")?,
            (false, false) => {}
        }
        if self.num_unread > 0 {
            write!(f, "; {} tensors not needed", self.num_unread)?;
        }
        match &self.unknown[..] {
            [] => Ok(()),
            [first, ..] => write!(f, "; {} tensors unknown, first `{first}`", self.unknown.len()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn info() -> SingleFileInfo {
        SingleFileInfo {
            version: Some(ModelVersion::V2),
            task: Some(ModelTask::Inpainting),
            components: vec![Component::Unet, Component::TextEncoder],
            prediction_type: Some(PredictionType::Epsilon),
            prediction_assumed: true,
            has_ema: true,
            uses_ema: false,
            num_unread: 3,
            unknown: vec!["a.b".to_owned(), "c".to_owned()],
        }
    }

    #[test]
    fn one_line_says_it_all() {
        let expected = "Stable Diffusion 2.x for inpainting, single file with unet, text_encoder; predicts epsilon (by rule; \
                        tensors do not show it); averaged weights (EMA) there, not in use; 3 tensors not needed; \
                        2 tensors unknown, first `a.b`";
        assert_eq!(info().to_string(), expected);
        let vae = SingleFileInfo {
            version: None,
            task: None,
            components: vec![Component::Vae],
            prediction_type: None,
            has_ema: false,
            num_unread: 0,
            unknown: vec![],
            ..info()
        };
        assert_eq!(vae.to_string(), "Stable Diffusion, single file with vae");
    }

    #[test]
    fn the_fields_have_names_for_programs() {
        let json = serde_json::to_value(info()).unwrap();
        assert_eq!((&json["version"], &json["task"]), (&"sd-2.x".into(), &"inpainting".into()));
        assert_eq!(json["components"], serde_json::json!(["unet", "text_encoder"]));
        assert_eq!(json["prediction_type"], "epsilon");
    }
}
