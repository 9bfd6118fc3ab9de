//! Rows of a dataset as the frozen models see them.

mod store;

use std::collections::HashMap;

use image::{GrayImage, RgbImage};
use ipa_adapter::{ImageFeatures, IpAdapter, ProjectionConfig};
use ipa_core::tch::{Device, Kind, Tensor};
use ipa_vae::DiagonalGaussian;
use serde_json::json;

use crate::TrainError;
use crate::config::DataSettings;
use crate::dataset::{Crop, DataError, Dataset, Place, RowDrops, Sample, Source, resize_to_cover};
use crate::models::{EncodeError, FrozenModels};
use store::{Origin, Store};

/// How a picture becomes one of the training's size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct View {
    /// Width and height in pixels.
    pub size: (u32, u32),
    /// Which part is kept of what is too wide or too high.
    pub crop: Crop,
    /// Mirrored.
    pub flip: bool,
}

impl View {
    /// The reference's: square, its middle.
    pub fn square(side: u32) -> Self {
        Self { size: (side, side), crop: Crop::Centre, flip: false }
    }
}

/// All that a step needs of one row; on the CPU, f32.
#[derive(Debug)]
pub struct EncodedRow {
    /// The distribution of the picture's latents, `[1, 4, h, w]`.
    pub posterior: DiagonalGaussian,
    /// The caption's features, `[1, tokens, width]`.
    pub text_embeds: Tensor,
    /// What the adapter reads of the picture: its embedding `[1, embed_dim]`, or features `[1, patches, width]`.
    pub image_features: Option<Tensor>,
    /// The identity vectors of the face or faces, `[1, width]` or `[1, faces, width]`.
    pub face: Option<Tensor>,
    /// Where the loss counts, `[1, 1, h, w]`.
    pub mask: Option<Tensor>,
    /// Factor on its loss.
    pub weight: f64,
    /// Rates of its own.
    pub drops: RowDrops,
}

/// What an adapter reads of a row beside its caption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reads {
    /// Of the picture.
    pub image: Option<ImageFeatures>,
    /// Width of identity vectors, and whether a row may have several.
    pub face: Option<(i64, bool)>,
}

impl Reads {
    /// What this one reads.
    pub fn of(adapter: &IpAdapter) -> Self {
        let projection = &adapter.config().projection;
        let several = matches!(projection, ProjectionConfig::Portrait(_));
        Self { image: adapter.image_features(), face: projection.face_width().map(|width| (width, several)) }
    }
}

/// Encodes rows, and keeps what it encoded.
#[derive(Debug)]
pub struct RowEncoder<'a> {
    models: &'a FrozenModels,
    dataset: &'a Dataset,
    reads: Reads,
    store: Store,
    digests: HashMap<Source, String>,
}

/// Digests of files that are remembered; more would take more memory than they save time.
const MOST_DIGESTS: usize = 1 << 16;

impl<'a> RowEncoder<'a> {
    /// For an adapter that reads so much of rows; what is kept, and where, is of the settings.
    ///
    /// # Errors
    /// [`TrainError::File`] if the folder of a cache cannot be used.
    pub fn new(
        models: &'a FrozenModels,
        dataset: &'a Dataset,
        reads: Reads,
        settings: &DataSettings,
    ) -> Result<Self, TrainError> {
        Ok(Self { models, dataset, reads, store: Store::new(settings)?, digests: HashMap::new() })
    }

    /// A row, its picture seen so.
    ///
    /// # Errors
    /// [`EncodeError`] naming the row.
    pub fn row(&mut self, row: u32, view: View) -> Result<EncodedRow, EncodeError> {
        self.encoded(row, view).map_err(|error| match error {
            EncodeError::Data(fault) => self.dataset.in_row(row as usize, fault).into(),
            error => error,
        })
    }

    fn encoded(&mut self, row: u32, view: View) -> Result<EncodedRow, EncodeError> {
        let sample = self.dataset.sample(row as usize)?;
        let mut posterior = self.posterior(row, &sample, view)?;
        let (logvar, mean) = (posterior.pop(), posterior.pop());
        let (mean, logvar) = mean.zip(logvar).expect("two tensors were kept");
        let side = |pixels: u32| i64::from(pixels) * mean.size()[2] / i64::from(view.size.1);
        let latent_size = [side(view.size.1), side(view.size.0)];
        Ok(EncodedRow {
            text_embeds: self.text(&sample.text)?,
            image_features: self.reads.image.map(|features| self.image(row, &sample, features)).transpose()?,
            face: self.reads.face.map(|sizes| self.face(&sample, sizes)).transpose()?,
            mask: sample.mask.as_ref().map(|_| self.mask(&sample, view, latent_size)).transpose()?,
            weight: sample.weight,
            drops: sample.drops,
            posterior: DiagonalGaussian { mean, logvar },
        })
    }

    fn posterior(&mut self, row: u32, sample: &Sample, view: View) -> Result<Vec<Tensor>, EncodeError> {
        let models = self.models;
        let make = || {
            let picture = sample.picture.picture()?;
            let DiagonalGaussian { mean, logvar } = models.posterior(&cut(&picture, view));
            Ok(vec![mean, logvar])
        };
        if view.crop != Crop::Centre {
            return make(); // never the same twice
        }
        let digests = &mut self.digests;
        let name = || format!("latents {row} {view:?}");
        let origin = || {
            Ok(json!([models.origin_of("vae"), digest_of(digests, &sample.picture)?, format!("{view:?}")]).to_string())
        };
        self.store.get(Origin { name, origin }, make)
    }

