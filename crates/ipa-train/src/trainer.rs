//! The training of an adapter.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use ipa_adapter::{AdapterError, AdapterFile, IpAdapter};
use ipa_core::WeightsError;
use ipa_core::noise::Draws;
use ipa_core::tch::{self, Kind, Tensor};
use ipa_formats::FormatError;
use ipa_sample::AdapterSource;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::checkpoint::{self, check_unused, latest_checkpoint};
use crate::data::Dataset;
use crate::identity;
use crate::losses::{self, StepLoss};
use crate::models::{EncodeError, EncodedRow, FrozenModels};
use crate::objective::{Batch, drops, training_loss};
use crate::{AdamW, AdamWConfig, FeatureKind, Variant, metadata};

/// Keeps the number of steps far from overflow.
const MAX_EPOCHS: u64 = 1_000_000;

/// Most tokens a picture may become.
const MAX_TOKENS: i64 = 1024;

/// The recipe of a run; [`TrainConfig::mini`] is for a handful of pictures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Kind of adapter; without one that of the adapter it begins with, or classic, or plus for fine features.
    pub variant: Option<Variant>,
    /// What it reads of pictures; without them [`Variant::usual_features`].
    pub features: Option<FeatureKind>,
    /// Tokens a picture becomes; without a number 4 from global, 16 from fine features.
    pub num_tokens: Option<i64>,
    /// Side of the training pictures in pixels, a multiple of 8.
    pub resolution: u32,
    /// Passes over the data, at most a million.
    pub epochs: u64,
    /// Rows a step; the last step of an epoch may have fewer.
    pub batch: usize,
    /// Steps between checkpoints.
    pub save_steps: u64,
    /// AdamW's step size, constant.
    pub learning_rate: f64,
    /// AdamW's decay of every parameter.
    pub weight_decay: f64,
    /// Decides order, noise, timesteps and drops.
    pub seed: u64,
}

impl TrainConfig {
    /// Five pictures or so: 10 epochs one by one, saved every 5 steps.
    pub fn mini(resolution: u32) -> Self {
        Self {
            variant: None,
            features: None,
            num_tokens: None,
            resolution,
            epochs: 10,
            batch: 1,
            save_steps: 5,
            learning_rate: 1e-4,
            weight_decay: 1e-2,
            seed: 0,
        }
    }

    /// Checks every range.
    ///
    /// # Errors
    /// [`TrainError::Field`].
    pub fn check(&self) -> Result<(), TrainError> {
        let refuse =
            |field, value: &dyn ToString, allowed| Err(TrainError::Field { field, value: value.to_string(), allowed });
        if !self.resolution.is_multiple_of(8) || !(8..=4096).contains(&self.resolution) {
            return refuse("resolution", &self.resolution, "choose a multiple of 8 between 8 and 4096");
        }
        let pair = self.variant.zip(self.features);
        if pair.is_some_and(|(variant, features)| !variant.reads(features)) {
            return refuse(
                "features",
                &"not what the variant reads",
                "classic reads global ones and plus fine ones; simple and prefusion either",
            );
        }
        if let Some(num_tokens) = self.num_tokens.filter(|num_tokens| !(1..=MAX_TOKENS).contains(num_tokens)) {
            return refuse("num_tokens", &num_tokens, "choose 1 to 1024; 4 and 16 are usual");
        }
        for (field, value) in [("epochs", self.epochs), ("batch", self.batch as u64), ("save_steps", self.save_steps)] {
            if value == 0 {
                return refuse(field, &value, "choose at least 1");
            }
        }
        if self.epochs > MAX_EPOCHS {
            return refuse("epochs", &self.epochs, "choose at most 1000000");
        }
        if !(self.learning_rate > 0.0 && self.learning_rate <= 1.0) {
            return refuse("learning_rate", &self.learning_rate, "choose a number above 0 and at most 1, such as 1e-4");
        }
        if !(0.0..=1.0).contains(&self.weight_decay) {
            return refuse("weight_decay", &self.weight_decay, "choose 0 to 1, such as 0.01");
        }
        Ok(())
    }
}

