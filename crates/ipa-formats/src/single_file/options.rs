//! What the tensors of a single file leave open.

use serde::{Deserialize, Serialize};

use super::info::{ModelTask, ModelVersion};

/// What a UNet predicts.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictionType {
    /// The noise.
    Epsilon,
    /// The velocity of arXiv:2202.00512.
    VPrediction,
    /// The clean latents.
    Sample,
}

impl PredictionType {
    /// Name in a scheduler's configuration.
    pub fn name(self) -> &'static str {
        match self {
            PredictionType::Epsilon => "epsilon",
            PredictionType::VPrediction => "v_prediction",
            PredictionType::Sample => "sample",
        }
    }

    /// The one with this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Epsilon, Self::VPrediction, Self::Sample].into_iter().find(|known| known.name() == name)
    }
}

/// What the caller knows or wants beyond the tensors. The default is what diffusers does.
#[derive(Clone, Debug, Default)]
pub struct SingleFileOptions {
    /// Takes the UNet's weights from their running averages (`model_ema.…`).
    pub ema: bool,
    /// What the UNet predicts, if known.
    pub prediction_type: Option<PredictionType>,
    /// The number of training steps that `.ckpt` files store beside the tensors as `global_step`.
    pub global_step: Option<u64>,
    /// Keeps the parts of the text tower that Stable Diffusion does not read: OpenCLIP's last layer and
    /// the projection. The folder then holds a tower with projection, and nothing of it is lost on the way back.
    pub whole_text_tower: bool,
}

/// Training steps of the published Stable Diffusion 2 base, by which diffusers knows it.
const STEPS_OF_V2_BASE: u64 = 875_000;

impl SingleFileOptions {
    /// What the UNet predicts, and whether that is no more than the rule for its family.
    ///
    /// Tensors do not show it. The rule is that of diffusers: 1.x and every inpainting model predict the
    /// noise; 2.x predicts the velocity, as the 768-pixel models do, unless `global_step` is that of
    /// the published 512-pixel base, 875000. A 2.x base without that number has to be told.
    pub(super) fn prediction(&self, version: Option<ModelVersion>, task: Option<ModelTask>) -> (PredictionType, bool) {
        let is_v2 = version == Some(ModelVersion::V2) && task == Some(ModelTask::TextToImage);
        match (self.prediction_type, self.global_step) {
            (Some(known), _) => (known, false),
            (None, Some(STEPS_OF_V2_BASE)) if is_v2 => (PredictionType::Epsilon, false),
            (None, _) if is_v2 => (PredictionType::VPrediction, true),
            (None, _) => (PredictionType::Epsilon, true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prediction_follows_the_rule_unless_told() {
        let predicts = |options: SingleFileOptions, version, task| options.prediction(Some(version), Some(task));
        let steps = |steps| SingleFileOptions { global_step: Some(steps), ..Default::default() };
        let (v1, v2) = (ModelVersion::V1, ModelVersion::V2);
        let (plain, inpainting) = (ModelTask::TextToImage, ModelTask::Inpainting);
        let (epsilon, velocity) = (PredictionType::Epsilon, PredictionType::VPrediction);
        assert_eq!(predicts(Default::default(), v1, plain), (epsilon, true));
        assert_eq!(predicts(Default::default(), v2, plain), (velocity, true));
        assert_eq!(predicts(Default::default(), v2, inpainting), (epsilon, true));
        assert_eq!(predicts(steps(875_000), v2, plain), (epsilon, false));
        assert_eq!(predicts(steps(110_000), v2, plain), (velocity, true));
        assert_eq!(predicts(steps(875_000), v1, plain), (epsilon, true));
        let told = SingleFileOptions { prediction_type: Some(velocity), ..steps(875_000) };
        assert_eq!(predicts(told, v1, plain), (velocity, false));
    }
}
