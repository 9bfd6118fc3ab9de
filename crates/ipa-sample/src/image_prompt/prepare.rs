//! From references to tokens, once a request, and from tokens to prompts for any number of pictures.

use std::path::{Path, PathBuf};

use image::RgbImage;
use ipa_adapter::{AdapterCoupling, Features, ImageFeatures, ImagePrompt, IpAdapter, RegionMask, Timing};
use ipa_clip::preprocess::{Filter, resize};
use ipa_core::Checkpoint;
use ipa_core::tch::{Device, Kind, Tensor};
use ipa_formats::read_vectors;

use super::{ImagePromptSpec, LayerScales, Merge};
use crate::pictures::{Pictures, luma};
use crate::preflight::{check_concatenated, unpaired_faces};
use crate::{Crop, ImageEncoder, PipelineError, Reference, RequestError};

/// An adapter and what encodes pictures for it.
#[derive(Clone, Copy)]
pub(crate) struct Seeing<'a> {
    pub(crate) adapter: &'a IpAdapter,
    pub(crate) encoder: Option<&'a ImageEncoder>,
    pub(crate) model: &'a Path,
}

/// The pictures of one image prompt.
pub(crate) struct References<'a> {
    pub(crate) shown: Vec<Shown<'a>>,
    pub(crate) negative: Option<Shown<'a>>,
}

impl<'a> References<'a> {
    /// Those that an entry of a request names.
    ///
    /// # Errors
    /// As [`Shown::named`].
    pub(crate) fn named(spec: &ImagePromptSpec, pictures: Pictures<'a>) -> Result<Self, RequestError> {
        let named = |image: &Reference| Shown::named(image, spec.crop, pictures);
        Ok(Self {
            shown: spec.images.iter().map(named).collect::<Result<_, _>>()?,
            negative: spec.negative.as_ref().map(named).transpose()?,
        })
    }
}

/// One image prompt as tokens.
pub(crate) struct Prepared<'a> {
    adapter: &'a IpAdapter,
    spec: ImagePromptSpec,
    scales: LayerScales,
    tokens: Tensor,        // [1, tokens, width]
    unconditional: Tensor, // likewise
    regions: Vec<Region>,  // of each reference; without masks all share one softmax
}

/// A reference with its part of the picture.
struct Region {
    num_tokens: i64,
    weight: f64,
    mask: Option<RegionMask>,
}

/// A reference, loaded.
pub(crate) struct Shown<'a> {
    picture: &'a RgbImage,
    weight: f64,
    crop: Crop,
    mask: Option<&'a RgbImage>,
}

impl<'a> Shown<'a> {
    /// One that is handed over without a name.
    pub(crate) fn unnamed(picture: &'a RgbImage) -> Self {
        Self { picture, weight: 1.0, crop: Crop::Center, mask: None }
    }

    /// One that a request names.
    ///
    /// # Errors
    /// [`RequestError::Field`] if it was not handed over.
    pub(crate) fn named(image: &Reference, crop: Crop, pictures: Pictures<'a>) -> Result<Self, RequestError> {
        let loaded = |path: &Path| {
            let missing = || RequestError::Field {
                field: "image_prompts",
                value: path.display().to_string(),
                allowed: "hand over the picture of every file that it names",
            };
            pictures.named.and_then(|named| named.get(path)).ok_or_else(missing)
        };
        Ok(Self {
            picture: loaded(&image.file)?,
            weight: image.weight,
            crop: image.crop.unwrap_or(crop),
            mask: image.mask.as_deref().map(loaded).transpose()?,
        })
    }
}

