//! `--like`: a picture drawn again from what it says of itself.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use ipa_sample::{FileRecord, Record, read_record};

use crate::args::{AdapterArgs, DeviceArgs, ModelArgs};
use crate::model::POCKET;

/// A picture and what drew it.
#[derive(Debug)]
pub(super) struct Like {
    pub(super) picture: PathBuf,
    pub(super) record: Record,
}

impl Like {
    /// Reads what the picture that was named says of itself, if one was.
    ///
    /// # Errors
    /// [`ipa_sample::RecordError`].
    pub(super) fn read(picture: Option<&Path>) -> Result<Option<Self>> {
        let read = |picture: &Path| Ok(Self { picture: picture.to_owned(), record: read_record(picture)? });
        picture.map(read).transpose()
    }

    /// Arguments that were left out are taken from the record.
    pub(super) fn complete(&self, model: &mut ModelArgs, adapter: &mut AdapterArgs, device: &mut DeviceArgs) {
        let record = &self.record;
        let is_pocket = |file: &FileRecord| file.file == Path::new(POCKET);
        if let Some(recorded) = &record.model {
            model.model.get_or_insert_with(|| recorded.file.file.to_string_lossy().into_owned());
            model.vae = model.vae.take().or(recorded.vae.as_ref().map(|vae| vae.file.clone()));
            model.tokenizer = model.tokenizer.take().or(recorded.tokenizer.as_ref().map(|folder| folder.file.clone()));
            model.ema |= recorded.ema;
            let prediction = recorded.prediction_type.map(|prediction| prediction.name().to_owned());
            model.prediction_type = model.prediction_type.take().or(prediction);
        }
        let recorded = record.adapter.as_ref().filter(|recorded| !is_pocket(&recorded.file));
        if let (None, Some(recorded)) = (&adapter.adapter, recorded) {
            adapter.adapter = Some(recorded.file.file.clone());
            adapter.lora = adapter.lora.take().or(recorded.lora.as_ref().map(|lora| lora.file.clone()));
            adapter.adapter_variant = adapter.adapter_variant.or(recorded.variant);
            adapter.adapter_numbering = adapter.adapter_numbering.or(recorded.numbering);
        }
        // An encoder inside the model's folder is recorded by that folder's name.
        let own = |file: &FileRecord| record.model.as_ref().is_some_and(|model| model.file.file == file.file);
        if let (None, Some(encoder)) = (&model.image_encoder, record.image_encoder.as_ref().filter(|file| !own(file))) {
            model.image_encoder = Some(encoder.file.clone());
        }
        device.take(&record.device, &record.dtype);
    }

    /// Of several pictures drawn together, the one that this is.
    ///
    /// # Errors
    /// If it cannot be.
    pub(super) fn index(&self) -> Result<usize> {
        let (index, num) = (self.record.index, self.record.request.num_images as usize);
        match index < num {
            true => Ok(index),
            false => bail!(
                "{} says that it is picture {index} of {num}, which cannot be: say with `--num-images` how many to draw",
                self.picture.display()
            ),
        }
    }

    /// Refuses files that go by the names in the record but are not those that drew the picture.
    ///
    /// # Errors
    /// One sentence with both digests and the flag that names another file.
    pub(super) fn check_same(&self, found: &Record) -> Result<()> {
        for (flag, recorded) in files(&self.record) {
            let same_name =
                |(other_flag, other): &(&str, &FileRecord)| *other_flag == flag && other.file == recorded.file;
            if let Some((_, other)) = files(found).into_iter().find(same_name)
                && other.sha256 != recorded.sha256
            {
                bail!(
                    "{} is not the file that drew {}: its SHA-256 is {}, there it was {}; name the right one with `{flag}`",
                    other.file.display(),
                    self.picture.display(),
                    other.sha256,
                    recorded.sha256
                );
            }
        }
        Ok(())
    }
}

/// The files of a record with the flags that name them.
fn files(record: &Record) -> Vec<(&'static str, &FileRecord)> {
    let model = record.model.iter().map(|model| ("--model", &model.file));
    let vae = record.model.iter().filter_map(|model| Some(("--vae", model.vae.as_ref()?)));
    let tokenizer = record.model.iter().filter_map(|model| Some(("--tokenizer", model.tokenizer.as_ref()?)));
    let adapter = record.adapter.iter().map(|adapter| ("--adapter", &adapter.file));
    let lora = record.adapter.iter().filter_map(|adapter| Some(("--lora", adapter.lora.as_ref()?)));
    let encoder = record.image_encoder.iter().map(|file| ("--image-encoder", file));
    let request = &record.request;
    let flag = |file: &FileRecord| match () {
        () if request.images.contains(&file.file) => "--image",
        () if request.mask.as_ref() == Some(&file.file) => "--mask",
        () if request.init_image.as_ref() == Some(&file.file) => "--init-image",
        () if request.faces.contains(&file.file) => "--face",
        () => "--image-prompt",
    };
    let named = record.pictures.iter().chain(&record.files).map(|file| (flag(file), file));
    model.chain(vae).chain(tokenizer).chain(adapter).chain(lora).chain(encoder).chain(named).collect()
}
