//! `--like`: a picture drawn again from what it says of itself.

use std::path::Path;

use anyhow::{Result, bail};
use ipa_sample::{FileRecord, Record};

use super::GenerateArgs;
use crate::model::POCKET;

/// Arguments that were left out, taken from a record.
pub(super) fn complete(args: &mut GenerateArgs, record: &Record) {
    let is_pocket = |file: &FileRecord| file.file == Path::new(POCKET);
    if let (None, Some(model)) = (&args.model.model, &record.model) {
        args.model.model = Some(model.file.file.to_string_lossy().into_owned());
        args.model.vae = args.model.vae.take().or(model.vae.as_ref().map(|vae| vae.file.clone()));
        args.model.tokenizer = args.model.tokenizer.take().or(model.tokenizer.clone());
        args.model.ema |= model.ema;
        let prediction = model.prediction_type.map(|prediction| prediction.name().to_owned());
        args.model.prediction_type = args.model.prediction_type.take().or(prediction);
    }
    if let (None, Some(adapter)) = (&args.adapter.adapter, record.adapter.as_ref().filter(|file| !is_pocket(file))) {
        args.adapter.adapter = Some(adapter.file.clone());
    }
    if let (None, Some(encoder)) = (&args.model.image_encoder, &record.image_encoder) {
        args.model.image_encoder = Some(encoder.file.clone());
    }
    args.device.take_dtype(&record.dtype);
}

/// Refuses files that go by the names in the record but are not those that drew the picture.
pub(super) fn check_same(picture: &Path, recorded: &Record, found: &Record) -> Result<()> {
    for (flag, recorded) in files(recorded) {
        let same_name = |(other_flag, other): &(&str, &FileRecord)| *other_flag == flag && other.file == recorded.file;
        if let Some((_, other)) = files(found).into_iter().find(same_name)
            && other.sha256 != recorded.sha256
        {
            bail!(
                "{} is not the file that drew {}: its SHA-256 is {}, there it was {}; name the right one with `{flag}`",
                other.file.display(),
                picture.display(),
                other.sha256,
                recorded.sha256
            );
        }
    }
    Ok(())
}

/// The files of a record with the flags that name them.
fn files(record: &Record) -> Vec<(&'static str, &FileRecord)> {
    let model = record.model.iter().map(|model| ("--model", &model.file));
    let vae = record.model.iter().filter_map(|model| Some(("--vae", model.vae.as_ref()?)));
    let adapter = record.adapter.iter().map(|file| ("--adapter", file));
    let encoder = record.image_encoder.iter().map(|file| ("--image-encoder", file));
    let request = &record.request;
    let flag = |file: &FileRecord| match () {
        () if request.images.contains(&file.file) => "--image",
        () if request.mask.as_ref() == Some(&file.file) => "--mask",
        () => "--init-image",
    };
    let pictures = record.pictures.iter().map(|file| (flag(file), file));
    model.chain(vae).chain(adapter).chain(encoder).chain(pictures).collect()
}