impl<'a> Prepared<'a> {
    /// `size` is that of what is drawn, width and height in pixels.
    ///
    /// # Errors
    /// [`PipelineError`] if a file is missing or does not fit the adapter.
    pub(crate) fn new(
        spec: &ImagePromptSpec,
        seeing: Seeing<'a>,
        References { shown, negative }: References,
        size: (u32, u32),
    ) -> Result<Self, PipelineError> {
        let adapter = seeing.adapter;
        let unet = &adapter.config().unet;
        if adapter.config().coupling == AdapterCoupling::Concatenated {
            check_concatenated(spec)?;
        }
        let scales = match &spec.layers {
            Some(layers) => layers.scales(unet)?,
            None => LayerScales::uniform(unet),
        };
        let squares = shown.iter().map(|shown| seeing.squares(shown, spec.bgr)).collect::<Result<Vec<_>, _>>()?;
        let stored = spec.embeds.as_deref().map(|path| stored_features(path, adapter)).transpose()?.unwrap_or_default();
        let features = seeing.features(spec, &shown, &squares, &stored)?;
        let unconditional = seeing.unconditional(spec, negative.as_ref(), &features, stored.unconditional)?;
        let tokens = adapter.ip_tokens(features)?;
        let unconditional = adapter.ip_tokens(unconditional)?;
        let num_squares: i64 = squares.iter().map(|squares| squares.len() as i64).sum();
        let num_tokens = tokens.size()[1];
        let region = |(shown, squares): (&Shown, &Vec<RgbImage>)| Region {
            num_tokens: num_tokens / num_squares * squares.len() as i64,
            weight: shown.weight,
            mask: shown.mask.map(|mask| region_mask(mask, size, tokens.device())),
        };
        let regions = match spec.merge {
            Merge::Concat if !shown.is_empty() => shown.iter().zip(&squares).map(region).collect(),
            _ => vec![Region { num_tokens, weight: 1.0, mask: None }],
        };
        Ok(Self { adapter, spec: spec.clone(), scales, tokens, unconditional, regions })
    }

    /// For `num` pictures, under guidance with the unconditional half first; `context` is the text they read.
    pub(crate) fn prompt(&self, context: &Tensor, num: i64, is_guided: bool) -> (ImagePrompt, Timing) {
        let many = |tokens: &Tensor| tokens.expand([num, -1, -1], false);
        let conditional = many(&self.tokens);
        let both = |first: &Tensor, second: &Tensor| match is_guided {
            true => Tensor::cat(&[first, second], 0),
            false => second.shallow_clone(),
        };
        let tokens = self.adapter.fused(&both(&many(&self.unconditional), &conditional), context);
        let fused = tokens.narrow(0, tokens.size()[0] - num, num);
        let swapped = both(&fused, &fused.zeros_like());
        let prompt_of = |first: i64, num_tokens: i64| {
            let part = |tokens: &Tensor| tokens.narrow(1, first, num_tokens);
            self.adapter.prompt_by_site(|site| part(if self.scales.swapped[site] { &swapped } else { &tokens }), 1.0)
        };
        let prompt = match self.spec.is_masked() {
            true => self.by_region(prompt_of),
            false => self.weighted(prompt_of(0, tokens.size()[1])),
        };
        let scales = self.scales.factors.iter().map(|factor| factor * self.spec.scale).collect();
        (prompt.with_scales(scales).absent_at(self.scales.swapped.clone()), self.spec.timing())
    }

    /// How many tokens each reference has become.
    pub(crate) fn reference_tokens(&self) -> Vec<i64> {
        self.regions.iter().map(|region| region.num_tokens).collect()
    }

    /// What each reference adds, times its weight.
    fn weighted(&self, prompt: ImagePrompt) -> ImagePrompt {
        if self.regions.iter().all(|region| region.weight == 1.0) {
            return prompt;
        }
        let weights = self.regions.iter().flat_map(|region| vec![region.weight as f32; region.num_tokens as usize]);
        prompt.weighted(&Tensor::from_slice(&weights.collect::<Vec<_>>()))
    }

    /// Parity: with masks, diffusers attends every reference on its own.
    fn by_region(&self, prompt_of: impl Fn(i64, i64) -> ImagePrompt) -> ImagePrompt {
        let mut first = 0;
        let part = |region: &Region| {
            let prompt = prompt_of(first, region.num_tokens);
            first += region.num_tokens;
            prompt.within(region.mask.as_ref().map(RegionMask::shared), region.weight)
        };
        ImagePrompt::joined(self.regions.iter().map(part).collect()).expect("masks belong to references")
    }
}

