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
use serde::Serialize;
use serde_json::Value;

use crate::checkpoint::{self, check_unused, latest_checkpoint};
use crate::config::TrainConfig;
use crate::data::Dataset;
use crate::identity;
use crate::losses::{self, StepLoss};
use crate::models::{EncodeError, EncodedRow, FrozenModels};
use crate::objective::{Batch, Objective, drops};
use crate::{AdamW, AdamWConfig, Ema, FeatureKind, Variant, metadata};

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
    /// The file with settings is none.
    #[error("{path} is not a training configuration: {reason}")]
    Config {
        /// The file.
        path: PathBuf,
        /// Field, line, and what may stand there.
        reason: String,
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
    ema: Option<Ema>,
    objective: Objective,
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
            let encoded_row = models.encode(dataset, row, config.data.resolution, features);
            encoded(row + 1);
            encoded_row
        };
        let rows = (0..dataset.len()).map(encode).collect::<Result<Vec<_>, _>>()?;
        let empty_text = models.text_embeds("").map_err(EncodeError::from)?.to_device(tch::Device::Cpu);
        let decay = AdamWConfig { weight_decay: config.optimizer.weight_decay, ..AdamWConfig::default() };
        let identity = identity::of_run(models, dataset, &config, init_adapter)?;
        let optimizer = AdamW::new(adapter.variables(), decay);
        let ema = config.optimizer.ema_decay.map(|decay| Ema::new(&optimizer, decay));
        let objective = Objective::new(&config.objective, models)?;
        let (empty_text, losses) = (empty_text.to_kind(Kind::Float), Vec::new());
        let no_image = models.encoder().unconditional(features).to_device(tch::Device::Cpu).to_kind(Kind::Float);
        Ok(Self { models, rows, empty_text, no_image, config, identity, adapter, optimizer, ema, objective, losses })
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
        checkpoint::load(&latest, &self.adapter, &mut self.optimizer, self.ema.as_mut())?;
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
        self.config.schedule.epochs * self.steps_per_epoch()
    }

    /// Steps of an epoch.
    fn steps_per_epoch(&self) -> u64 {
        self.rows.len().div_ceil(self.config.schedule.rows()) as u64
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
            if stop || step.is_multiple_of(self.config.output.save_steps) {
                self.save(folder)?;
            }
            if stop {
                return Err(TrainError::Interrupted { step });
            }
        }
        losses::write(folder, &self.losses)?;
        self.finish();
        Ok(self.adapter.save(&folder.join("ip_adapter.safetensors"), Kind::Float, Some(&self.metadata()))?)
    }

    /// Losses first: after a crash in between, resuming leaves out those that are ahead of the checkpoint.
    fn save(&self, folder: &Path) -> Result<(), TrainError> {
        losses::write(folder, &self.losses)?;
        let (adapter, optimizer, ema) = (&self.adapter, &self.optimizer, self.ema.as_ref());
        let (identity, metadata) = (&self.identity, self.metadata());
        checkpoint::save(folder, &checkpoint::Parts { adapter, optimizer, ema, identity, metadata })?;
        self.config.output.keep_checkpoints.map_or(Ok(()), |num| checkpoint::keep_latest(folder, num))
    }

    /// The adapter ends as the average of its steps, if there is one.
    fn finish(&mut self) {
        let _no_grad = tch::no_grad_guard();
        let average = self.ema.as_ref().map(|ema| ema.tensors(&self.optimizer)).unwrap_or_default();
        let variables = self.adapter.variables();
        for (name, value) in average {
            variables[&name].shallow_clone().copy_(&value);
        }
    }

    /// One step; gives its loss.
    fn step(&mut self) -> Result<f64, TrainError> {
        let step = self.optimizer.steps();
        let batch = self.batch(step);
        let mut value = 0.0;
        for (part, share) in batch.parts(self.config.schedule.batch as i64) {
            let loss = self.objective.loss(&self.models.unet.model, &self.adapter, &self.models.schedule, &part)?;
            let loss = if share == 1.0 { loss } else { loss * share };
            let part = loss.double_value(&[]);
            if !part.is_finite() {
                return Err(TrainError::NotANumber { step: step + 1 });
            }
            loss.backward();
            value += part;
        }
        let settings = &self.config.optimizer;
        let learning_rate = settings.learning_rate * self.config.schedule.factor(step, self.num_steps());
        match settings.max_grad_norm {
            Some(max_norm) => drop(self.optimizer.step_clipped(learning_rate, max_norm)),
            None => self.optimizer.step(learning_rate),
        }
        if let Some(ema) = &mut self.ema {
            ema.update(&self.optimizer);
        }
        Ok(value)
    }

    /// The rows of a step, shuffled anew every epoch, with the reference's draws in its order.
    fn batch(&self, step: u64) -> Batch {
        let (epoch, within) = (step / self.steps_per_epoch(), (step % self.steps_per_epoch()) as usize);
        let order = Draws::counted(self.config.seed, "order", epoch).permutation(self.rows.len());
        let rows: Vec<&EncodedRow> = order
            .chunks(self.config.schedule.rows())
            .nth(within)
            .into_iter()
            .flatten()
            .map(|&row| &self.rows[row])
            .collect();
        let draws = |purpose| Draws::counted(self.config.seed, purpose, step);
        let stack =
            |part: fn(&EncodedRow) -> &Tensor| Tensor::cat(&rows.iter().map(|row| part(row)).collect::<Vec<_>>(), 0);
        let (mean, logvar) = (stack(|row| &row.posterior().mean), stack(|row| &row.posterior().logvar));
        let posterior = ipa_vae::DiagonalGaussian { mean, logvar };
        let shape = posterior.mean.size();
        let latents = posterior.sample(&draws("posterior").normal(&shape)) * self.models.scaling_factor();
        let noise = draws("noise").normal(&shape);
        let noise = match self.config.objective.noise_offset {
            0.0 => noise,
            offset => noise + draws("noise_offset").normal(&[shape[0], shape[1], 1, 1]) * offset,
        };
        let perturbation = Some(self.config.objective.input_perturbation).filter(|deviation| *deviation > 0.0);
        let perturbation = perturbation.map(|deviation| draws("input_perturbation").normal(&shape) * deviation);
        let (first, num) = self.objective.timesteps();
        let timesteps = draws("timesteps").integers(num, &[shape[0]]) + first;
        let chances = Vec::<f32>::try_from(draws("drops").uniform(&[shape[0]])).expect("a number a row");
        let (device, kind) = self.models.options();
        let conditions = |(row, chance): (&&EncodedRow, f32)| {
            let data = &self.config.data;
            let drops = drops(f64::from(chance), [data.image_drop, data.text_drop, data.both_drop]);
            let text = if drops.text { &self.empty_text } else { row.text_embeds() };
            let image = if drops.image { &self.no_image } else { row.image_features() };
            (text.shallow_clone(), image.shallow_clone())
        };
        let (texts, images): (Vec<Tensor>, Vec<Tensor>) = rows.iter().zip(chances).map(conditions).unzip();
        Batch {
            latents,
            noise,
            perturbation,
            timesteps,
            text_embeds: Tensor::cat(&texts, 0).to_device(device).to_kind(kind),
            image_features: Tensor::cat(&images, 0).to_device(device),
        }
    }
}

/// A new adapter of the kind that the settings ask for.
fn begin(models: &FrozenModels, config: &TrainConfig) -> IpAdapter {
    let variant = config.adapter.variant.unwrap_or(match config.adapter.features {
        Some(FeatureKind::Fine) => Variant::Plus,
        Some(FeatureKind::Global) | None => Variant::Classic,
    });
    let features = config.adapter.features.unwrap_or(variant.usual_features());
    let (device, _) = models.options();
    let sizes = variant.config(features, config.adapter.num_tokens, models.encoder(), &models.unet.config);
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
        ("variant", config.adapter.variant.is_some() && config.adapter.variant != variant),
        ("features", config.adapter.features.is_some_and(|asked| asked != features)),
        ("num_tokens", config.adapter.num_tokens.is_some() && config.adapter.num_tokens != num_tokens),
    ];
    match differs.into_iter().find(|(_, differs)| *differs) {
        Some((field, _)) => Err(TrainError::OtherKind { field }),
        None => Ok(()),
    }
}
