//! Arguments that several commands share.

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::builder::{NonEmptyStringValueParser, PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, Args, Command, ValueHint};
use ipa_core::device::{DeviceError, is_emulated, kind_name, parse_device, parse_kind};
use ipa_core::tch::{Device, Kind};
use ipa_formats::{AdapterVariant, ModelOptions, Numbering, PredictionType};
use ipa_sample::{AdapterSource, Fast};

use crate::failure::UsageError;
use crate::model::{self, ModelSource};
use crate::output;

/// The value of `--fast`.
pub(crate) fn fast(name: &str) -> Result<Fast, &'static str> {
    name.parse().map_err(|_| "choose mild, default or most, or leave it out for default")
}

/// Where and in which precision to compute.
#[derive(Debug, Clone, Args)]
pub(crate) struct DeviceArgs {
    /// Where to compute: auto, cpu, cuda, cuda:N or mps
    #[arg(long, value_name = "DEVICE", default_value = "auto", hide_possible_values = true)]
    #[arg(value_parser = Suggested(&["auto", "cpu", "cuda", "mps"]))]
    device: String,
    /// Precision: auto, f32, f16 or bf16; auto is bf16 or f16 on a graphics card and f32 on the CPU, where few compute
    /// faster in less
    #[arg(long, value_name = "KIND", default_value = "auto", hide_possible_values = true)]
    #[arg(value_parser = Suggested(&["auto", "f32", "f16", "bf16"]))]
    dtype: String,
}

impl DeviceArgs {
    /// The device and kind that the names stand for on this machine.
    ///
    /// # Errors
    /// [`DeviceError`] if a name is unknown or the device is not there.
    pub(crate) fn options(&self) -> Result<(Device, Kind), DeviceError> {
        let device = parse_device(&self.device)?;
        let kind = parse_kind(&self.dtype, device)?;
        if is_emulated(device, kind) {
            let name = kind_name(kind);
            output::warn(format_args!(
                "this CPU has no arithmetic in {name}: it takes longer than f32, in half the memory"
            ));
        }
        Ok((device, kind))
    }

    /// Computes where and in what a file says, unless something else was asked for.
    pub(crate) fn or(&mut self, device: Option<&str>, dtype: Option<&str>) {
        for (own, named) in [(&mut self.device, device), (&mut self.dtype, dtype)] {
            if let Some(named) = named.filter(|_| own == "auto") {
                *own = named.to_owned();
            }
        }
    }

    /// Computes where and in what another run did, unless something else was asked for.
    pub(crate) fn take(&mut self, device: &str, dtype: &str) {
        if self.device == "auto" {
            match parse_device(device) {
                Ok(_) => self.device = device.to_owned(),
                Err(_) => {
                    output::warn(format_args!("there is no device {device} here: another may give other last bits"))
                }
            }
        }
        if self.dtype == "auto" {
            self.dtype = dtype.to_owned();
        }
    }
}

/// Takes any text, as of `cuda:N` there is no end, but shells complete these.
#[derive(Debug, Clone, Copy)]
struct Suggested(&'static [&'static str]);

impl TypedValueParser for Suggested {
    type Value = String;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.0.iter().map(|name| PossibleValue::new(*name))))
    }
}

