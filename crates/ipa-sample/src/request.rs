//! What a user asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::prompt::weighting;
use crate::{AdapterSource, Fast, ImagePromptSpec, Reference, SamplerKind, UnknownSampler};

/// Largest side of a picture in pixels.
pub const MAX_SIDE: u32 = 4096;
/// Most pictures of one request.
pub const MAX_IMAGES: u32 = 1000;

/// What the reference draws where nobody says what.
pub const DEFAULT_PROMPT: &str = "best quality, high quality";
/// What it then keeps away from.
pub const DEFAULT_NEGATIVE_PROMPT: &str = "monochrome, lowres, bad anatomy, worst quality, low quality";

/// A generation, complete but for the model's own files: what the command line, request files, the library and the
/// text chunk of every written PNG share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateRequest {
    /// What to draw; may be empty with an image prompt.
    pub prompt: String,
    /// What not to draw.
    pub negative_prompt: String,
    /// Takes the reference's own words where a prompt is empty: [`DEFAULT_PROMPT`], [`DEFAULT_NEGATIVE_PROMPT`].
    pub default_prompts: bool,
    /// Reads `(word:1.3)`, `(word)` and `[word]` in both prompts as weights.
    pub prompt_weights: bool,
    /// Gives the model prompts of any length, in pieces of as many tokens as its text tower takes; otherwise what does
    /// not fit is cut off.
    pub long_prompts: bool,
    /// Reference images; several make one prompt together. Short for an entry of `image_prompts` with the first adapter.
    pub images: Vec<PathBuf>,
    /// Files of identity vectors, for adapters that read faces.
    pub faces: Vec<PathBuf>,
    /// Strength of `images` and `faces`: 0 none, 1 as trained.
    pub scale: f64,
    /// Further references, with all that can be said of them.
    pub image_prompts: Vec<ImagePromptSpec>,
    /// Sampler, by the name of a [`SamplerKind`]; the model's own without one.
    pub scheduler: Option<String>,
    /// η of the sampler ddim, 0 (deterministic) to 1 (as much fresh noise as ddpm); others ignore it.
    pub eta: f64,
    /// Denoising steps.
    pub num_steps: usize,
    /// 1 is no guidance.
    pub guidance_scale: f64,
    /// How far the deviation of guided predictions is brought back to that of unguided ones, 0 (not) to 1.
    pub guidance_rescale: f64,
    /// Share of the calls of the model after which guidance begins.
    pub guidance_start: f64,
    /// Share of the calls of the model after which guidance ends, at least `guidance_start`; what is not guided takes
    /// half the time.
    pub guidance_end: f64,
    /// Of so many calls of the model in a row one is whole and leaves its deep features to the others, which run the
    /// outermost layers alone (DeepCache, arXiv:2312.00858); 1 is off. Calls are counted, of which samplers of second
    /// order make two a step. Where guidance begins, or an image prompt begins or ends, a call is whole in any case.
    pub cache_interval: usize,
    /// Layers on the way up, beside the last, that such calls run, with what these read of the way down: 0, the fastest,
    /// to 11 in Stable Diffusion; DeepCache's `cache_branch_id`.
    pub cache_branch: usize,
    /// Preset of the fields that make drawing faster. Files and the command line fill in those fields that they do not
    /// name; in a program, [`Fast::request`] has them. What is drawn follows the fields alone.
    pub fast: Option<Fast>,
    /// Last layers of the text encoder to leave out for the prompt, counted as diffusers does: 0 none.
    pub clip_skip: usize,
    /// A picture to start from instead of pure noise.
    pub init_image: Option<PathBuf>,
    /// What to draw anew of `init_image`: white in a picture of any size, which is stretched over it.
    pub mask: Option<PathBuf>,
    /// How much of `init_image` is drawn anew, up to 1; so large a share of the steps is made. Without one,
    /// [`GenerateRequest::strength`] has a default.
    pub strength: Option<f64>,
    /// Seed of the noise, the same as diffusers' CPU generator.
    pub seed: u64,
    /// What the noise is drawn in.
    pub noise_dtype: NoiseDtype,
    /// Pictures drawn from one seed in one batch.
    pub num_images: u32,
    /// Pictures in a call of the model, for less memory; all at once without one.
    pub batch_size: Option<u32>,
    /// Encodes and decodes pictures in tiles where they are larger than the model was trained at, for less memory.
    pub vae_tiling: bool,
    /// Width in pixels, a multiple of 8; the model's own without one, or in the proportions of `init_image`.
    pub width: Option<u32>,
    /// Height in pixels, a multiple of 8; the model's own without one, or in the proportions of `init_image`.
    pub height: Option<u32>,
}

