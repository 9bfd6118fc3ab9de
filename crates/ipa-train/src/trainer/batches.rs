//! What each step is computed from: rows in the epoch's order, and the reference's draws.

use ipa_core::noise::Draws;
use ipa_core::tch::{Device, Kind, Tensor};
use ipa_vae::DiagonalGaussian;

use crate::config::{CropChoice, TrainConfig};
use crate::dataset::{Buckets, Crop, DataError, Dataset, batches};
use crate::encode::{EncodedRow, Reads, RowEncoder, View};
use crate::models::EncodeError;
use crate::objective::{Batch, Objective, drops};
use crate::validation::HeldOut;
use crate::{FrozenModels, TrainError};

/// So few rows are encoded before the first step: what is wrong with one is told before anything is written.
const A_HANDFUL: usize = 100;

/// The batches of a run, by step.
#[derive(Debug)]
pub(crate) struct Batches<'a> {
    models: &'a FrozenModels,
    dataset: &'a Dataset,
    encoder: RowEncoder<'a>,
    config: TrainConfig,
    rows: Vec<u32>,
    buckets: Option<Shapes>,
    plan: Option<(u64, Vec<Vec<u32>>)>, // the rows of an epoch's steps
    steps_per_epoch: u64,
    empty_text: Tensor,
    no_image: Option<Tensor>,
}

/// The shape that every row's picture comes nearest to.
#[derive(Debug)]
struct Shapes {
    buckets: Buckets,
    of_rows: Vec<u16>,
}

impl<'a> Batches<'a> {
    /// Of some rows of a dataset, for an adapter that reads so much of them.
    pub(crate) fn new(
        models: &'a FrozenModels,
        dataset: &'a Dataset,
        rows: Vec<u32>,
        config: &TrainConfig,
        reads: Reads,
    ) -> Result<Self, TrainError> {
        let encoder = RowEncoder::new(models, dataset, reads, &config.data)?;
        let on_cpu = |tensor: Tensor| tensor.to_device(Device::Cpu).to_kind(Kind::Float);
        let mut all = Self {
            empty_text: on_cpu(models.text_embeds("").map_err(EncodeError::from)?),
            no_image: reads.image.map(|features| on_cpu(models.encoder().unconditional(features))),
            buckets: config.data.bucket_step.map(|step| Shapes::new(dataset, &rows, config, step)).transpose()?,
            models,
            dataset,
            encoder,
            config: config.clone(),
            rows,
            plan: None,
            steps_per_epoch: 0,
        };
        all.steps_per_epoch = all.of_epoch(0).len() as u64;
        if all.rows.len() <= A_HANDFUL {
            let view = View::square(all.config.data.resolution);
            all.rows.iter().try_for_each(|row| all.encoder.row(*row, view).map(drop))?;
        }
        Ok(all)
    }

    /// Steps of an epoch.
    pub(crate) fn steps_per_epoch(&self) -> u64 {
        self.steps_per_epoch
    }

    /// The rows of every step of an epoch.
    fn of_epoch(&mut self, epoch: u64) -> &[Vec<u32>] {
        if self.plan.as_ref().is_none_or(|(of, _)| *of != epoch) {
            let order = self.dataset.order(&self.rows, self.config.seed, epoch);
            let rows = self.config.schedule.rows();
            let steps = match &self.buckets {
                Some(shapes) => batches(&order, |row| shapes.of_rows[row as usize].into(), rows),
                None => order.chunks(rows).map(<[u32]>::to_vec).collect(),
            };
            self.plan = Some((epoch, steps));
        }
        self.plan.as_ref().map(|(_, steps)| steps.as_slice()).unwrap_or_default()
    }

    /// The size of a step's pictures: one of the resolutions, in the shape of its first row.
    fn size(&self, step: u64, row: u32) -> (u32, u32) {
        let data = &self.config.data;
        let side = match data.more_resolutions.len() {
            0 => data.resolution,
            more => {
                let drawn = Draws::counted(self.config.seed, "resolution", step).integers(more as i64 + 1, &[1]);
                let index = drawn.int64_value(&[0]) as usize;
                if index == 0 { data.resolution } else { data.more_resolutions[index - 1] }
            }
        };
        match (&self.buckets, data.bucket_step) {
            (Some(shapes), Some(bucket_step)) => {
                let (width, height) = shapes.buckets.sizes()[usize::from(shapes.of_rows[row as usize])];
                let buckets = Buckets::new(side, bucket_step);
                buckets.sizes()[buckets.nearest(width, height)]
            }
            _ => (side, side),
        }
    }

