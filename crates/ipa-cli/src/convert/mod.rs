//! `ipa convert`

mod adapter;
mod model;
mod told;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum, ValueHint};
use ipa_formats::{
    AdapterDialect, AdapterVariant, Dtype, FormatError, ModelFolder, ModelForm, Numbering, PredictionType, Weights,
    is_adapter, resembles_lora,
};

use crate::args::numbering;
use crate::failure::UsageError;
use crate::{interrupt, names};

/// Where an adapter goes that a trainer left and for which no place was named.
const TRAINED: &str = "trained_ip_adapter.safetensors";

/// Turn adapters, checkpoints of trainers, LoRAs and models into other layouts and precisions
///
/// What IN is, is told by its tensors. Whatever can be written is safetensors. Nothing is downloaded, no pickle is
/// executed, and a conversion that fails leaves nothing behind.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  ipa convert output/checkpoint-50000                  a trainer's folder: trained_ip_adapter.safetensors\n  \
    ipa convert ip-adapter-plus_sd15.bin plus.safetensors\n  \
    ipa convert adapter.safetensors for-diffusers.safetensors --to diffusers\n  \
    ipa convert ip-adapter-faceid_sd15.bin face.safetensors --lora-output face_lora.safetensors"
)]
pub(crate) struct ConvertArgs {
    /// Name of fetched weights, adapter, checkpoint or output folder of a trainer, LoRA, weights file (safetensors, .ckpt, .bin, an index of
    /// parts), single-file model or model folder
    #[arg(value_name = "IN", value_hint = ValueHint::AnyPath)]
    input: PathBuf,
    /// File or folder to write; of what a trainer left it may be left out: trained_ip_adapter.safetensors
    #[arg(value_name = "OUT", value_hint = ValueHint::AnyPath)]
    output: Option<PathBuf>,
    /// Layout to write. Adapters: published, diffusers, trainer or processors; models: folder or single-file, which the
    /// name of OUT tells too; LoRAs: kohya or diffusers
    #[arg(long, value_name = "LAYOUT", hide_possible_values = true)]
    to: Option<Layout>,
    /// Write floating-point numbers as f32, f16 or bf16; without it they stay what they are
    #[arg(long, value_name = "KIND", hide_possible_values = true)]
    dtype: Option<Precision>,
    /// Say what would be written, tensor by tensor, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// List every tensor: what it became, or why it was left out
    #[arg(long)]
    tensors: bool,
    /// Print one JSON object with every tensor
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    adapter: AdapterFlags,
}

/// What is for models alone.
#[derive(Debug, Args)]
#[command(next_help_heading = "Models")]
struct ModelFlags {
    /// Take the averaged weights (EMA) of a single file's UNet
    #[arg(long)]
    ema: bool,
    /// Tokenizer for the folder that is made of a single file, which has none; without it, `tokenizer` beside the file
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    tokenizer: Option<PathBuf>,
    /// What the UNet of a single file predicts, where its family's rule is wrong: epsilon, v_prediction or sample
    #[arg(long, value_name = "NAME", hide_possible_values = true)]
    #[arg(value_parser = ["epsilon", "v_prediction", "sample"].map(PossibleValue::new))]
    prediction_type: Option<String>,
}

impl ModelFlags {
    fn known_prediction(&self) -> Option<PredictionType> {
        PredictionType::named(self.prediction_type.as_deref()?)
    }

    fn given(&self) -> Option<&'static str> {
        let flags = [
            (self.ema, "--ema"),
            (self.tokenizer.is_some(), "--tokenizer"),
            (self.prediction_type.is_some(), "--prediction-type"),
        ];
        flags.into_iter().find_map(|(is_given, flag)| is_given.then_some(flag))
    }
}

/// What is for adapters alone.
#[derive(Debug, Args)]
#[command(next_help_heading = "Adapters")]
struct AdapterFlags {
    /// What it is, where its tensors do not show it: faceid-plusv2 has those of faceid-plus
    #[arg(long, value_name = "NAME")]
    adapter_variant: Option<AdapterVariant>,
    /// How its layers are numbered: published (1, 3, 5, …), or dense (0, 1, 2, …) in the same order
    #[arg(long, value_name = "NAME", value_parser = numbering)]
    adapter_numbering: Option<Numbering>,
    /// config.json of the UNet, if that has not the blocks of Stable Diffusion 1.x, 2.x or XL; for LoRAs too
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    unet_config: Option<PathBuf>,
    /// Write what is there of an adapter, or a model, that is not whole, and say what is missing
    #[arg(long)]
    allow_missing: bool,
    /// Leave out tensors that are none of an adapter's
    #[arg(long)]
    drop_unknown: bool,
    /// Put this LoRA file into a FaceID adapter that does not hold its own
    #[arg(long, value_name = "FILE", conflicts_with = "lora_output")]
    lora: Option<PathBuf>,
    /// Write the LoRA of a FaceID adapter into this file instead of the adapter
    #[arg(long, value_name = "FILE")]
    lora_output: Option<PathBuf>,
    /// Names in that file: kohya, which every tool reads, or diffusers
    #[arg(long, value_name = "NAMES", default_value = "kohya", requires = "lora_output", hide_possible_values = true)]
    lora_names: Names,
}