impl Default for GenerateRequest {
    fn default() -> Self {
        Self {
            prompt: String::new(),
            negative_prompt: String::new(),
            prompt_weights: false,
            long_prompts: false,
            default_prompts: false,
            images: Vec::new(),
            faces: Vec::new(),
            scale: 1.0,
            image_prompts: Vec::new(),
            scheduler: None,
            eta: 0.0,
            num_steps: 50,
            guidance_scale: 7.5,
            guidance_rescale: 0.0,
            guidance_start: 0.0,
            guidance_end: 1.0,
            cache_interval: 1,
            cache_branch: 0,
            fast: None,
            clip_skip: 0,
            init_image: None,
            mask: None,
            strength: None,
            seed: 0,
            noise_dtype: NoiseDtype::F32,
            num_images: 1,
            batch_size: None,
            vae_tiling: false,
            width: None,
            height: None,
        }
    }
}

/// What noise is drawn in, on the CPU in either case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoiseDtype {
    /// In f32: one seed gives one picture in every precision, but for rounding.
    #[default]
    F32,
    /// In what the run computes in, as diffusers' half-precision pipelines do: unrelated noise.
    Run,
}

/// Why a request cannot be carried out, whatever the model.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// A field is out of its range.
    #[error("`{field}` is {value}; {allowed}")]
    Field {
        /// Its name.
        field: &'static str,
        /// As given.
        value: String,
        /// What would be right.
        allowed: &'static str,
    },
    /// An entry of `image_prompts` is at fault.
    #[error("image prompt {number}: {fault}")]
    Entry {
        /// Which, from 1.
        number: usize,
        /// What is wrong with it.
        fault: Box<RequestError>,
    },
    /// `layers` do not fit the model.
    #[error("`layers` is {value}; {allowed}")]
    Layers {
        /// As given.
        value: String,
        /// What would be right.
        allowed: String,
    },
    /// The request file cannot be read.
    #[error("cannot read the request file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The request file is not one.
    #[error("{path} is not a request: {reason}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Field and line.
        reason: String,
    },
}

impl RequestError {
    /// As the fault of an entry of `image_prompts`, counted from 0.
    pub fn in_entry(self, index: usize) -> Self {
        Self::Entry { number: index + 1, fault: Box::new(self) }
    }
}

impl GenerateRequest {
    /// Reads a TOML file, or JSON where its name ends in `.json`; paths in it are relative to its folder. Fields of a
    /// preset, where it names one in `fast`, are the preset's unless it names them too.
    ///
    /// # Errors
    /// [`RequestError`] naming the file and the field at fault.
    pub fn from_file(path: &Path) -> Result<Self, RequestError> {
        Self::from_file_with(path, None)
    }

    /// As [`GenerateRequest::from_file`], with a preset in place of the file's own, if one is given.
    ///
    /// # Errors
    /// As [`GenerateRequest::from_file`].
    pub fn from_file_with(path: &Path, fast: Option<Fast>) -> Result<Self, RequestError> {
        let text = std::fs::read_to_string(path).map_err(|source| RequestError::Read { path: path.into(), source })?;
        let is_json = path.extension().is_some_and(|ending| ending == "json");
        let read = match is_json {
            true => read_with_names(|| serde_json::from_str::<Self>(&text), || serde_json::from_str(&text)),
            false => read_with_names(|| toml::from_str::<Self>(&text), || toml::from_str(&text)),
        };
        let (mut request, named) = read.map_err(|reason| RequestError::Parse { path: path.into(), reason })?;
        if let Some(fast) = fast.or(request.fast) {
            fast.fill(&mut request, |field| named.contains_key(field));
        }
        request.relative_to(path.parent().unwrap_or(Path::new("")));
        Ok(request)
    }

    /// All its paths relative to `folder`.
    pub fn relative_to(&mut self, folder: &Path) {
        let own = self.images.iter_mut().chain(&mut self.faces).chain(&mut self.init_image).chain(&mut self.mask);
        own.for_each(|path| *path = folder.join(&*path));
        self.image_prompts.iter_mut().for_each(|spec| spec.relative_to(folder));
    }

    /// Gives adapters that `image_prompts` name without an image encoder this one.
    pub fn complete(&mut self, image_encoder: Option<&Path>) {
        for source in self.image_prompts.iter_mut().filter_map(|spec| spec.adapter.as_mut()) {
            source.image_encoder = source.image_encoder.take().or_else(|| image_encoder.map(Path::to_owned));
        }
    }

    /// Whether it has references of any kind.
    pub fn has_references(&self) -> bool {
        !(self.images.is_empty() && self.faces.is_empty() && self.image_prompts.is_empty())
    }

    /// `images` and `faces` as an entry of `image_prompts`, if there are any.
    pub fn own_prompt(&self) -> Option<ImagePromptSpec> {
        let images = self.images.iter().cloned().map(Reference::from).collect();
        let spec = ImagePromptSpec { images, faces: self.faces.clone(), scale: self.scale, ..Default::default() };
        (!self.images.is_empty() || !self.faces.is_empty()).then_some(spec)
    }

