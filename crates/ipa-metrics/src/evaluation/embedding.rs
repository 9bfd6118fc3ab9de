//! An embedding as it stands in a line of measurements.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The image embedding of a picture; in JSON the base64 of its little-endian f32 values, which keeps every bit.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding(Vec<f32>);

impl Embedding {
    /// Of its values, not necessarily normalized.
    pub fn new(values: Vec<f32>) -> Self {
        Self(values)
    }

    /// Its values.
    pub fn values(&self) -> &[f32] {
        &self.0
    }

    /// Whether it has a direction, so that cosines with it are defined.
    pub(super) fn has_direction(&self) -> bool {
        self.0.iter().all(|value| value.is_finite()) && self.0.iter().any(|value| *value != 0.0)
    }
}

impl Serialize for Embedding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = self.0.iter().flat_map(|value| value.to_le_bytes()).collect();
        serializer.serialize_str(&STANDARD.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for Embedding {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(|error| D::Error::custom(format!("no base64: {error}")))?;
        let (values, rest) = bytes.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(D::Error::custom(format!("{} bytes are no whole number of f32", bytes.len())));
        }
        Ok(Self(values.iter().map(|value| f32::from_le_bytes(*value)).collect()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_comes_back() {
        let values = vec![0.1_f32, -0.0, f32::MIN_POSITIVE / 2.0, 3e38];
        let json = serde_json::to_string(&Embedding::new(values.clone())).unwrap();
        let back: Embedding = serde_json::from_str(&json).unwrap();
        assert!(back.values().iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits()));
        assert_eq!(serde_json::to_string(&Embedding::new(vec![1.0])).unwrap(), "\"AACAPw==\"");
    }

    #[test]
    fn what_is_no_embedding_is_refused_with_the_reason() {
        let refused = |json: &str| serde_json::from_str::<Embedding>(json).unwrap_err().to_string();
        assert!(refused("\"AAAA\"").contains("3 bytes are no whole number of f32"));
        assert!(refused("\"?\"").contains("no base64"));
    }
}
