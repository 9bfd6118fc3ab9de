//! Protocol runs: many pictures drawn after the images of a captioned set, as arXiv:2308.06721 §4.2.1 scores adapters.
//!
//! [`ImageSet`] reads which images there are, [`Shard`] says which of them a run draws, and [`Protocol`] how. Drawing and
//! scoring are the caller's; what comes out are rows of [`crate::evaluation`].
//!
//! ```no_run
//! use ipa_metrics::protocol::{ImageSet, Protocol, Shard};
//!
//! let protocol = Protocol::paper();
//! let images = ImageSet::open("coco/annotations/captions_val2017.json".as_ref(), usize::MAX)?;
//! let shard: Shard = "1/3".parse()?;
//! for (image, sample) in shard.of(&images.images).flat_map(|image| (0..protocol.num_samples).map(move |n| (image, n))) {
//!     println!("{} with seed {}", image.file.display(), ipa_metrics::protocol::sample_seed(&image.id, sample));
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod captions;
mod coco;
mod error;
mod images;
mod seed;
mod shard;

pub use error::ProtocolError;
pub use images::{ImageSet, ProtocolImage, is_image};
pub use seed::sample_seed;
pub use shard::Shard;

use crate::evaluation::{Choice, Settings};

/// How a protocol draws and scores.
#[derive(Debug, Clone, PartialEq)]
pub struct Protocol {
    /// Pictures drawn from each image.
    pub num_samples: u32,
    /// Sampler by its name.
    pub sampler: String,
    /// Denoising steps.
    pub num_steps: usize,
    /// 1 + w of arXiv:2207.12598.
    pub guidance_scale: f64,
    /// The prompt beside the image.
    pub prompt: String,
    /// λ.
    pub scale: f64,
    /// Width and height of the pictures in pixels.
    pub size: [u32; 2],
    /// Images that were drawn after.
    pub num_images: usize,
    /// The CLIP that scores, by the names that it goes by.
    pub metric_models: Vec<String>,
}

impl Protocol {
    /// That of arXiv:2308.06721 §4.2.1: image prompt only, 4 samples of each image, DDIM with 50 steps, guidance 7.5.
    pub fn paper() -> Self {
        Self {
            num_samples: 4,
            sampler: "ddim".to_owned(),
            num_steps: 50,
            guidance_scale: 7.5,
            prompt: String::new(),
            scale: 1.0,
            size: [512, 512],
            num_images: 5000,
            metric_models: ["openai/clip-vit-large-patch14", "clip-vit-large-patch14", "clip-l"]
                .map(str::to_owned)
                .into(),
        }
    }

    /// What an evaluation that drew after so many images did otherwise, each in a few words.
    pub fn deviations(&self, settings: &Settings, num_images: usize) -> Vec<String> {
        let changed =
            |what: &str, own: String, here: String| (own != here).then(|| format!("{what} {here} in place of {own}"));
        let size = |[width, height]: [u32; 2]| format!("{width} × {height}");
        let is_theirs = self.metric_models.contains(&settings.metric_model);
        let own_model = self.metric_models.first().filter(|_| !is_theirs);
        let samples = settings.protocol.map_or(self.num_samples, |size| size.num_samples);
        let found = [
            own_model.map(|own| format!("scored by {} in place of {own}", settings.metric_model)),
            (self.num_images != num_images).then(|| format!("{num_images} images in place of {}", self.num_images)),
            changed("samples", self.num_samples.to_string(), samples.to_string()),
            changed("sampler", self.sampler.clone(), settings.sampler.clone()),
            changed("steps", self.num_steps.to_string(), settings.num_steps.to_string()),
            changed("guidance", self.guidance_scale.to_string(), settings.guidance_scale.to_string()),
            changed("λ", self.scale.to_string(), settings.scale.to_string()),
            changed("size", size(self.size), size(settings.size)),
        ];
        found.into_iter().flatten().collect()
    }

    /// What the paper leaves open, and what is done here; to be stated with the numbers.
    pub fn choices() -> Vec<Choice> {
        let choice = |(question, answer): (&str, &str)| Choice { question: question.into(), answer: answer.into() };
        [
            ("Which caption CLIP-T is measured with", "the first by annotation id, and separately the mean over all"),
            ("Formula of CLIP-T", "the raw cosine, and 2.5 · max(cos, 0) beside it, which the paper's numbers must be"),
            ("Prefix of captions", "none"),
            ("Seeds", "the first 53 bits of SHA-256 of `<image id>/<sample>`, samples counted from 0"),
            ("Size of pictures", "512 × 512, or the base model's own where that is another"),
            (
                "Images that are not square",
                "resized to the shorter side and cropped in the middle by CLIP's preprocessing",
            ),
        ]
        .map(choice)
        .to_vec()
    }
}