    /// How the pictures of a step are seen.
    fn views(&self, step: u64, rows: &[u32]) -> Vec<View> {
        let data = &self.config.data;
        let size = self.size(step, rows.first().copied().unwrap_or_default());
        let numbers = |purpose| {
            let drawn = Draws::counted(self.config.seed, purpose, step).uniform(&[2 * rows.len() as i64]);
            Vec::<f32>::try_from(drawn).expect("two numbers a row")
        };
        let flips = if data.flip > 0.0 { numbers("flip") } else { Vec::new() };
        let crops = if data.crop == CropChoice::Random { numbers("crop") } else { Vec::new() };
        let view = |index: usize| View {
            size,
            crop: match crops.get(2 * index..2 * index + 2) {
                Some(share) => Crop::At(share[0].into(), share[1].into()),
                None => Crop::Centre,
            },
            flip: flips.get(2 * index).is_some_and(|drawn| f64::from(*drawn) < data.flip),
        };
        (0..rows.len()).map(view).collect()
    }

    /// Rows by a digest of their keys.
    pub(crate) fn sampled(&self, rows: &[u32]) -> Vec<u32> {
        self.dataset.sampled(rows)
    }

    /// Rows to learn from.
    pub(crate) fn num_rows(&self) -> usize {
        self.rows.len()
    }

    /// Bytes that one of them takes, encoded.
    ///
    /// # Errors
    /// As [`Batches::batch`].
    pub(crate) fn row_bytes(&mut self) -> Result<f64, TrainError> {
        let row = self.encoder.row(self.rows[0], View::square(self.config.data.resolution))?;
        Ok(self.encoder.row_bytes(&row))
    }

    /// A row that is not learned from, as validations look at it.
    ///
    /// # Errors
    /// As [`Batches::batch`].
    pub(crate) fn held_out(&mut self, row: u32) -> Result<HeldOut, TrainError> {
        let encoded = self.encoder.row(row, View::square(self.config.data.resolution))?;
        let (key, text, reference) = self.encoder.shown(row)?;
        Ok(HeldOut { key, text, reference, encoded })
    }

    /// What a step is computed from, whole: everything is drawn before it is cut into parts.
    ///
    /// # Errors
    /// [`TrainError::Encode`] naming the row at fault.
    pub(crate) fn batch(&mut self, step: u64, objective: &Objective) -> Result<Batch, TrainError> {
        let (epoch, within) = (step / self.steps_per_epoch, (step % self.steps_per_epoch) as usize);
        let rows = self.of_epoch(epoch)[within].clone();
        let views = self.views(step, &rows);
        let encoder = &mut self.encoder;
        let rows = rows.iter().zip(views).map(|(row, view)| encoder.row(*row, view));
        let rows = rows.collect::<Result<Vec<EncodedRow>, _>>()?;
        Ok(self.draw(step, &rows, objective))
    }

    /// The reference's draws, in its order.
    fn draw(&self, step: u64, rows: &[EncodedRow], objective: &Objective) -> Batch {
        let draws = |purpose| Draws::counted(self.config.seed, purpose, step);
        let stack = |part: fn(&EncodedRow) -> &Tensor| Tensor::cat(&rows.iter().map(part).collect::<Vec<_>>(), 0);
        let (mean, logvar) = (stack(|row| &row.posterior.mean), stack(|row| &row.posterior.logvar));
        let posterior = DiagonalGaussian { mean, logvar };
        let shape = posterior.mean.size();
        let latents = posterior.sample(&draws("posterior").normal(&shape)) * self.models.scaling_factor();
        let noise = draws("noise").normal(&shape);
        let settings = &self.config.objective;
        let noise = match settings.noise_offset {
            0.0 => noise,
            offset => noise + draws("noise_offset").normal(&[shape[0], shape[1], 1, 1]) * offset,
        };
        let perturbation = Some(settings.input_perturbation).filter(|deviation| *deviation > 0.0);
        let perturbation = perturbation.map(|deviation| draws("input_perturbation").normal(&shape) * deviation);
        let (first, num) = objective.timesteps();
        let timesteps = draws("timesteps").integers(num, &[shape[0]]) + first;
        let chances = Vec::<f32>::try_from(draws("drops").uniform(&[shape[0]])).expect("a number a row");
        let mut conditions = Conditions::default();
        rows.iter().zip(chances).for_each(|(row, chance)| self.add_conditions(&mut conditions, row, chance.into()));
        let (device, kind) = self.models.options();
        let joined = |parts: Vec<Tensor>| (!parts.is_empty()).then(|| Tensor::cat(&parts, 0).to_device(device));
        Batch {
            latents,
            noise,
            perturbation,
            timesteps,
            text_embeds: Tensor::cat(&conditions.texts, 0).to_device(device).to_kind(kind),
            image_features: joined(conditions.images),
            face: joined(same_number(conditions.faces)),
            weights: weights(rows),
            mask: masks(rows),
        }
    }

