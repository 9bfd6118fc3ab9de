//! What is said of an adapter besides its tensors: by the caller, by our metadata, by its file's name.

use std::collections::BTreeMap;

use serde_json::Value;

use super::kind::{AdapterCoupling, AdapterKind, AdapterVariant};
use super::{AdapterError, AdapterInfo};
use crate::METADATA_KEY;

/// Part of a published file's name that nothing in the file repeats.
const V2_FILE_NAME: &str = "plusv2";
const OPTION: &str = "`--adapter-variant`";
const VARIANT: &str = "metadata field `variant`";
const NUM_TOKENS: &str = "metadata field `num_tokens`";

/// What is said of an adapter besides its tensors.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Declared {
    variants: Vec<(&'static str, AdapterVariant)>, // the weightiest first
    num_tokens: Option<u64>,
    pub(super) named_v2: bool,
}

impl Declared {
    pub(super) fn new(
        option: Option<AdapterVariant>,
        metadata: &BTreeMap<String, String>,
        file_name: &str,
    ) -> Result<Self, AdapterError> {
        let metadata = match metadata.get(METADATA_KEY) {
            Some(text) => parsed(text)?,
            None => Value::Null,
        };
        let option = option.map(|variant| (OPTION, variant));
        let stored = variant_of(&metadata)?.map(|variant| (VARIANT, variant));
        Ok(Self {
            variants: option.into_iter().chain(stored).collect(),
            num_tokens: num_tokens_of(&metadata)?,
            named_v2: file_name.to_ascii_lowercase().contains(V2_FILE_NAME),
        })
    }

    /// What was said first of these.
    pub(super) fn kind_among(&self, kinds: &[AdapterKind]) -> Option<AdapterKind> {
        let named = |variant: AdapterVariant| {
            kinds.iter().copied().find(|&kind| AdapterVariant::of(kind, AdapterCoupling::Decoupled) == variant)
        };
        self.variants.iter().find_map(|&(_, variant)| named(variant))
    }

    /// Whether the adapter is said to leave the attention layers alone.
    pub(super) fn concatenated(&self) -> bool {
        self.variants.first().is_some_and(|&(_, variant)| variant == AdapterVariant::Simple)
    }

    /// Compares what was said with what the tensors say.
    pub(super) fn check(&self, info: &AdapterInfo) -> Result<(), AdapterError> {
        let contradiction = |field, declared: String, found: String| {
            Err(AdapterError::Contradiction { field, declared: format!("`{declared}`"), found: format!("`{found}`") })
        };
        let found = info.variant();
        let agrees = |variant| version_one(variant) == version_one(found);
        if let Some(&(field, variant)) = self.variants.iter().find(|(_, variant)| !agrees(*variant)) {
            return contradiction(field, variant.to_string(), found.to_string());
        }
        match self.num_tokens {
            Some(declared) if declared != info.num_tokens as u64 => {
                contradiction(NUM_TOKENS, declared.to_string(), info.num_tokens.to_string())
            }
            _ => Ok(()),
        }
    }
}

/// Tensors say nothing of the version.
fn version_one(variant: AdapterVariant) -> AdapterVariant {
    match variant {
        AdapterVariant::FaceIdPlusV2 => AdapterVariant::FaceIdPlus,
        other => other,
    }
}

fn parsed(text: &str) -> Result<Value, AdapterError> {
    let found = || "no JSON".to_owned();
    serde_json::from_str(text).map_err(|_| AdapterError::Metadata {
        field: METADATA_KEY,
        found: found(),
        expected: "what this project writes",
    })
}

fn variant_of(metadata: &Value) -> Result<Option<AdapterVariant>, AdapterError> {
    let Some(value) = metadata.get("variant") else { return Ok(None) };
    let variant = value.as_str().and_then(|name| name.parse().ok());
    let fault = || AdapterError::Metadata {
        field: "variant",
        found: format!("`{value}`"),
        expected: "the name of a variant, such as `plus`",
    };
    variant.map(Some).ok_or_else(fault)
}

fn num_tokens_of(metadata: &Value) -> Result<Option<u64>, AdapterError> {
    let Some(value) = metadata.get("num_tokens") else { return Ok(None) };
    let fault =
        || AdapterError::Metadata { field: "num_tokens", found: format!("`{value}`"), expected: "a whole number" };
    value.as_u64().map(Some).ok_or_else(fault)
}