/// Why a run stopped.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A setting is out of its range.
    #[error("`{field}` is {value}; {allowed}")]
    Field {
        /// Its name.
        field: &'static str,
        /// As given.
        value: String,
        /// What would be right.
        allowed: &'static str,
    },
    /// The adapter does not fit or cannot be written.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// A row cannot be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// A checkpoint cannot be read or written.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FormatError),
    /// The adapter to begin with is of a kind that cannot be trained.
    #[error(
        "the adapter to begin with reads faces, which is not trained here: begin with one that reads pictures, or without \
         `--init-adapter`"
    )]
    Kind,
    /// The adapter to begin with is of another kind than was asked for.
    #[error("the adapter to begin with has another `{field}`: leave that out, or begin with another adapter")]
    OtherKind {
        /// What differs.
        field: &'static str,
    },
    /// The models compute in f16, whose gradients vanish.
    #[error("training in f16 needs loss scaling, which is not built yet: use `--dtype bf16` or `--dtype f32`")]
    HalfPrecision,
    /// A run was to begin where another one left checkpoints.
    #[error("{checkpoint} is of an earlier run: go on with `--resume`, or start in another folder")]
    UsedFolder {
        /// Its latest checkpoint.
        checkpoint: PathBuf,
    },
    /// There is nothing to go on from.
    #[error("{folder} has no checkpoint to resume from: start without `--resume`")]
    NoCheckpoint {
        /// The output folder.
        folder: PathBuf,
    },
    /// The run to be resumed had other settings, data or models.
    #[error(
        "{path} is of another run, `{field}` differs: give its settings, data and models, or start in another folder"
    )]
    OtherRun {
        /// What the checkpoint notes of its run.
        path: PathBuf,
        /// The first field that differs.
        field: String,
    },
    /// The loss is not a number.
    #[error(
        "the loss of step {step} is not a number: lower the learning rate or use `--dtype f32`; the last checkpoint is kept"
    )]
    NotANumber {
        /// Counted from 1.
        step: u64,
    },
    /// Somebody asked to stop.
    #[error("interrupted at step {step}: go on with `--resume`")]
    Interrupted {
        /// Steps done.
        step: u64,
    },
}

/// Where a run stands after a step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Steps in all.
    pub steps: u64,
    /// Loss of this step.
    pub loss: f64,
}

/// A run: frozen models, data, the adapter and its optimizer.
#[derive(Debug)]
pub struct Trainer<'a> {
    models: &'a FrozenModels,
    rows: Vec<EncodedRow>,
    empty_text: Tensor,
    no_image: Tensor,
    config: TrainConfig,
    identity: Value,
    adapter: IpAdapter,
    optimizer: AdamW,
    losses: Vec<StepLoss>,
}

impl<'a> Trainer<'a> {
    /// Encodes the data once and starts from `init_adapter`, or from the UNet's own K and V.
    ///
    /// `encoded` hears of every row encoded.
    ///
    /// # Errors
    /// [`TrainError`] if a setting, a row or the adapter is at fault.
    pub fn new(
        models: &'a FrozenModels,
        dataset: &Dataset,
        config: TrainConfig,
        init_adapter: Option<&AdapterSource>,
        mut encoded: impl FnMut(usize),
    ) -> Result<Self, TrainError> {
        config.check()?;
        let unet = &models.unet.config;
        let (device, kind) = models.options();
        if kind == Kind::Half {
            return Err(TrainError::HalfPrecision);
        }
        let adapter = match init_adapter {
            Some(source) => {
                let file = AdapterFile::open(&source.file, &source.options())?;
                IpAdapter::load_file(file, unet, (device, Kind::Float))?
            }
            None => begin(models, &config),
        };
        if adapter.config().projection.face_width().is_some() {
            return Err(TrainError::Kind);
        }
        check_kind(&adapter, &config)?;
        let features = adapter.image_features().ok_or(TrainError::Kind)?;
        adapter.check_width(models.encoder().width(features))?;
        let encode = |row| {
            let encoded_row = models.encode(dataset, row, config.resolution, features);
            encoded(row + 1);
            encoded_row
        };
        let rows = (0..dataset.len()).map(encode).collect::<Result<Vec<_>, _>>()?;
        let empty_text = models.text_embeds("").map_err(EncodeError::from)?.to_device(tch::Device::Cpu);
        let decay = AdamWConfig { weight_decay: config.weight_decay, ..AdamWConfig::default() };
        let identity = identity::of_run(models, dataset, &config, init_adapter)?;
        let optimizer = AdamW::new(adapter.variables(), decay);
        let (empty_text, losses) = (empty_text.to_kind(Kind::Float), Vec::new());
        let no_image = models.encoder().unconditional(features).to_device(tch::Device::Cpu).to_kind(Kind::Float);
        Ok(Self { models, rows, empty_text, no_image, config, identity, adapter, optimizer, losses })
    }