/// The base model and its image encoder.
#[derive(Debug, Clone, Args)]
pub(crate) struct ModelArgs {
    /// Base model: a diffusers-style folder, a single-file checkpoint (.safetensors, .ckpt), the name of one that
    /// `ipa fetch` got, such as sd15, or `pocket` for the small one inside this program
    #[arg(long, value_name = "FOLDER|FILE|NAME|pocket", value_hint = ValueHint::AnyPath, required = true)]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) model: Option<String>,
    /// An autoencoder in place of the model's own: its folder, or a single file that holds one
    #[arg(long, value_name = "FILE|DIR")]
    pub(crate) vae: Option<PathBuf>,
    /// A tokenizer's folder in place of the model's own; single files have none and take it from `tokenizer` beside them
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) tokenizer: Option<PathBuf>,
    /// Take the averaged weights (EMA) of a single file's UNet
    #[arg(long)]
    pub(crate) ema: bool,
    /// What the UNet predicts, whatever the model's files say or leave open: epsilon, v_prediction or sample
    #[arg(long, value_name = "NAME", hide_possible_values = true)]
    #[arg(value_parser = ["epsilon", "v_prediction", "sample"].map(PossibleValue::new))]
    pub(crate) prediction_type: Option<String>,
    /// The adapter's image encoder: a transformers-style CLIP folder, or a name such as clip-h; without it, the model's
    /// own `image_encoder`
    #[arg(long, value_name = "DIR|NAME", value_hint = ValueHint::DirPath)]
    pub(crate) image_encoder: Option<PathBuf>,
}

impl ModelArgs {
    /// The model that was named, with the parts named beside it.
    ///
    /// # Errors
    /// If there is no such model, or its files cannot be read.
    pub(crate) fn source(&self) -> anyhow::Result<ModelSource> {
        let options = ModelOptions {
            vae: self.vae.clone(),
            tokenizer: self.tokenizer.clone(),
            ema: self.ema,
            prediction_type: self.known_prediction(),
        };
        model::resolve(self.name()?, options)
    }

    /// What `--model` says.
    ///
    /// # Errors
    /// [`UsageError`] if nothing does.
    pub(crate) fn name(&self) -> Result<&str, UsageError> {
        let name = self.model.as_deref();
        name.ok_or_else(|| UsageError("no model: name a folder, a single file or `pocket` with `--model`".to_owned()))
    }

    /// What `--prediction-type` says.
    pub(crate) fn known_prediction(&self) -> Option<PredictionType> {
        PredictionType::named(self.prediction_type.as_deref()?)
    }
}

/// An adapter beside a model that may bring one.
#[derive(Debug, Clone, Args)]
pub(crate) struct AdapterArgs {
    /// Adapter file (safetensors or .bin), or the name of one that `ipa fetch` got, such as ip-adapter-plus, which
    /// brings its image encoder; `pocket` brings its own
    #[arg(long, value_name = "FILE|NAME")]
    pub(crate) adapter: Option<PathBuf>,
    /// LoRA file of a FaceID adapter that does not hold its own
    #[arg(long, value_name = "FILE", requires = "adapter")]
    pub(crate) lora: Option<PathBuf>,
    /// What the adapter is, where its tensors do not show it: faceid-plusv2 has those of faceid-plus
    #[arg(long, value_name = "NAME", requires = "adapter")]
    pub(crate) adapter_variant: Option<AdapterVariant>,
    /// How the adapter's layers are numbered: published (1, 3, 5, …), or dense (0, 1, 2, …) in the same order
    #[arg(long, value_name = "NAME", requires = "adapter", value_parser = numbering)]
    pub(crate) adapter_numbering: Option<Numbering>,
}

/// The numbering that a name stands for.
pub(crate) fn numbering(name: &str) -> Result<Numbering, &'static str> {
    match name {
        "published" => Ok(Numbering::Published),
        "dense" => Ok(Numbering::Dense),
        _ => Err("choose published or dense"),
    }
}

impl AdapterArgs {
    /// The adapter that was named, else the one that comes with the model.
    ///
    /// # Errors
    /// [`UsageError`] if there is neither.
    pub(crate) fn source(&self, args: &ModelArgs, model: &ModelSource) -> Result<AdapterSource, UsageError> {
        let file = self.adapter.as_ref().or(model.adapter.as_ref());
        let missing = || UsageError("no adapter: name its file with `--adapter`".to_owned());
        Ok(AdapterSource {
            file: file.ok_or_else(missing)?.clone(),
            image_encoder: args.image_encoder.clone(),
            lora: self.lora.clone(),
            variant: self.adapter_variant,
            numbering: self.adapter_numbering.unwrap_or_default(),
        })
    }
}
