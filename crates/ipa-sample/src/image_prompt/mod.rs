//! What a request says of its references: which adapter sees them, how they combine, where and when they act.

mod crop;
mod layers;
mod merge;
mod prepare;
mod presets;
mod source;

use std::path::{Path, PathBuf};

use ipa_adapter::Timing;
use serde::{Deserialize, Serialize};

use crate::RequestError;
pub use crop::{Crop, what_is_lost};
pub use layers::{BlockScale, LayerScales, Layers, PartScale, Parts, Tuned};
pub use merge::Merge;
pub use prepare::read_faces;
pub(crate) use prepare::{Prepared, References, Seeing, Shown, embeds_problem};
pub use presets::Preset;
pub use source::{AdapterSource, Reference};

/// References for one adapter: one entry of a request's `image_prompts`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImagePromptSpec {
    /// The adapter; without one, that which the command line names or the model brings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterSource>,
    /// The pictures.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<Reference>,
    /// Files of identity vectors for adapters that read faces; FaceID-Plus needs a picture for each vector too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faces: Vec<PathBuf>,
    /// What `ipa embed` wrote, in place of pictures; needs no image encoder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embeds: Option<PathBuf>,
    /// A picture to keep away from: under guidance it stands where otherwise nothing does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative: Option<Reference>,
    /// How several references become one prompt.
    pub merge: Merge,
    /// What the encoder, which sees squares, is to see of pictures that are none.
    pub crop: Crop,
    /// Shows pictures to the encoder with red and blue exchanged, as the demo of FaceID-Plus does with face crops.
    pub bgr: bool,
    /// Strength: 0 none, 1 as trained.
    pub scale: f64,
    /// Strength by layer, a factor on `scale`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Layers>,
    /// Factors on the strength in the course of sampling, the first at its beginning, the last at its end, interpolated.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<f64>,
    /// Share of the calls of the model after which it begins to act.
    pub start: f64,
    /// Share of the calls after which it ends.
    pub end: f64,
    /// Strength of the changes to the model that FaceID adapters bring; `scale` has no part in it.
    pub lora_scale: f64,
    /// How much FaceID-Plus v2 takes of the face's picture beside the identity, the reference's `s_scale`.
    pub structure: f64,
}

impl Default for ImagePromptSpec {
    fn default() -> Self {
        Self {
            adapter: None,
            images: Vec::new(),
            faces: Vec::new(),
            embeds: None,
            negative: None,
            merge: Merge::Concat,
            crop: Crop::Center,
            bgr: false,
            scale: 1.0,
            layers: None,
            curve: Vec::new(),
            start: 0.0,
            end: 1.0,
            lora_scale: 1.0,
            structure: 1.0,
        }
    }
}

impl ImagePromptSpec {
    /// When it acts.
    pub(crate) fn timing(&self) -> Timing {
        Timing { start: self.start, end: self.end, curve: self.curve.clone() }
    }

    /// Whether references are attended one by one, each in its part of the picture.
    pub(crate) fn is_masked(&self) -> bool {
        self.images.iter().any(|image| image.mask.is_some())
    }

    /// Every picture that it names: references, their masks, the negative one.
    pub(crate) fn pictures(&self) -> impl Iterator<Item = &Path> {
        let references = self.images.iter().chain(&self.negative);
        references.flat_map(|image| [Some(&image.file), image.mask.as_ref()]).flatten().map(PathBuf::as_path)
    }

    /// Every other file that it names but its adapter's: identity vectors and embeddings.
    pub(crate) fn tensor_files(&self) -> impl Iterator<Item = &Path> {
        self.faces.iter().chain(&self.embeds).map(PathBuf::as_path)
    }

    /// Paths relative to `folder`.
    pub(crate) fn relative_to(&mut self, folder: &Path) {
        let references = self.images.iter_mut().chain(&mut self.negative);
        let pictures = references.flat_map(|image| std::iter::once(&mut image.file).chain(&mut image.mask));
        let adapter = self.adapter.iter_mut().flat_map(AdapterSource::paths);
        for path in pictures.chain(&mut self.faces).chain(&mut self.embeds).chain(adapter) {
            *path = folder.join(&path);
        }
    }

    /// Checks every range, and that its parts go together.
    pub(crate) fn check(&self) -> Result<(), RequestError> {
        let refuse = |field, value: &dyn ToString, allowed| {
            Err(RequestError::Field { field, value: value.to_string(), allowed })
        };
        if self.images.is_empty() && self.faces.is_empty() && self.embeds.is_none() {
            return refuse("image_prompts", &"an entry without references", "give it images, faces or embeds");
        }
        if self.embeds.is_some() && (self.crop != Crop::Center || self.bgr) {
            return refuse("embeds", &"given with crop or bgr", "give those where the pictures are: to `ipa embed`");
        }
        if self.negative.as_ref().is_some_and(|negative| negative.mask.is_some()) {
            return refuse("negative", &"given a mask", "it acts wherever the references do: leave the mask out");
        }
        if self.embeds.is_some() && !(self.images.is_empty() && self.faces.is_empty()) {
            return refuse("embeds", &"given beside images or faces", "give one of them; embeds stand for both");
        }
        for (field, scale) in [("scale", self.scale), ("lora_scale", self.lora_scale), ("structure", self.structure)] {
            if !(0.0..=10.0).contains(&scale) {
                return refuse(field, &scale, "choose 0 to 10; 1 is as trained");
            }
        }
        if let Some(factor) = self.curve.iter().find(|factor| !(0.0..=10.0).contains(*factor)) {
            return refuse("curve", factor, "choose factors of 0 to 10; 1 leaves the strength as it is");
        }
        if !(0.0..=1.0).contains(&self.start) || !(self.start..=1.0).contains(&self.end) {
            let value = format!("{} with start {}", self.end, self.start);
            return refuse("end", &value, "choose 0 to 1 for both, end at least start");
        }
        if self.is_masked() && self.merge != Merge::Concat {
            return refuse(
                "merge",
                &self.merge,
                "with masks references stay apart: choose concat, or leave the masks out",
            );
        }
        self.images.iter().chain(&self.negative).try_for_each(Reference::check)?;
        self.crop.check()
    }
}