    /// A row's caption and picture, or what stands for none.
    fn add_conditions(&self, all: &mut Conditions, row: &EncodedRow, chance: f64) {
        let data = &self.config.data;
        let rates = [
            row.drops.image_drop.unwrap_or(data.image_drop),
            row.drops.text_drop.unwrap_or(data.text_drop),
            row.drops.both_drop.unwrap_or(data.both_drop),
        ];
        let drops = drops(chance, rates);
        all.texts.push(if drops.text { &self.empty_text } else { &row.text_embeds }.shallow_clone());
        if let (Some(image), Some(none)) = (&row.image_features, &self.no_image) {
            all.images.push(if drops.image { none } else { image }.shallow_clone());
        }
        if let Some(face) = &row.face {
            all.faces.push(if drops.image { face.zeros_like() } else { face.shallow_clone() });
        }
    }
}

#[derive(Default)]
struct Conditions {
    texts: Vec<Tensor>,
    images: Vec<Tensor>,
    faces: Vec<Tensor>,
}

/// As many faces of every row as all of them have.
fn same_number(faces: Vec<Tensor>) -> Vec<Tensor> {
    let several = faces.iter().filter(|faces| faces.dim() == 3).map(|faces| faces.size()[1]);
    match several.min() {
        Some(num) => faces.iter().map(|faces| faces.narrow(1, 0, num)).collect(),
        None => faces,
    }
}

/// Factors on the rows' losses, if any is not 1.
fn weights(rows: &[EncodedRow]) -> Option<Tensor> {
    let weights: Vec<f32> = rows.iter().map(|row| row.weight as f32).collect();
    weights.iter().any(|weight| *weight != 1.0).then(|| Tensor::from_slice(&weights))
}

/// Where losses count, if any row says so.
fn masks(rows: &[EncodedRow]) -> Option<Tensor> {
    rows.iter().any(|row| row.mask.is_some()).then(|| {
        let whole = |row: &EncodedRow| {
            let size = row.posterior.mean.size();
            Tensor::ones([1, 1, size[2], size[3]], (Kind::Float, Device::Cpu))
        };
        let mask = |row: &EncodedRow| row.mask.as_ref().map_or_else(|| whole(row), Tensor::shallow_clone);
        Tensor::cat(&rows.iter().map(mask).collect::<Vec<_>>(), 0)
    })
}

impl Shapes {
    fn new(dataset: &Dataset, rows: &[u32], config: &TrainConfig, bucket_step: u32) -> Result<Self, TrainError> {
        let buckets = Buckets::new(config.data.resolution, bucket_step);
        let nearest = |row: &u32| {
            let size = dataset.sample(*row as usize)?.picture.dimensions();
            let (width, height) = size.map_err(|fault| dataset.in_row(*row as usize, fault))?;
            Ok((*row, buckets.nearest(width, height) as u16)) // hundreds of sizes at most
        };
        // One after another: shards are opened in their order, each once.
        let nearest: Result<Vec<(u32, u16)>, DataError> = rows.iter().map(nearest).collect();
        let mut of_rows = vec![0; dataset.len()];
        for (row, bucket) in nearest.map_err(EncodeError::from)? {
            of_rows[row as usize] = bucket;
        }
        Ok(Self { buckets, of_rows })
    }
}