    /// Goes on from the latest checkpoint in `folder`.
    ///
    /// # Errors
    /// [`TrainError`] if there is none, or it belongs to a run with other settings, data, pictures, models or kind.
    pub fn resume(&mut self, folder: &Path) -> Result<(), TrainError> {
        let latest = latest_checkpoint(folder)?;
        if let Some(field) = identity::difference(&checkpoint::identity(&latest)?, &self.identity) {
            return Err(TrainError::OtherRun { path: latest.join(checkpoint::CONFIG), field });
        }
        checkpoint::load(&latest, &self.adapter, &mut self.optimizer)?;
        self.losses = losses::read(folder, self.steps_done())?;
        Ok(())
    }

    /// The adapter as it stands.
    pub fn adapter(&self) -> &IpAdapter {
        &self.adapter
    }

    /// What the adapter says of itself where it is saved now: variant, tokens, encoder, base model, training, licence.
    pub fn metadata(&self) -> Value {
        metadata::of_run(&self.adapter, &self.config, self.steps_done())
    }

    /// Steps done, those before a resume included.
    pub fn steps_done(&self) -> u64 {
        self.optimizer.steps()
    }

    /// Steps of the whole run.
    pub fn num_steps(&self) -> u64 {
        self.config.epochs * self.steps_per_epoch()
    }

    /// Steps of an epoch.
    fn steps_per_epoch(&self) -> u64 {
        self.rows.len().div_ceil(self.config.batch) as u64
    }

