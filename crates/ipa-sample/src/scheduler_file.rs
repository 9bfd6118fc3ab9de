//! `scheduler_config.json`, and what diffusers makes of it for each of its schedulers.

use std::path::{Path, PathBuf};

use ipa_core::{Config, WeightsError};
use ipa_formats::{FormatError, ModelFiles, SchedulerFields};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{PipelineError, PredictionType, SamplerKind, SchedulerConfig};

/// A model's `scheduler_config.json` as it stands, for whichever sampler wants to read it.
#[derive(Debug, Clone)]
pub struct SchedulerFile {
    path: PathBuf,
    fields: Map<String, Value>,
}

impl SchedulerFile {
    /// Reads `scheduler_config.json` of a model's `scheduler` folder.
    ///
    /// # Errors
    /// [`WeightsError`] if it cannot be read or is no JSON object.
    pub fn open(folder: &Path) -> Result<Self, WeightsError> {
        let path = folder.join("scheduler_config.json");
        Self::read(path.clone(), &ipa_formats::read_text(&path)?)
    }

    /// The scheduler of a model, in whichever files that comes.
    ///
    /// # Errors
    /// As [`SchedulerFile::open`], and if there is none.
    pub fn of_model(model: &ModelFiles) -> Result<Self, WeightsError> {
        let mut file = match model.scheduler()? {
            (path, SchedulerFields::Text(text)) => Self::read(path, &text)?,
            (path, SchedulerFields::Parsed(fields)) => Self::new(path, fields),
        };
        if let Some(known) = model.prediction_type() {
            file.fields.insert("prediction_type".to_owned(), known.name().into());
        }
        Ok(file)
    }

    fn read(path: PathBuf, text: &str) -> Result<Self, WeightsError> {
        match serde_json::from_str(&with_numbers_for_infinities(text)) {
            Ok(fields) => Ok(Self::new(path, fields)),
            Err(source) => Err(FormatError::Json { path, field: ".".to_owned(), source }.into()),
        }
    }

    /// Of fields that were read elsewhere; `path` is what errors name.
    pub fn new(path: PathBuf, mut fields: Map<String, Value>) -> Self {
        fields.retain(|_, value| !value.is_null());
        Self { path, fields }
    }

    /// As diffusers' inpainting pipeline takes it: without the Runge-Kutta steps of [`SamplerKind::Pndm`].
    pub(crate) fn for_inpainting(mut self) -> Self {
        self.fields.insert("skip_prk_steps".to_owned(), true.into());
        self
    }

    /// The sampler that the model names for itself.
    ///
    /// # Errors
    /// [`PipelineError::Sampler`] if it is not one of [`SamplerKind`], [`WeightsError`] if a field is not computed.
    pub fn kind(&self) -> Result<SamplerKind, PipelineError> {
        let own = SamplerKind::ALL.into_iter().find(|kind| kind.class_name() == self.class_name());
        let own = own.ok_or_else(|| PipelineError::Sampler { name: self.class_name().to_owned() })?;
        if own != SamplerKind::Dpmpp2m {
            return Ok(own);
        }
        let sde = match self.fields.get("algorithm_type").map(|value| value.as_str().unwrap_or_default()) {
            None | Some("dpmsolver++" | "deis") => false,
            Some("sde-dpmsolver++") => true,
            Some(other) => {
                let expected = "expected `dpmsolver++` or `sde-dpmsolver++`: name a sampler with `--scheduler`";
                return Err(self.refusal(format!("`algorithm_type` is `{other}`; {expected}")).into());
            }
        };
        Ok(SamplerKind::dpm_solver(sde, self.is_set("use_karras_sigmas")))
    }

    /// What `kind` reads here, by the rules of diffusers' `from_config` and of its Stable Diffusion pipelines.
    ///
    /// Fields that the file leaves out, or that `kind` does not know, have `kind`'s own defaults. The pipelines make
    /// `steps_offset` 1, given or not, before another scheduler is made of the model's own; that one is given only the
    /// fields of the file, so that a missing offset is 0 again.
    ///
    /// # Errors
    /// [`WeightsError`] naming the file and the field at fault.
    pub fn config(&self, kind: SamplerKind) -> Result<SchedulerConfig, WeightsError> {
        let default = serde_json::to_value(SchedulerConfig::of_kind(kind)).unwrap_or_default();
        let mut fields = default.as_object().cloned().unwrap_or_default();
        fields.extend(self.fields.clone());
        for name in unknown_fields(kind) {
            fields.remove(*name);
        }
        let config: SchedulerConfig = self.typed(fields)?;
        config.check().map_err(|reason| self.refusal(reason))?;
        let offset = i64::from(self.is_own(kind) || self.fields.contains_key("steps_offset"));
        Ok(SchedulerConfig { steps_offset: offset, ..config })
    }