impl AdapterFlags {
    fn given(&self) -> Option<&'static str> {
        let flags = [
            (self.adapter_variant.is_some(), "--adapter-variant"),
            (self.adapter_numbering.is_some(), "--adapter-numbering"),
            (self.drop_unknown, "--drop-unknown"),
            (self.lora.is_some(), "--lora"),
            (self.lora_output.is_some(), "--lora-output"),
        ];
        flags.into_iter().find_map(|(is_given, flag)| is_given.then_some(flag))
    }
}

/// A layout of files.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Layout {
    Published,
    Diffusers,
    Trainer,
    Processors,
    Folder,
    SingleFile,
    Kohya,
}

/// What is converted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Input {
    Adapter,
    Lora,
    /// A model, a part of one, or other tensors.
    Model,
}

/// Names of a LoRA file.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Names {
    Kohya,
    Diffusers,
}

/// What floating-point numbers are written as.
#[derive(Clone, Copy, Debug)]
struct Precision(Dtype);

impl ValueEnum for Precision {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self(Dtype::F32), Self(Dtype::F16), Self(Dtype::BF16)]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self.0 {
            Dtype::F16 => PossibleValue::new("f16").alias("fp16"),
            Dtype::BF16 => PossibleValue::new("bf16"),
            _ => PossibleValue::new("f32").alias("fp32"),
        })
    }
}

impl ConvertArgs {
    fn dtype(&self) -> Option<Dtype> {
        self.dtype.map(|Precision(dtype)| dtype)
    }

    /// What was named to be written.
    ///
    /// # Errors
    /// [`UsageError`] if nothing was.
    fn named_output(&self) -> Result<&Path, UsageError> {
        let missing = || UsageError("no output: name the file or folder to write after the input".to_owned());
        self.output.as_deref().ok_or_else(missing)
    }

    /// Flags that a LoRA has no use for, which it shares with others.
    fn lora_given(&self) -> Option<&'static str> {
        let is_renamed = self.to.is_some();
        let flags = [
            (self.adapter.allow_missing, "--allow-missing"),
            (self.adapter.unet_config.is_some() && !is_renamed, "--unet-config"),
        ];
        flags.into_iter().find_map(|(is_given, flag)| is_given.then_some(flag))
    }

    /// The file to write.
    ///
    /// # Errors
    /// [`UsageError`] if none was named, or one with the name of a pickle.
    fn output_file(&self, of_trainer: bool) -> Result<PathBuf, UsageError> {
        let path = match (&self.output, of_trainer) {
            (None, true) if Path::new(TRAINED).exists() => {
                return Err(UsageError(format!("{TRAINED} is there already: name the file to write after the input")));
            }
            (None, true) => Path::new(TRAINED),
            _ => self.named_output()?,
        };
        writable(path)?;
        Ok(path.to_owned())
    }
}

/// Refuses the endings of pickles, which are not written.
fn writable(path: &Path) -> Result<(), UsageError> {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    match ["bin", "pt", "pth", "ckpt"].contains(&ending.to_ascii_lowercase().as_str()) {
        true => Err(UsageError(format!(
            "{} would be a pickle, and safetensors is what is written: let its name end in .safetensors",
            path.display()
        ))),
        false => Ok(()),
    }
}

pub(crate) fn run(mut args: ConvertArgs) -> Result<()> {
    interrupt::leave_at_once()?;
    args.input = names::found(&args.input)?;
    let args = &args;
    let input = Input::of(&args.input)?;
    let (foreign, what) = match input {
        Input::Adapter => (args.model.given(), "an adapter"),
        Input::Lora => (args.model.given().or(args.adapter.given()).or(args.lora_given()), "a LoRA"),
        Input::Model if args.adapter.unet_config.is_some() => (Some("--unet-config"), "no adapter"),
        Input::Model if args.input.is_dir() => (args.adapter.given().or(args.model.given()), "a folder of models"),
        Input::Model => (args.adapter.given(), "no adapter"),
    };
    let refuse = |problem: String| Err(UsageError(format!("{} is {what}: {problem}", args.input.display())).into());
    if let Some(flag) = foreign {
        return refuse(format!("leave out `{flag}`"));
    }
    match (input, args.to) {
        (Input::Adapter, None) => adapter::run(args, AdapterDialect::Published),
        (Input::Adapter, Some(to)) => match to.dialect() {
            Some(dialect) => adapter::run(args, dialect),
            None => refuse("`--to` takes published, diffusers, trainer or processors".to_owned()),
        },
        (Input::Lora, Some(to)) if to.lora().is_some() => model::run_lora(args, to.lora().unwrap_or_default()),
        (Input::Lora, None) => model::run(args, Some(ModelForm::SingleFile)),
        (Input::Lora, Some(_)) => refuse("`--to` takes kohya or diffusers".to_owned()),
        (Input::Model, None) => model::run(args, None),
        (Input::Model, Some(to)) => match to.form() {
            Some(form) => model::run(args, Some(form)),
            None => refuse("`--to` takes folder or single-file".to_owned()),
        },
    }
}

impl Input {
    /// Tells by its tensors what a file or folder is.
    ///
    /// # Errors
    /// [`FormatError`] if it cannot be read.
    fn of(path: &Path) -> Result<Self, FormatError> {
        if path.is_dir() {
            let is_model = ModelFolder::open(path).is_ok() || path.join("config.json").is_file();
            return Ok(if is_model { Self::Model } else { Self::Adapter });
        }
        let tensors = Weights::open(path)?.tensors();
        Ok(match () {
            () if is_adapter(&tensors) => Self::Adapter,
            () if resembles_lora(&tensors) => Self::Lora,
            () => Self::Model,
        })
    }
}