    /// Every picture that `image_prompts` name.
    pub fn named_pictures(&self) -> BTreeSet<&Path> {
        self.image_prompts.iter().flat_map(ImagePromptSpec::pictures).collect()
    }

    /// Every other file that references are read from: identity vectors and embeddings.
    pub fn tensor_files(&self) -> BTreeSet<&Path> {
        let own = self.faces.iter().map(PathBuf::as_path);
        own.chain(self.image_prompts.iter().flat_map(ImagePromptSpec::tensor_files)).collect()
    }

    /// Every adapter that `image_prompts` name.
    pub fn adapters(&self) -> impl Iterator<Item = &AdapterSource> {
        self.image_prompts.iter().filter_map(|spec| spec.adapter.as_ref())
    }

    /// What is drawn, and what is not.
    pub(crate) fn prompts(&self) -> (&str, &str) {
        let or = |own, default| if self.default_prompts && str::is_empty(own) { default } else { own };
        (or(&self.prompt, DEFAULT_PROMPT), or(&self.negative_prompt, DEFAULT_NEGATIVE_PROMPT))
    }

    /// How much of `init_image` is drawn anew: 0.8 where nothing is said, all of what a mask shows.
    ///
    /// Parity: the defaults of diffusers' img2img and inpainting pipelines.
    pub fn strength(&self) -> f64 {
        self.strength.unwrap_or(if self.mask.is_some() { 1.0 } else { 0.8 })
    }

    /// Steps that are made: all of `num_steps` from pure noise, from a picture the share `strength`.
    pub fn num_denoising_steps(&self) -> usize {
        match self.init_image {
            // Parity: rounded down.
            Some(_) => ((self.num_steps as f64 * self.strength()) as usize).min(self.num_steps),
            None => self.num_steps,
        }
    }

    /// The sampler that is asked for by name.
    ///
    /// # Errors
    /// [`RequestError::Field`] if there is none of that name.
    pub fn sampler(&self) -> Result<Option<SamplerKind>, RequestError> {
        self.scheduler.as_deref().map(str::parse).transpose().map_err(|UnknownSampler(value)| RequestError::Field {
            field: "scheduler",
            value,
            allowed: SamplerKind::CHOOSE,
        })
    }

    /// Checks every range.
    ///
    /// # Errors
    /// [`RequestError::Field`].
    pub fn check(&self) -> Result<(), RequestError> {
        let refuse = |field, value: &dyn ToString, allowed| {
            Err(RequestError::Field { field, value: value.to_string(), allowed })
        };
        for (field, side) in [("width", self.width), ("height", self.height)] {
            let Some(side) = side else { continue };
            if side % 8 != 0 || !(8..=MAX_SIDE).contains(&side) {
                return refuse(field, &side, "choose a multiple of 8 between 8 and 4096");
            }
        }
        if !(0.0..=10.0).contains(&self.scale) {
            return refuse("scale", &self.scale, "choose 0 (no image prompt) to 10; 1 is the trained strength");
        }
        for (index, spec) in self.image_prompts.iter().enumerate() {
            spec.check().map_err(|error| error.in_entry(index))?;
        }
        if !(0.0..=100.0).contains(&self.guidance_scale) {
            return refuse("guidance_scale", &self.guidance_scale, "choose 0 to 100; 1 is no guidance, 7.5 is usual");
        }
        for (field, share) in [
            ("guidance_rescale", self.guidance_rescale),
            ("guidance_start", self.guidance_start),
            ("guidance_end", self.guidance_end),
            ("strength", self.strength()),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return refuse(field, &share, "choose 0 to 1");
            }
        }
        if self.guidance_start > self.guidance_end {
            let value = format!("{} with guidance_start {}", self.guidance_end, self.guidance_start);
            return refuse(
                "guidance_end",
                &value,
                "choose at least guidance_start; if they are equal nothing is guided",
            );
        }
        self.sampler()?;
        if self.prompt_weights {
            weighting::check("prompt", &self.prompt)?;
            weighting::check("negative_prompt", &self.negative_prompt)?;
        }
        if !(0.0..=1.0).contains(&self.eta) {
            return refuse("eta", &self.eta, "choose 0 to 1; 0 is deterministic and usual");
        }
        if !(1..=1000).contains(&self.num_steps) {
            return refuse("num_steps", &self.num_steps, "choose 1 to 1000");
        }
        if !(1..=1000).contains(&self.cache_interval) {
            return refuse("cache_interval", &self.cache_interval, "choose 1 (off) to 1000; 2 or 3 is usual");
        }
        if !(1..=MAX_IMAGES).contains(&self.num_images) {
            return refuse("num_images", &self.num_images, "choose 1 to 1000");
        }
        if self.batch_size == Some(0) {
            return refuse("batch_size", &0, "choose at least 1");
        }
        if self.num_denoising_steps() == 0 {
            return refuse("strength", &self.strength(), "choose more, or more steps: it leaves none of them");
        }
        if let (Some(mask), None) = (&self.mask, &self.init_image) {
            return refuse(
                "mask",
                &mask.display(),
                "it is of use with a picture to draw in only: name that as init_image (`--init-image`)",
            );
        }
        if self.seed > i64::MAX as u64 {
            return refuse("seed", &self.seed, "choose a number below 2^63");
        }
        Ok(())
    }
}

