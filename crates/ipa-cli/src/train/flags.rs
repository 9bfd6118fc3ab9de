//! Flags of `ipa train`, over a preset and a file with settings.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use ipa_formats::{AdapterVariant, Numbering};
use ipa_sample::AdapterSource;
use ipa_train::{FeatureKind, Memory, Preset, TrainConfig, TrainError, Variant};

use crate::args::{DeviceArgs, ModelArgs, numbering};
use crate::failure::UsageError;
use crate::model::{self, POCKET};
use crate::names;

/// What a run is made of, and its settings.
#[derive(Debug, Clone, Args)]
#[command(mut_arg("model", |model| model.required(false).required_unless_present("config")))]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// The pictures: a JSON list of {"image_file": …, "text": …} or one such a line (.jsonl), paths relative to its folder; a
    /// folder of pictures, each with its caption beside it (rabbit.png, rabbit.txt); or tar shards (docs/datasets.md)
    #[arg(long, value_name = "FILE|DIR", required_unless_present = "config")]
    data: Option<PathBuf>,
    /// Folder for checkpoints, curves, the report and the finished ip_adapter.safetensors
    #[arg(long, value_name = "DIR", required_unless_present = "config")]
    output: Option<PathBuf>,
    /// Kind of adapter [default: that of --init-adapter, or classic]
    #[arg(long, value_enum)]
    variant: Option<VariantName>,
    /// What it reads of pictures: one embedding, or fine-grained features [default: the variant's usual ones]
    #[arg(long, value_enum)]
    features: Option<FeaturesName>,
    /// Tokens a picture becomes [default: 4 from global, 16 from fine features]
    #[arg(long, value_name = "N")]
    num_tokens: Option<i64>,
    /// Settings to start from; single flags override them
    #[arg(long, value_enum, default_value = "mini")]
    preset: PresetName,
    /// Rows at once for a graphics card of 8 GB, 16 GB, or more; those of a step stay as many
    #[arg(long, value_enum)]
    memory: Option<MemoryName>,
    /// TOML file with settings in sections, such as the config.toml of another run; single flags override them
    /// (docs/training.md)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Go on from this adapter, such as a published one; `pocket` is the pocket model's own
    #[arg(long, value_name = "FILE|pocket")]
    init_adapter: Option<PathBuf>,
    /// What that adapter is, where its tensors do not show it
    #[arg(long, value_name = "NAME", requires = "init_adapter")]
    adapter_variant: Option<AdapterVariant>,
    /// How its layers are numbered: published (1, 3, 5, …), or dense (0, 1, 2, …) in the same order
    #[arg(long, value_name = "NAME", requires = "init_adapter", value_parser = numbering)]
    adapter_numbering: Option<Numbering>,
    #[command(flatten)]
    settings: SettingsArgs,
    /// A whole CLIP that scores validations: its folder [default: the model's own `clip`, if it has one]
    #[arg(long, value_name = "DIR")]
    pub(crate) clip: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Print one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum VariantName {
    /// The base adapter: attention of its own, from one embedding
    #[value(alias = "base")]
    Classic,
    /// The plus adapter: attention of its own, from fine-grained features
    Plus,
    /// Research: image tokens beside the text tokens, one attention
    Simple,
    /// Research: image tokens look at the text first, then as plus
    Prefusion,
    /// As plus, for faces
    PlusFace,
    /// Attention of their own, from all patches of a face
    FullFace,
    /// From identity vectors (`id_embed_file`), with changes to the UNet's own attention
    #[value(name = "faceid")]
    FaceId,
    /// From identity vectors and fine-grained features, with changes to the UNet's own attention
    #[value(name = "faceid-plus")]
    FaceIdPlus,
    /// As faceid-plus, the features added to the identity
    #[value(name = "faceid-plusv2")]
    FaceIdPlusV2,
    /// From identity vectors of several pictures of a face
    Portrait,
    /// As portrait, from vectors that are not of length 1
    PortraitUnnorm,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FeaturesName {
    /// The embedding, one vector
    Global,
    /// The features before the last layer, one vector a patch
    Fine,
    /// Identity vectors of faces
    Identity,
    /// Both of these
    IdentityAndFine,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PresetName {
    /// 5 to 50 pictures: 10 epochs, one by one, saved every 5 steps
    Mini,
    /// 50 to 1,000: 20 epochs in fours, saved every 100 steps
    Small,
    /// 1,000 to 100,000: 10 epochs in eights, saved every 1,000 steps
    Medium,
    /// More: 2 epochs, 64 a step, saved every 2,000 steps
    Large,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum MemoryName {
    /// 8 GB: one by one, parts of the UNet computed again on the way back
    Low,
    /// 16 GB: four at once, parts of the UNet computed again on the way back
    Medium,
    /// 24 GB and more: as the preset has it
    High,
}

#[derive(Debug, Clone, Args)]
struct SettingsArgs {
    /// Side of the training pictures, a multiple of 8 [default: the model's own]
    #[arg(long, value_name = "PX")]
    resolution: Option<u32>,
    /// Passes over the pictures
    #[arg(long, value_name = "N")]
    epochs: Option<u64>,
    /// End after so many steps
    #[arg(long, value_name = "N")]
    max_steps: Option<u64>,
    /// Pictures at once
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// How many such make one step, for less memory than a larger batch [default: 1]
    #[arg(long, value_name = "N")]
    accumulation: Option<usize>,
    /// Compute parts of the UNet again on the way back: much less memory, more time
    #[arg(long)]
    recompute: bool,
    /// Steps between checkpoints
    #[arg(long, value_name = "N")]
    save_steps: Option<u64>,
    /// Step size of the optimizer
    #[arg(long, value_name = "F")]
    learning_rate: Option<f64>,
    /// Share of rows kept out of training and judged by instead, such as 0.1
    #[arg(long, value_name = "F")]
    held_out: Option<f64>,
    /// Steps between validations on them
    #[arg(long, value_name = "N")]
    validate_every: Option<u64>,
    /// Write event files for TensorBoard
    #[arg(long)]
    tensorboard: bool,
    /// Seed of order, noise and drops [default: 0]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

impl RunArgs {
    /// Takes parts that the file with settings names and the flags do not.
    pub(crate) fn take_parts(&mut self, config: &TrainConfig) {
        let model = &config.model;
        self.model.model.clone_from(&model.base);
        self.model.image_encoder.clone_from(&model.image_encoder);
        self.device.or(model.device.as_deref(), model.dtype.as_deref());
    }

    /// The preset with the file over it and the flags over both.
    ///
    /// # Errors
    /// [`TrainError`] naming the field at fault.
    pub(crate) fn config(&self, resolution: u32) -> Result<TrainConfig, TrainError> {
        let preset = match self.preset {
            PresetName::Mini => Preset::Mini,
            PresetName::Small => Preset::Small,
            PresetName::Medium => Preset::Medium,
            PresetName::Large => Preset::Large,
        };
        let preset = TrainConfig::preset(preset, resolution);
        let mut config = match &self.config {
            Some(file) => TrainConfig::from_toml(file, &preset)?,
            None => preset,
        };
        let memory = self.memory.map(|memory| match memory {
            MemoryName::Low => Memory::Low,
            MemoryName::Medium => Memory::Medium,
            MemoryName::High => Memory::High,
        });
        config = memory.into_iter().fold(config, TrainConfig::within);
        self.name_parts(&mut config);
        self.settings.put_over(&mut config);
        config.check()?;
        Ok(config)
    }

    /// What is trained, on what, and where it goes.
    fn name_parts(&self, config: &mut TrainConfig) {
        let features = self.features.map(|name| match name {
            FeaturesName::Global => FeatureKind::Global,
            FeaturesName::Fine => FeatureKind::Fine,
            FeaturesName::Identity => FeatureKind::Identity,
            FeaturesName::IdentityAndFine => FeatureKind::IdentityAndFine,
        });
        set(&mut config.adapter.variant, self.variant.map(|name| Some(name.variant())));
        set(&mut config.adapter.features, features.map(Some));
        set(&mut config.adapter.num_tokens, self.num_tokens.map(Some));
        set(&mut config.model.base, self.model.model.clone().map(Some));
        set(&mut config.model.image_encoder, self.model.image_encoder.clone().map(Some));
        set(&mut config.model.init_adapter, self.init_adapter.clone().map(Some));
        set(&mut config.model.init_variant, self.adapter_variant.map(|variant| Some(variant.name().to_owned())));
        let numbering = self.adapter_numbering.map(|numbering| match numbering {
            Numbering::Published => "published",
            Numbering::Dense => "dense",
        });
        set(&mut config.model.init_numbering, numbering.map(|name| Some(name.to_owned())));
        set(&mut config.model.clip, self.clip.clone().map(Some));
        set(&mut config.data.path, self.data.clone().map(Some));
        set(&mut config.output.folder, self.output.clone().map(Some));
    }

    /// The adapter that the settings begin with: `pocket`, or a file.
    ///
    /// # Errors
    /// If `pocket` is named and this program does not carry it.
    pub(crate) fn init_adapter(&self, config: &TrainConfig) -> Result<Option<AdapterSource>> {
        let Some(name) = &config.model.init_adapter else { return Ok(None) };
        let file = match name == Path::new(POCKET) {
            true => model::bundled()?.adapter.context("the pocket model in this program lacks its adapter")?,
            false => names::found(name)?,
        };
        let named = |field: &str, error: String| UsageError(format!("`{field}` in [model]: {error}"));
        let variant = config.model.init_variant.as_deref().map(str::parse::<AdapterVariant>).transpose();
        let variant = variant.map_err(|error| named("init_variant", error.to_string()))?;
        let numbering = config.model.init_numbering.as_deref().map(numbering).transpose();
        let numbering = numbering.map_err(|error| named("init_numbering", error.to_owned()))?.unwrap_or_default();
        Ok(Some(AdapterSource { file, variant, numbering, ..AdapterSource::default() }))
    }
}

impl SettingsArgs {
    fn put_over(&self, config: &mut TrainConfig) {
        set(&mut config.data.resolution, self.resolution);
        set(&mut config.schedule.epochs, self.epochs);
        set(&mut config.schedule.max_steps, self.max_steps.map(Some));
        set(&mut config.schedule.batch, self.batch);
        set(&mut config.schedule.accumulation, self.accumulation);
        set(&mut config.model.recompute, self.recompute.then_some(true));
        set(&mut config.output.save_steps, self.save_steps);
        set(&mut config.output.tensorboard, self.tensorboard.then_some(true));
        set(&mut config.optimizer.learning_rate, self.learning_rate);
        set(&mut config.validation.held_out, self.held_out);
        set(&mut config.validation.every, self.validate_every.map(Some));
        set(&mut config.seed, self.seed);
    }
}

impl VariantName {
    fn variant(self) -> Variant {
        match self {
            Self::Classic => Variant::Classic,
            Self::Plus => Variant::Plus,
            Self::Simple => Variant::Simple,
            Self::Prefusion => Variant::Prefusion,
            Self::PlusFace => Variant::PlusFace,
            Self::FullFace => Variant::FullFace,
            Self::FaceId => Variant::FaceId,
            Self::FaceIdPlus => Variant::FaceIdPlus,
            Self::FaceIdPlusV2 => Variant::FaceIdPlusV2,
            Self::Portrait => Variant::Portrait,
            Self::PortraitUnnorm => Variant::PortraitUnnorm,
        }
    }
}

fn set<T>(field: &mut T, flag: Option<T>) {
    if let Some(value) = flag {
        *field = value;
    }
}