    /// Trains to the end, writing `checkpoint-<step>/` into `folder` and at the end `ip_adapter.safetensors`.
    ///
    /// `losses.jsonl` holds the loss of every step up to the latest checkpoint, one line a step, whether the run was
    /// resumed or not. `progress` hears of a step before it is saved; a request to stop is a checkpoint more.
    ///
    /// # Errors
    /// [`TrainError::UsedFolder`] if the run is a new one and `folder` has checkpoints; any other [`TrainError`], and
    /// what was saved before remains.
    pub fn run(
        &mut self,
        folder: &Path,
        mut progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<(), TrainError> {
        if self.steps_done() == 0 {
            check_unused(folder)?;
        }
        fs::create_dir_all(folder).map_err(|source| FormatError::Write { path: folder.into(), source })?;
        losses::write(folder, &self.losses)?; // a folder that takes no files is found before the work
        let steps = self.num_steps();
        while self.steps_done() < steps {
            let loss = self.step()?;
            let step = self.steps_done();
            self.losses.push(StepLoss { step, loss });
            let stop = progress(Progress { step, steps, loss }).is_break();
            if stop || step.is_multiple_of(self.config.save_steps) {
                self.save(folder)?;
            }
            if stop {
                return Err(TrainError::Interrupted { step });
            }
        }
        losses::write(folder, &self.losses)?;
        Ok(self.adapter.save(&folder.join("ip_adapter.safetensors"), Kind::Float, Some(&self.metadata()))?)
    }

    /// Losses first: after a crash in between, resuming leaves out those that are ahead of the checkpoint.
    fn save(&self, folder: &Path) -> Result<(), TrainError> {
        losses::write(folder, &self.losses)?;
        let (adapter, optimizer, identity) = (&self.adapter, &self.optimizer, &self.identity);
        checkpoint::save(folder, &checkpoint::Parts { adapter, optimizer, identity, metadata: self.metadata() })
    }

    /// One step; gives its loss.
    fn step(&mut self) -> Result<f64, TrainError> {
        let step = self.optimizer.steps();
        let batch = self.batch(step);
        let loss = training_loss(&self.models.unet.model, &self.adapter, &self.models.schedule, &batch)?;
        let value = loss.double_value(&[]);
        if !value.is_finite() {
            return Err(TrainError::NotANumber { step: step + 1 });
        }
        loss.backward();
        self.optimizer.step(self.config.learning_rate);
        Ok(value)
    }

    /// The rows of a step, shuffled anew every epoch, with the reference's draws in its order.
    fn batch(&self, step: u64) -> Batch {
        let (epoch, within) = (step / self.steps_per_epoch(), (step % self.steps_per_epoch()) as usize);
        let order = Draws::counted(self.config.seed, "order", epoch).permutation(self.rows.len());
        let rows: Vec<&EncodedRow> =
            order.chunks(self.config.batch).nth(within).into_iter().flatten().map(|&row| &self.rows[row]).collect();
        let draws = |purpose| Draws::counted(self.config.seed, purpose, step);
        let stack =
            |part: fn(&EncodedRow) -> &Tensor| Tensor::cat(&rows.iter().map(|row| part(row)).collect::<Vec<_>>(), 0);
        let (mean, logvar) = (stack(|row| &row.posterior().mean), stack(|row| &row.posterior().logvar));
        let posterior = ipa_vae::DiagonalGaussian { mean, logvar };
        let shape = posterior.mean.size();
        let latents = posterior.sample(&draws("posterior").normal(&shape)) * self.models.scaling_factor();
        let noise = draws("noise").normal(&shape);
        let timesteps = draws("timesteps").integers(self.models.schedule.len(), &[shape[0]]);
        let chances = Vec::<f32>::try_from(draws("drops").uniform(&[shape[0]])).expect("a number a row");
        let (device, kind) = self.models.options();
        let conditions = |(row, chance): (&&EncodedRow, f32)| {
            let drops = drops(f64::from(chance));
            let text = if drops.text { &self.empty_text } else { row.text_embeds() };
            let image = if drops.image { &self.no_image } else { row.image_features() };
            (text.shallow_clone(), image.shallow_clone())
        };
        let (texts, images): (Vec<Tensor>, Vec<Tensor>) = rows.iter().zip(chances).map(conditions).unzip();
        Batch {
            latents,
            noise,
            timesteps,
            text_embeds: Tensor::cat(&texts, 0).to_device(device).to_kind(kind),
            image_features: Tensor::cat(&images, 0).to_device(device),
        }
    }
}

/// A new adapter of the kind that the settings ask for.
fn begin(models: &FrozenModels, config: &TrainConfig) -> IpAdapter {
    let variant = config.variant.unwrap_or(match config.features {
        Some(FeatureKind::Fine) => Variant::Plus,
        Some(FeatureKind::Global) | None => Variant::Classic,
    });
    let features = config.features.unwrap_or(variant.usual_features());
    let (device, _) = models.options();
    let sizes = variant.config(features, config.num_tokens, models.encoder(), &models.unet.config);
    let adapter = IpAdapter::new(&sizes, (device, Kind::Float));
    adapter.initialize(&models.unet.vs.variables(), config.seed);
    adapter
}

/// Whether an adapter is what the settings ask for, as far as they ask.
fn check_kind(adapter: &IpAdapter, config: &TrainConfig) -> Result<(), TrainError> {
    let variant = Variant::of(adapter);
    let sizes = adapter.config().projection;
    let (features, num_tokens) = match sizes {
        ipa_adapter::ProjectionConfig::Classic { num_tokens, .. } => (FeatureKind::Global, Some(num_tokens)),
        ipa_adapter::ProjectionConfig::Plus(resampler) => (FeatureKind::Fine, Some(resampler.num_tokens)),
        _ => (FeatureKind::Fine, None),
    };
    let differs = [
        ("variant", config.variant.is_some() && config.variant != variant),
        ("features", config.features.is_some_and(|asked| asked != features)),
        ("num_tokens", config.num_tokens.is_some() && config.num_tokens != num_tokens),
    ];
    match differs.into_iter().find(|(_, differs)| *differs) {
        Some((field, _)) => Err(TrainError::OtherKind { field }),
        None => Ok(()),
    }
}