impl Seeing<'_> {
    fn encoder(&self) -> Result<&ImageEncoder, PipelineError> {
        self.encoder.ok_or_else(|| PipelineError::NoImageEncoder { model: self.model.to_owned() })
    }

    fn squares(&self, shown: &Shown, bgr: bool) -> Result<Vec<RgbImage>, PipelineError> {
        Ok(self.encoder()?.squares(shown.picture, shown.crop, bgr)?)
    }

    /// All references in one row, merged.
    fn features(
        &self,
        spec: &ImagePromptSpec,
        shown: &[Shown],
        squares: &[Vec<RgbImage>],
        stored: &Stored,
    ) -> Result<Features, PipelineError> {
        let image = match (self.adapter.image_features(), &stored.image) {
            (None, _) => None,
            (Some(_), Some(stored)) => Some(stored.shallow_clone()),
            (Some(_), None) if shown.is_empty() => None,
            (Some(kind), None) => Some(self.encoded(kind, spec, shown, squares)?),
        };
        let face = match spec.faces.is_empty() {
            true => stored.face.as_ref().map(Tensor::shallow_clone),
            false => Some(read_faces(&spec.faces)?),
        };
        if let (Some(image), Some(face)) = (&image, &face)
            && image.size()[0] != face.size()[0]
        {
            return Err(unpaired_faces(face.size()[0], image.size()[0]).into());
        }
        let row = |features: Option<Tensor>| features.map(|features| spec.merge.apply(&features.unsqueeze(0)));
        Ok(Features { image: row(image), face: row(face), structure: spec.structure })
    }

    /// `[references, ..]`; where they are merged, weights are factors on what the encoder says.
    fn encoded(
        &self,
        kind: ImageFeatures,
        spec: &ImagePromptSpec,
        shown: &[Shown],
        squares: &[Vec<RgbImage>],
    ) -> Result<Tensor, PipelineError> {
        let features = self.encoder()?.features(&squares.concat(), kind);
        let weights = shown.iter().zip(squares).flat_map(|(shown, squares)| vec![shown.weight as f32; squares.len()]);
        let weights: Vec<f32> = weights.collect();
        if spec.merge == Merge::Concat || weights.iter().all(|&weight| weight == 1.0) {
            return Ok(features);
        }
        let factors = Tensor::from_slice(&weights).to_device(features.device()).to_kind(features.kind());
        let shape = [&[-1][..], &vec![1; kind.dimensions()]].concat();
        Ok(features * factors.view(&shape[..]))
    }

    /// What stands for no reference, or what is to be kept away from, in the shape of `features`.
    fn unconditional(
        &self,
        spec: &ImagePromptSpec,
        negative: Option<&Shown>,
        features: &Features,
        stored: Option<Tensor>,
    ) -> Result<Features, PipelineError> {
        let nothing = match (self.adapter.image_features(), negative) {
            (None, _) => None,
            (Some(kind), Some(negative)) => {
                let squares = self.squares(negative, spec.bgr)?; // several of one in tiles: their mean
                let features = self.encoder()?.features(&squares, kind).mean_dim(0, true, None::<Kind>);
                Some(features * negative.weight)
            }
            (Some(kind), None) => Some(match (stored, kind, &features.image) {
                (Some(stored), ..) => stored,
                // Parity: zeros in place of an embedding.
                (None, ImageFeatures::Embedding, Some(image)) => image.zeros_like(),
                (None, ..) => self.encoder()?.unconditional(kind),
            }),
        };
        let like = |nothing: &Tensor, features: &Tensor| {
            nothing.to_device(features.device()).to_kind(features.kind()).expand_as(features)
        };
        Ok(Features {
            image: nothing.as_ref().zip(features.image.as_ref()).map(|(nothing, image)| like(nothing, image)),
            face: features.face.as_ref().map(Tensor::zeros_like),
            structure: features.structure,
        })
    }
}

/// What `ipa embed` wrote.
#[derive(Default)]
struct Stored {
    image: Option<Tensor>,
    unconditional: Option<Tensor>,
    face: Option<Tensor>,
}

