//! Adapters, and what trainers leave.

use std::path::Path;

use anyhow::{Context, Result};
use ipa_formats::{
    AdapterConversion, AdapterDialect, AdapterLora, AdapterOptions, LoraDialect, UnetLayers, adapter_file,
    convert_adapter, read_json,
};
use serde_json::Value;

use super::told::{Told, Written};
use super::{AdapterFlags, ConvertArgs, Layout, Names, writable};
use crate::failure::UsageError;
use crate::output;

/// Converts the adapter in a file, or in the folder of a trainer.
pub(super) fn run(args: &ConvertArgs, to: AdapterDialect) -> Result<()> {
    let input = adapter_file(&args.input)?;
    let output = args.output_file(args.input.is_dir())?;
    let lora_output = args.adapter.lora_output.as_deref();
    lora_output.map(writable).transpose()?;
    [Some(&*output), lora_output].into_iter().flatten().try_for_each(output::check_file)?;
    if lora_output.is_some_and(|lora| same_place(lora, &output)) {
        return Err(UsageError("`--lora-output` and the output are the same file: name two".to_owned()).into());
    }
    let converted = convert_adapter(&input, &options(args, to)?)?;
    if converted.lora.is_some() {
        converted.adapter.check(args.dtype())?; // both files or neither
    }
    let mut written = Vec::new();
    let lora = converted.lora.as_ref().zip(lora_output).map(|(lora, path)| (lora, path, None));
    for (conversion, path, metadata) in
        lora.into_iter().chain([(&converted.adapter, &*output, Some(&converted.metadata))])
    {
        if !args.dry_run {
            output::create_folder_of(path)?;
            conversion.write(path, args.dtype(), metadata)?;
        }
        written.push(Written { file: path.to_owned(), report: conversion.report(args.dtype()) });
    }
    Told { adapter: converted.info, dialect: Some(converted.dialect), written, ..Told::of(&input) }.tell(args)
}

fn options(args: &ConvertArgs, to: AdapterDialect) -> Result<AdapterConversion> {
    let AdapterFlags { allow_missing, drop_unknown, .. } = args.adapter;
    Ok(AdapterConversion {
        read: AdapterOptions {
            variant: args.adapter.adapter_variant,
            numbering: args.adapter.adapter_numbering.unwrap_or_default(),
        },
        to,
        layers: args.adapter.unet_config.as_deref().map(layers).transpose()?,
        allow_missing,
        drop_unknown,
        lora: lora(&args.adapter),
    })
}

/// Whether two paths, of which neither need be there, are one.
fn same_place(a: &Path, b: &Path) -> bool {
    let whole = |path: &Path| {
        let path = std::path::absolute(path).ok()?;
        let folder = path.parent()?.canonicalize().unwrap_or(path.parent()?.to_owned());
        Some(path.canonicalize().unwrap_or(folder.join(path.file_name()?)))
    };
    whole(a) == whole(b)
}

/// The attention layers that a UNet's `config.json` tells.
fn layers(path: &Path) -> Result<UnetLayers> {
    let config: Value = read_json(path)?;
    UnetLayers::from_config(&config).with_context(|| format!("cannot use {}", path.display()))
}

fn lora(flags: &AdapterFlags) -> AdapterLora {
    match (&flags.lora, &flags.lora_output, flags.lora_names) {
        (Some(file), _, _) => AdapterLora::Join(file.clone()),
        (None, Some(_), Names::Kohya) => AdapterLora::Split(LoraDialect::Kohya),
        (None, Some(_), Names::Diffusers) => AdapterLora::Split(LoraDialect::Diffusers),
        (None, None, _) => AdapterLora::Keep,
    }
}

impl Layout {
    /// The names of an adapter, if it is such.
    pub(super) fn dialect(self) -> Option<AdapterDialect> {
        match self {
            Self::Published => Some(AdapterDialect::Published),
            Self::Diffusers => Some(AdapterDialect::Diffusers),
            Self::Trainer => Some(AdapterDialect::Trainer),
            Self::Processors => Some(AdapterDialect::Processors),
            Self::Folder | Self::SingleFile | Self::Kohya => None,
        }
    }
}
