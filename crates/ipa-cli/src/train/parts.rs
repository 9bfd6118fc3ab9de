//! What a run is made of, opened.

use std::path::{Path, PathBuf};

use anyhow::Result;
use ipa_core::device::{device_name, kind_name};
use ipa_core::tch::{Device, Kind};
use ipa_sample::AdapterSource;
use ipa_train::{Dataset, FrozenModels, TrainConfig, TrainError, scoring_clip};

use super::RunArgs;
use crate::failure::UsageError;
use crate::{names, output};

/// Everything that training needs.
pub(crate) struct Parts {
    pub(crate) models: FrozenModels,
    pub(crate) dataset: Dataset,
    pub(crate) config: TrainConfig,
    pub(crate) init: Option<AdapterSource>,
    pub(crate) folder: PathBuf,
}

impl Parts {
    /// The settings are changed by `change` before they are used. Settings and folders first, so that what is wrong with them is told before anything is loaded.
    ///
    /// # Errors
    /// If a setting, a path, the data or a model is at fault.
    pub(crate) fn open(
        args: &RunArgs,
        check_folder: impl FnOnce(&Path) -> Result<(), TrainError>,
        change: impl Fn(TrainConfig) -> TrainConfig,
    ) -> Result<Self> {
        let named = args.config(512)?;
        let (folder, data) = paths(&named)?;
        let mut args = args.clone();
        args.take_parts(&named);
        args.model.find()?;
        let options = args.device.options()?;
        output::check_folder(&folder)?;
        check_folder(&folder)?;
        let dataset = Dataset::open(&data)?;
        let init = args.init_adapter(&named)?;
        let source = args.model.source()?;
        let models = FrozenModels::load_files(&source.files, args.model.image_encoder.as_deref(), options)?;
        let config = change(resolved(args.config(models.native_side())?, options));
        let draws = config.validation.held_out > 0.0 && config.validation.num_references > 0;
        let scorer =
            draws.then(|| scoring_clip(&source.files, config.model.clip.as_deref(), options)).transpose()?.flatten();
        let models = models.with_scorer(scorer);
        Ok(Self { models, dataset, config, init, folder })
    }
}

/// Output folder and data, from flags or the file with settings.
fn paths(config: &TrainConfig) -> Result<(PathBuf, PathBuf), UsageError> {
    let named = |path: &Option<PathBuf>, what: &str| {
        path.clone().ok_or_else(|| UsageError(format!("the file with settings names no {what}")))
    };
    Ok((
        named(&config.output.folder, "`folder` in [output]: name it with `--output`")?,
        named(&config.data.path, "`path` in [data]: name it with `--data`")?,
    ))
}

/// With paths that mean the same from every folder, and the device and kind that were taken.
fn resolved(mut config: TrainConfig, (device, kind): (Device, Kind)) -> TrainConfig {
    let whole = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let paths = [
        &mut config.model.image_encoder,
        &mut config.model.init_adapter,
        &mut config.model.clip,
        &mut config.data.path,
        &mut config.data.cache_folder,
    ];
    for path in paths.into_iter().flatten().filter(|path| !names::is_name(path)) {
        *path = whole(path);
    }
    if let Some(name) = config.model.base.as_mut().filter(|name| !names::is_name(Path::new(name))) {
        *name = whole(Path::new(name)).to_string_lossy().into_owned();
    }
    config.output.folder = None; // another run goes elsewhere
    config.model.device = Some(device_name(device));
    config.model.dtype = Some(kind_name(kind).to_owned());
    config
}