    /// What the model's own sampler reads, or DDIM where that is none of [`SamplerKind`].
    ///
    /// # Errors
    /// As [`SchedulerFile::config`].
    pub fn own_config(&self) -> Result<SchedulerConfig, WeightsError> {
        self.config(self.kind().unwrap_or(SamplerKind::Ddim))
    }

    /// The range that `kind` clips its estimates of x₀ to, if it does.
    ///
    /// As [`SchedulerFile::config`]: the pipelines clear `clip_sample`, given or not, and another scheduler does not
    /// hear of it unless it was given.
    pub(crate) fn clip_range(&self, kind: SamplerKind) -> Result<Option<f64>, WeightsError> {
        #[derive(Deserialize)]
        #[serde(default)]
        struct Clip {
            clip_sample_range: f64,
        }
        impl Default for Clip {
            fn default() -> Self {
                Self { clip_sample_range: 1.0 }
            }
        }
        let by_default = matches!(kind, SamplerKind::Ddim | SamplerKind::Ddpm);
        let clips = by_default && !self.is_own(kind) && !self.fields.contains_key("clip_sample");
        let Clip { clip_sample_range } = self.settings()?;
        if clip_sample_range.is_nan() || clip_sample_range < 0.0 {
            return Err(self.refusal(format!("`clip_sample_range` is {clip_sample_range}; expected 0 or more")));
        }
        Ok(clips.then_some(clip_sample_range))
    }

    /// The fields that one sampler alone reads.
    pub(crate) fn settings<T: DeserializeOwned>(&self) -> Result<T, WeightsError> {
        self.typed(self.fields.clone())
    }

    /// Refuses fields that are not computed, where they are there and not false.
    pub(crate) fn refuse_set(&self, names: &[&str]) -> Result<(), WeightsError> {
        match names.iter().find(|name| self.is_set(name)) {
            Some(name) => {
                let advice = "which is not built: choose another sampler with `--scheduler`, or a model without it";
                Err(self.refusal(format!("`{name}` is set, {advice}")))
            }
            None => Ok(()),
        }
    }

    /// Refuses all values but one.
    pub(crate) fn refuse_other(&self, name: &str, built: &str) -> Result<(), WeightsError> {
        match self.fields.get(name).filter(|value| value.as_str() != Some(built)) {
            Some(value) => Err(self.refusal(format!("`{name}` is {value}; only \"{built}\" is built"))),
            None => Ok(()),
        }
    }

    /// Refuses one kind of model.
    pub(crate) fn refuse_prediction(
        &self,
        config: &SchedulerConfig,
        refused: PredictionType,
    ) -> Result<(), WeightsError> {
        match config.prediction_type == refused {
            true => {
                let advice = "which this sampler cannot use: choose another with `--scheduler`, such as ddim";
                Err(self.refusal(format!("`prediction_type` is {}, {advice}", Value::from(name_of(refused)))))
            }
            false => Ok(()),
        }
    }

    /// That a field of this file is at fault.
    pub(crate) fn refusal(&self, reason: String) -> WeightsError {
        WeightsError::Config { path: self.path.clone(), reason }
    }

    fn class_name(&self) -> &str {
        self.fields.get("_class_name").map_or(SamplerKind::Ddim.class_name(), |name| name.as_str().unwrap_or_default())
    }

    fn is_own(&self, kind: SamplerKind) -> bool {
        self.kind().is_ok_and(|own| own == kind)
    }

    fn is_set(&self, name: &str) -> bool {
        self.fields.get(name).is_some_and(|value| value.as_bool() != Some(false))
    }

    fn typed<T: DeserializeOwned>(&self, fields: Map<String, Value>) -> Result<T, WeightsError> {
        serde_path_to_error::deserialize(Value::Object(fields)).map_err(|error| {
            let (path, field) = (self.path.clone(), error.path().to_string());
            FormatError::Json { path, field, source: error.into_inner() }.into()
        })
    }
}

fn name_of(prediction_type: PredictionType) -> &'static str {
    match prediction_type {
        PredictionType::Epsilon => "epsilon",
        PredictionType::VPrediction => "v_prediction",
        PredictionType::Sample => "sample",
    }
}

/// What diffusers' scheduler has no such field for.
fn unknown_fields(kind: SamplerKind) -> &'static [&'static str] {
    match kind {
        SamplerKind::Pndm | SamplerKind::Heun => &["rescale_betas_zero_snr", "thresholding"],
        SamplerKind::Euler | SamplerKind::EulerAncestral => &["thresholding"],
        _ => &[],
    }
}