/// A request and the fields that are there, whatever their values.
fn read_with_names<E: ToString>(
    request: impl FnOnce() -> Result<GenerateRequest, E>,
    fields: impl FnOnce() -> Result<BTreeMap<String, IgnoredAny>, E>,
) -> Result<(GenerateRequest, BTreeMap<String, IgnoredAny>), String> {
    Ok((request().map_err(|error| error.to_string())?, fields().map_err(|error| error.to_string())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_checked_by_field() {
        assert!(GenerateRequest::default().check().is_ok());
        let refused = |request: GenerateRequest| request.check().expect_err("out of range").to_string();
        assert!(refused(GenerateRequest { width: Some(100), ..Default::default() }).contains("`width` is 100"));
        assert!(refused(GenerateRequest { scale: f64::NAN, ..Default::default() }).contains("`scale`"));
        assert!(refused(GenerateRequest { num_steps: 0, ..Default::default() }).contains("`num_steps`"));
        let init_image = Some(PathBuf::from("a.png"));
        let refused_start = |strength| {
            refused(GenerateRequest { init_image: init_image.clone(), strength: Some(strength), ..Default::default() })
        };
        assert!(refused_start(0.01).contains("`strength` is 0.01"));
        assert!(refused_start(1.5).contains("`strength` is 1.5"));
        assert!(refused(GenerateRequest { guidance_end: f64::NAN, ..Default::default() }).contains("`guidance_end`"));
        let mask = Some(PathBuf::from("mask.png"));
        assert!(refused(GenerateRequest { mask, ..Default::default() }).contains("`mask` is mask.png"));
        let window = GenerateRequest { guidance_start: 0.9, guidance_end: 0.1, ..Default::default() };
        assert!(refused(window).contains("`guidance_end` is 0.1 with guidance_start 0.9"));
        assert!(refused(GenerateRequest { batch_size: Some(0), ..Default::default() }).contains("`batch_size`"));
        assert!(refused(GenerateRequest { cache_interval: 0, ..Default::default() }).contains("`cache_interval` is 0"));
        assert!(refused(GenerateRequest { eta: 1.5, ..Default::default() }).contains("`eta`"));
        let unknown = refused(GenerateRequest { scheduler: Some("k-lms".into()), ..Default::default() });
        assert!(unknown.contains("k-lms") && unknown.contains(SamplerKind::NAMES), "{unknown}");
    }

    #[test]
    fn a_preset_leaves_alone_what_a_file_says() {
        let folder = tempfile::tempdir().expect("a folder");
        let read = |name: &str, text: &str, fast| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            GenerateRequest::from_file_with(&path, fast).expect("a request")
        };
        let most = Fast::Most.request();
        for (name, text) in
            [("a.toml", "fast = \"most\"\nnum_steps = 50"), ("a.json", r#"{"fast": "most", "num_steps": 50}"#)]
        {
            let request = read(name, text, None);
            assert_eq!(request, GenerateRequest { num_steps: 50, ..most.clone() });
            // As a record has it: all fields are there, so that nothing is filled in a second time.
            let all = serde_json::to_string(&request).expect("JSON");
            assert_eq!(read("again.json", &all, None), request);
        }
        assert_eq!(read("b.toml", "seed = 3", Some(Fast::Mild)), GenerateRequest { seed: 3, ..Fast::Mild.request() });
        assert_eq!(read("c.toml", "fast = \"most\"", Some(Fast::Mild)), Fast::Mild.request());
        assert_eq!(read("d.toml", "seed = 3", None), GenerateRequest { seed: 3, ..GenerateRequest::default() });
    }

    #[test]
    fn unknown_fields_of_a_request_file_are_refused_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("request.toml");
        std::fs::write(&path, "prompt = \"a cat\"\nimages = [\"cat.png\"]\n").expect("written");
        let request = GenerateRequest::from_file(&path).expect("a request");
        assert_eq!(request.images, [folder.path().join("cat.png")]);
        std::fs::write(&path, "stepps = 3\n").expect("written");
        assert!(GenerateRequest::from_file(&path).expect_err("a typing error").to_string().contains("stepps"));
    }
}
