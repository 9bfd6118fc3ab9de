//! The numerators of a LoRA's scales: tensors of their own, or what diffusers keeps in the header.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{LoraError, Tower};
use crate::Weights;
use crate::floats::numbers;

/// Entry of a safetensors header in which diffusers keeps the settings of PEFT.
pub(crate) const METADATA: &str = "lora_adapter_metadata";

/// A file that says 0 means the rank, as one that says nothing.
pub(super) fn of_tensor(name: &str, weights: &Weights) -> Result<Option<f64>, LoraError> {
    let info = weights.info(name).filter(|info| matches!(info.shape[..], [] | [1]));
    let numbers = info.and_then(|info| numbers(info.dtype, &weights.data(name)?));
    match numbers.as_deref() {
        Some(&[alpha]) if alpha.is_finite() => Ok(Some(alpha).filter(|&alpha| alpha != 0.0)),
        _ => Err(LoraError::Alpha { name: name.to_owned() }),
    }
}

/// What the header says of the scales of one tower or several.
#[derive(Debug, Default)]
pub(super) struct Settings(Map<String, Value>);

impl Settings {
    pub(super) fn read(texts: &BTreeMap<String, String>) -> Result<Self, LoraError> {
        let Some(text) = texts.get(METADATA) else { return Ok(Self::default()) };
        match serde_json::from_str(text) {
            Ok(fields) => Ok(Self(fields)),
            Err(error) => Err(LoraError::Metadata { problem: format!("is no JSON object ({error})") }),
        }
    }

    /// The numerator for a module; `None` if the header says nothing of its tower.
    pub(super) fn alpha(&self, tower: Tower, module: &str, rank: usize) -> Result<Option<f64>, LoraError> {
        let start = format!("{}.", tower.prefix());
        if !self.0.keys().any(|field| field.starts_with(&start)) {
            return Ok(None);
        }
        let field = |name: &str| self.0.get(&format!("{start}{name}"));
        let number = |name: &str, value: &Value| {
            let number = value.as_f64().filter(|number| number.is_finite());
            number.ok_or_else(|| LoraError::Metadata { problem: format!("has the {name} {value}, no number") })
        };
        let alpha = match self.matching(field("alpha_pattern"), module)? {
            Some(alpha) => number("alpha_pattern", alpha)?,
            None => field("lora_alpha").map_or(Ok(PEFT_ALPHA), |alpha| number("lora_alpha", alpha))?,
        };
        let is_rooted = field("use_rslora") == Some(&Value::Bool(true));
        Ok(Some(if is_rooted { alpha * (rank as f64).sqrt() } else { alpha }))
    }

    /// The value for a module by patterns, which are ends of paths, behind `^` whole ones.
    fn matching<'v>(&self, patterns: Option<&'v Value>, module: &str) -> Result<Option<&'v Value>, LoraError> {
        let Some(Value::Object(patterns)) = patterns else { return Ok(None) };
        let mut found = None;
        for (pattern, value) in patterns {
            let path = pattern.strip_prefix('^').unwrap_or(pattern);
            if path.contains(|letter: char| !letter.is_alphanumeric() && !matches!(letter, '.' | '_' | '-')) {
                return Err(LoraError::Metadata { problem: format!("has the pattern `{pattern}`, which is not read") });
            }
            let is_end = !pattern.starts_with('^') && module.ends_with(&format!(".{path}"));
            if (module == path || is_end) && found.replace(value).is_some_and(|other| other != value) {
                return Err(LoraError::Metadata { problem: format!("has several scales for `{module}`") });
            }
        }
        Ok(found)
    }
}

/// PEFT's `lora_alpha` where a file leaves it out.
const PEFT_ALPHA: f64 = 8.0;