    fn text(&mut self, text: &str) -> Result<Tensor, EncodeError> {
        let models = self.models;
        let name = || format!("text {text}");
        let origin = || Ok(json!([models.origin_of("text_encoder"), models.origin_of("tokenizer"), text]).to_string());
        first(self.store.get(Origin { name, origin }, || Ok(vec![on_cpu(&models.text_embeds(text)?)])))
    }

    fn image(&mut self, row: u32, sample: &Sample, features: ImageFeatures) -> Result<Tensor, EncodeError> {
        let models = self.models;
        let source = sample.reference.as_ref().unwrap_or(&sample.picture);
        let digests = &mut self.digests;
        let name = || format!("image {row} {features:?}");
        let origin = || {
            let encoder = [models.origin_of("image_encoder"), models.origin_of("feature_extractor")];
            Ok(json!([encoder, digest_of(digests, source)?, format!("{features:?}")]).to_string())
        };
        first(self.store.get(Origin { name, origin }, || {
            let picture = source.picture()?;
            Ok(vec![on_cpu(&models.encoder().features(&[picture], features))])
        }))
    }

    fn face(&self, sample: &Sample, (width, several): (i64, bool)) -> Result<Tensor, EncodeError> {
        let fault = |problem: &str| self.fault(sample, "id_embed_file", problem);
        let missing =
            || fault("is missing, and this kind of adapter reads identity vectors: add it, or choose another");
        let vectors = sample.id_embed.as_ref().ok_or_else(missing)?.id_embeds()?;
        if vectors.iter().any(|vector| vector.len() as i64 != width) {
            return Err(fault("has vectors of another width than 512: write them anew").into());
        }
        let num = if several { vectors.len() } else { vectors.len().min(1) };
        let flat: Vec<f32> = vectors.into_iter().take(num).flatten().collect();
        let shape = if several { vec![1, num as i64, width] } else { vec![1, width] };
        match num {
            0 => Err(fault("has no vector: leave the row out").into()),
            _ => Ok(Tensor::from_slice(&flat).view(shape.as_slice())),
        }
    }

    fn mask(&self, sample: &Sample, view: View, [height, width]: [i64; 2]) -> Result<Tensor, EncodeError> {
        let mask = sample.mask.as_ref().expect("it was asked for").picture()?;
        let mask: GrayImage = image::DynamicImage::from(cut(&mask, view)).into_luma8();
        let (w, h) = mask.dimensions();
        let levels = Tensor::from_slice(&mask.into_raw()).view([1, 1, i64::from(h), i64::from(w)]);
        let mask = (levels.to_kind(Kind::Float) / 255.0).adaptive_avg_pool2d([height, width]);
        match mask.sum(Kind::Float).double_value(&[]) > 0.0 {
            true => Ok(mask),
            false => Err(self.fault(sample, "mask_file", "is black, so that nothing would count: leave it out").into()),
        }
    }

    fn fault(&self, sample: &Sample, field: &'static str, problem: &str) -> DataError {
        let (path, place) = (self.dataset.path().to_owned(), Place::Sample(sample.key.clone()));
        DataError::Field { path, place, field, problem: problem.to_owned() }
    }

    /// Bytes that a row takes, encoded.
    pub(crate) fn row_bytes(&self, row: &EncodedRow) -> f64 {
        let parts = [Some(&row.posterior.mean), Some(&row.posterior.logvar), Some(&row.text_embeds)];
        let parts = parts.into_iter().chain([row.image_features.as_ref(), row.face.as_ref(), row.mask.as_ref()]);
        parts.flatten().map(|tensor| 4.0 * tensor.numel() as f64).sum()
    }

    /// A row's key, caption and reference as validations show them.
    ///
    /// # Errors
    /// As [`RowEncoder::row`].
    pub(crate) fn shown(&self, row: u32) -> Result<(String, String, RgbImage), EncodeError> {
        let sample = self.dataset.sample(row as usize)?;
        let reference = sample.reference.as_ref().unwrap_or(&sample.picture).picture()?;
        Ok((sample.key, sample.text, reference))
    }
}

/// The digest of a file's bytes, read once.
fn digest_of(known: &mut HashMap<Source, String>, source: &Source) -> Result<String, DataError> {
    if let Some(digest) = known.get(source) {
        return Ok(digest.clone());
    }
    let digest = source.digest()?;
    if known.len() < MOST_DIGESTS {
        known.insert(source.clone(), digest.clone());
    }
    Ok(digest)
}

/// A picture as it is trained on.
fn cut(picture: &RgbImage, view: View) -> RgbImage {
    resize_to_cover(picture, view.size, view.crop, view.flip)
}

fn first<E>(tensors: Result<Vec<Tensor>, E>) -> Result<Tensor, E> {
    Ok(tensors?.pop().expect("one tensor was kept"))
}

fn on_cpu(tensor: &Tensor) -> Tensor {
    tensor.to_device(Device::Cpu).to_kind(Kind::Float)
}