/// `[references, ..]` each, and `[1, ..]` of no reference.
fn stored_features(path: &Path, adapter: &IpAdapter) -> Result<Stored, PipelineError> {
    let file = Checkpoint::open(path)?;
    let shape = |name: &str| file.shape(name);
    let projection = &adapter.config().projection;
    let image = projection.image_width().zip(projection.image_features());
    if let Some(problem) = embeds_problem(image, projection.face_width(), shape) {
        return Err(PipelineError::Embeds { path: path.to_owned(), problem });
    }
    let tensor = |name: &str| file.names().any(|found| found == name).then(|| file.tensor(name)).transpose();
    let float = |tensor: Tensor| tensor.to_kind(Kind::Float);
    Ok(Stored {
        image: tensor("image_embeds")?.map(float),
        unconditional: tensor("uncond_image_embeds")?.map(float),
        face: tensor("face_embeds")?.map(float),
    })
}

/// What is wrong with the shapes of stored embeddings, for an adapter that reads `image` (width and kind) and faces of a
/// width.
pub(crate) fn embeds_problem(
    image: Option<(i64, ImageFeatures)>,
    face: Option<i64>,
    shape: impl Fn(&str) -> Option<Vec<i64>>,
) -> Option<String> {
    let fits = |found: &[i64], rank: usize, width: i64| {
        found.len() == rank && found.last() == Some(&width) && found.iter().all(|&size| size > 0)
    };
    let problem = |name: &str, rank: usize, width: i64| match shape(name) {
        Some(found) if fits(&found, rank, width) => None,
        found => {
            let found = found.map_or("missing".to_owned(), |shape| format!("{shape:?}"));
            let expected = if rank == 3 { "[n, patches, " } else { "[n, " };
            Some(format!("`{name}` is {found}, the adapter reads {expected}{width}]"))
        }
    };
    let of_image = image.and_then(|(width, kind)| problem("image_embeds", kind.dimensions() + 1, width));
    let of_none = || {
        let (none, image) = (shape("uncond_image_embeds")?, shape("image_embeds")?);
        let expected = [&[1], &image[1..]].concat();
        (none != expected).then(|| format!("`uncond_image_embeds` is {none:?}, of these `image_embeds` {expected:?}"))
    };
    of_image.or_else(of_none).or_else(|| face.and_then(|width| problem("face_embeds", 2, width)))
}

/// The identity vectors in all files, `[faces, width]`.
///
/// # Errors
/// [`PipelineError`] if a file cannot be read, or vectors differ in width.
///
/// # Panics
/// If there are no files.
pub fn read_faces(files: &[PathBuf]) -> Result<Tensor, PipelineError> {
    let mut rows = Vec::new();
    for file in files {
        let vectors = read_vectors(file)?;
        let shape = [vectors.rows as i64, vectors.width as i64];
        let found = Tensor::from_slice(&vectors.data).view(shape);
        if let Some(first) = rows.first().map(|first: &Tensor| first.size()[1]).filter(|first| *first != shape[1]) {
            let value = format!("vectors of width {} after some of width {first}", shape[1]);
            let allowed = "take all of one face recogniser";
            return Err(RequestError::Field { field: "faces", value, allowed }.into());
        }
        if (0..shape[0]).any(|row| found.get(row).count_nonzero(0).int64_value(&[]) == 0) {
            let value = format!("a vector of zeros in {}", file.display());
            let allowed = "it stands for no face: look for one in the picture again";
            return Err(RequestError::Field { field: "faces", value, allowed }.into());
        }
        rows.push(found);
    }
    Ok(Tensor::cat(&rows, 0))
}

/// A mask at the size of what is drawn: its brightness.
fn region_mask(mask: &RgbImage, (width, height): (u32, u32), device: Device) -> RegionMask {
    let mask = match mask.dimensions() == (width, height) {
        true => mask.clone(),
        false => resize(mask, width, height, Filter::Lanczos),
    };
    let values: Vec<f32> = mask.pixels().map(|pixel| f32::from(luma(pixel)) / 255.0).collect();
    RegionMask::new(&Tensor::from_slice(&values).view([i64::from(height), i64::from(width)]).to_device(device))
}
