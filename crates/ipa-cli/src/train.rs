//! `ipa train`

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use ipa_adapter::ProjectionConfig;
use ipa_formats::{AdapterVariant, Numbering};
use ipa_sample::AdapterSource;
use ipa_train::{
    Dataset, FeatureKind, FrozenModels, Progress, TrainConfig, TrainError, Trainer, Variant, check_unused,
    latest_checkpoint,
};
use serde_json::json;

use crate::args::{DeviceArgs, ModelArgs, numbering};
use crate::model::POCKET;
use crate::{interrupt, model, output, progress};

/// Train an adapter on captioned pictures
///
/// The reference's recipe: AdamW, the noise-prediction loss, 5 % each of captions, images and both dropped; UNet, VAE and
/// encoders stay as they are. Without `--init-adapter`, keys and values start as copies of the UNet's own.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ipa train --model pocket --init-adapter pocket --data assets/mascot/data.json --output out/mascot\n  \
    ipa train --model pocket --variant plus --data assets/mascot/data.json --output out/plus\n  \
    ipa train --model pocket --variant simple --features fine --data assets/mascot/data.json --output out/simple\n  \
    ipa train --model pocket --variant plus --data assets/mascot/data.json --output out/plus --resume")]
pub(crate) struct TrainArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The pictures: a JSON list of {"image_file": …, "text": …} or one such a line (.jsonl), paths relative to its folder; or
    /// a folder of pictures, each with its caption beside it (rabbit.png, rabbit.txt)
    #[arg(long, value_name = "FILE|DIR")]
    data: PathBuf,
    /// Folder for checkpoints, losses.jsonl and the finished ip_adapter.safetensors
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
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
    preset: Preset,
    /// TOML file with settings, in the sections adapter, data, optimizer, schedule, objective and output; single flags
    /// override them (docs/training.md)
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
    /// Go on from the latest checkpoint in the output folder
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON object a line, one for each step
    #[arg(long)]
    json: bool,
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
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FeaturesName {
    /// The embedding, one vector
    Global,
    /// The features before the last layer, one vector a patch
    Fine,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Preset {
    /// A handful of pictures: 10 epochs, one by one, saved every 5 steps
    Mini,
}

#[derive(Debug, Args)]
struct SettingsArgs {
    /// Side of the training pictures, a multiple of 8 [default: the model's own]
    #[arg(long, value_name = "PX")]
    resolution: Option<u32>,
    /// Passes over the pictures
    #[arg(long, value_name = "N")]
    epochs: Option<u64>,
    /// Pictures at once
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// How many such make one step, for less memory than a larger batch [default: 1]
    #[arg(long, value_name = "N")]
    accumulation: Option<usize>,
    /// Steps between checkpoints
    #[arg(long, value_name = "N")]
    save_steps: Option<u64>,
    /// Step size of the optimizer
    #[arg(long, value_name = "F")]
    learning_rate: Option<f64>,
    /// Seed of order, noise and drops [default: 0]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

impl TrainArgs {
    fn over(&self, preset: TrainConfig) -> TrainConfig {
        let variant = self.variant.map(|name| match name {
            VariantName::Classic => Variant::Classic,
            VariantName::Plus => Variant::Plus,
            VariantName::Simple => Variant::Simple,
            VariantName::Prefusion => Variant::Prefusion,
        });
        let features = self.features.map(|name| match name {
            FeaturesName::Global => FeatureKind::Global,
            FeaturesName::Fine => FeatureKind::Fine,
        });
        let mut config = preset;
        set(&mut config.adapter.variant, variant.map(Some));
        set(&mut config.adapter.features, features.map(Some));
        set(&mut config.adapter.num_tokens, self.num_tokens.map(Some));
        let settings = &self.settings;
        set(&mut config.data.resolution, settings.resolution);
        set(&mut config.schedule.epochs, settings.epochs);
        set(&mut config.schedule.batch, settings.batch);
        set(&mut config.schedule.accumulation, settings.accumulation);
        set(&mut config.output.save_steps, settings.save_steps);
        set(&mut config.optimizer.learning_rate, settings.learning_rate);
        set(&mut config.seed, settings.seed);
        config
    }

    /// The preset with the file over it and the flags over both.
    fn config(&self, resolution: u32) -> Result<TrainConfig, TrainError> {
        let preset = TrainConfig::mini(resolution);
        let config = self.over(match &self.config {
            Some(file) => TrainConfig::from_toml(file, &preset)?,
            None => preset,
        });
        config.check()?;
        Ok(config)
    }
}

fn set<T>(field: &mut T, flag: Option<T>) {
    if let Some(value) = flag {
        *field = value;
    }
}

pub(crate) fn run(args: &TrainArgs) -> Result<()> {
    interrupt::listen()?;
    let Preset::Mini = args.preset;
    args.config(512)?;
    let options = args.device.training_options()?;
    output::check_folder(&args.output)?;
    match args.resume {
        true => latest_checkpoint(&args.output).map(drop),
        false => check_unused(&args.output),
    }?;
    let dataset = Dataset::open(&args.data)?;
    let init = args.init_adapter.as_deref().map(|name| adapter_source(name, args)).transpose()?;
    let source = args.model.source()?;
    let models = FrozenModels::load_files(&source.files, args.model.image_encoder.as_deref(), options)?;
    let config = args.config(models.native_side())?;

    let bar = progress::bar(dataset.len() as u64, "encoding", args.json);
    let mut trainer = Trainer::new(&models, &dataset, config, init.as_ref(), |row| {
        bar.set_position(row as u64);
        interrupt::stop_if_requested("nothing was written");
    })?;
    bar.finish_and_clear();
    warn_of_tokens(&trainer);
    if args.resume {
        trainer.resume(&args.output)?;
    }
    train(&mut trainer, args)?;
    let file = args.output.join("ip_adapter.safetensors");
    match args.json {
        true => output::json_line(&json!({ "file": file }))?,
        false => output::line(format_args!("wrote {}", file.display()))?,
    }
    Ok(())
}

/// The adapter that `--init-adapter` names: `pocket`, or a file.
fn adapter_source(name: &Path, args: &TrainArgs) -> Result<AdapterSource> {
    let file = match name == Path::new(POCKET) {
        true => model::bundled()?.adapter.context("the pocket model in this program lacks its adapter")?,
        false => name.to_owned(),
    };
    let numbering = args.adapter_numbering.unwrap_or_default();
    Ok(AdapterSource { file, variant: args.adapter_variant, numbering, ..AdapterSource::default() })
}

/// Tells of numbers of tokens that other programs do not read.
fn warn_of_tokens(trainer: &Trainer) {
    let config = trainer.adapter().config();
    let (found, usual, programs) = match (config.variant(), config.projection) {
        (AdapterVariant::Base, ProjectionConfig::Classic { num_tokens, .. }) => (num_tokens, 4, "other programs read"),
        (AdapterVariant::Plus, ProjectionConfig::Plus(sizes)) => (sizes.num_tokens, 16, "ComfyUI reads"),
        _ => return,
    };
    if found != usual {
        output::warn(format_args!("{programs} adapters of this variant with {usual} tokens only"));
    }
}

fn train(trainer: &mut Trainer, args: &TrainArgs) -> Result<()> {
    let bar = progress::bar(trainer.num_steps(), "training", args.json);
    bar.set_position(trainer.steps_done());
    bar.reset_eta(); // what was done before a resume took no time of this run
    let mut said = Ok(());
    trainer.run(&args.output, |Progress { step, steps, loss }| {
        bar.set_position(step);
        bar.set_message(format!("loss {loss:.4}"));
        if args.json {
            said = output::json_line(&json!({ "step": step, "steps": steps, "loss": loss }));
        }
        if said.is_err() { ControlFlow::Break(()) } else { interrupt::flow() }
    })?;
    bar.finish_and_clear();
    Ok(said?)
}
