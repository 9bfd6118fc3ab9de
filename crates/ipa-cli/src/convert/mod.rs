//! `ipa convert`

mod adapter;
mod told;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum, ValueHint};
use ipa_formats::{AdapterDialect, AdapterVariant, Dtype, Numbering};

use crate::args::numbering;
use crate::failure::UsageError;

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
    /// Adapter, checkpoint or output folder of a trainer, LoRA, weights file (safetensors, .ckpt, .bin, an index of
    /// parts), single-file model or model folder
    #[arg(value_name = "IN", value_hint = ValueHint::AnyPath)]
    input: PathBuf,
    /// File or folder to write; of what a trainer left it may be left out: trained_ip_adapter.safetensors
    #[arg(value_name = "OUT", value_hint = ValueHint::AnyPath)]
    output: Option<PathBuf>,
    /// Layout to write. Adapters: published, diffusers, trainer or processors
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
    adapter: AdapterFlags,
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
    /// config.json of its UNet, if that has not the blocks of Stable Diffusion 1.x, 2.x or XL
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    unet_config: Option<PathBuf>,
    /// Write what is there of an adapter that is not whole, and say what is missing
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

/// A layout of files.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Layout {
    Published,
    Diffusers,
    Trainer,
    Processors,
}

impl Layout {
    fn dialect(self) -> AdapterDialect {
        match self {
            Self::Published => AdapterDialect::Published,
            Self::Diffusers => AdapterDialect::Diffusers,
            Self::Trainer => AdapterDialect::Trainer,
            Self::Processors => AdapterDialect::Processors,
        }
    }
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

    /// The file to write.
    ///
    /// # Errors
    /// [`UsageError`] if none was named, or one with the name of a pickle.
    fn output_file(&self, of_trainer: bool) -> Result<PathBuf, UsageError> {
        let path = match (&self.output, of_trainer) {
            (Some(path), _) => path.clone(),
            (None, true) => PathBuf::from(TRAINED),
            (None, false) => return Err(UsageError("no output: name the file to write after the input".to_owned())),
        };
        writable(&path)?;
        Ok(path)
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

pub(crate) fn run(args: &ConvertArgs) -> Result<()> {
    adapter::run(args)
}