/// Python writes `-Infinity`, which is no JSON, for `lambda_min_clipped`.
fn with_numbers_for_infinities(text: &str) -> String {
    let parts = text.split_inclusive('"').scan((false, false), |(in_string, escaped), part| {
        let was_in_string = *in_string;
        let backslashes = part.trim_end_matches('"').bytes().rev().take_while(|&byte| byte == b'\\').count();
        *escaped = was_in_string && backslashes % 2 == 1;
        *in_string = if part.ends_with('"') && !*escaped { !was_in_string } else { was_in_string };
        Some(if was_in_string { part.to_owned() } else { part.replace("Infinity", "1e308") })
    });
    parts.collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn file(fields: Value) -> SchedulerFile {
        SchedulerFile::new("scheduler_config.json".into(), fields.as_object().unwrap().clone())
    }

    #[test]
    fn what_is_not_computed_is_refused_by_file_and_field() {
        let folder = tempfile::tempdir().unwrap();
        for (field, value) in [
            ("trained_betas", "[0.1]"),
            ("thresholding", "true"),
            ("num_train_timesteps", "0"),
            ("num_train_timesteps", "-1"),
            ("num_train_timesteps", "1000000000000"),
            ("beta_start", "-0.1"),
            ("beta_end", "1"),
            ("prediction_type", "\"flow\""),
            ("beta_schedule", "\"sigmoid\""),
        ] {
            std::fs::write(folder.path().join("scheduler_config.json"), format!("{{\"{field}\": {value}}}")).unwrap();
            let error = SchedulerConfig::from_folder(folder.path()).unwrap_err().to_string();
            assert!(error.contains("scheduler_config.json") && error.contains(field), "{error}");
        }
    }

    #[test]
    fn samplers_refuse_what_they_do_not_compute_and_only_that() {
        for (kind, field, value) in [
            ("euler", "use_beta_sigmas", Value::from(true)),
            ("euler", "interpolation_type", "log_linear".into()),
            ("euler-a", "prediction_type", "sample".into()),
            ("pndm", "prediction_type", "sample".into()),
            ("ddpm", "variance_type", "learned_range".into()),
            ("ddim", "thresholding", true.into()),
            ("dpm++2m", "use_flow_sigmas", true.into()),
            ("dpm++2m", "solver_order", 4.into()),
            ("unipc", "solver_order", 0.into()),
            ("unipc", "solver_type", "bh3".into()),
            ("lcm", "original_inference_steps", 0.into()),
        ] {
            let refused = file(serde_json::json!({ field: value }));
            let error = refused.sampler(kind.parse().unwrap(), 10, 0.0).unwrap_err();
            assert!(error.to_string().contains(field), "{kind}: {error}");
        }
        let others = file(serde_json::json!({ "thresholding": true, "rescale_betas_zero_snr": true }));
        assert!(others.sampler(SamplerKind::Pndm, 10, 0.0).is_ok());
    }

    #[test]
    fn the_models_own_sampler_is_found_by_class_and_flags() {
        let kind = |fields| file(fields).kind().map_err(|error| error.to_string());
        for own in SamplerKind::ALL.into_iter().filter(|kind| !kind.is_karras() && !kind.is_sde()) {
            assert_eq!(kind(serde_json::json!({ "_class_name": own.class_name() })), Ok(own));
        }
        let dpm = |algorithm: &str, karras: bool| {
            let class_name = SamplerKind::Dpmpp2m.class_name();
            let fields = [("algorithm_type", algorithm.into()), ("use_karras_sigmas", karras.into())];
            let class = [("_class_name", Value::from(class_name))];
            kind(fields.into_iter().chain(class).map(|(name, value)| (name.to_owned(), value)).collect())
        };
        assert_eq!(dpm("dpmsolver++", true), Ok(SamplerKind::Dpmpp2mKarras));
        assert_eq!(dpm("sde-dpmsolver++", false), Ok(SamplerKind::Dpmpp2mSde));
        assert_eq!(dpm("sde-dpmsolver++", true), Ok(SamplerKind::Dpmpp2mSdeKarras));
        assert!(dpm("dpmsolver", false).unwrap_err().contains("algorithm_type"));
        let error = kind(serde_json::json!({ "_class_name": "VQDiffusionScheduler" })).unwrap_err();
        assert!(error.contains("VQDiffusionScheduler") && error.contains(SamplerKind::NAMES), "{error}");
    }

    #[test]
    fn infinities_of_python_are_read() {
        let text = r#"{"lambda_min_clipped": -Infinity, "note": "to \"Infinity\" \\", "high": Infinity}"#;
        let read: Value = serde_json::from_str(&with_numbers_for_infinities(text)).unwrap();
        assert_eq!(read["lambda_min_clipped"], -1e308);
        assert_eq!((read["note"].as_str(), read["high"].as_f64()), (Some(r#"to "Infinity" \"#), Some(1e308)));
    }
}
