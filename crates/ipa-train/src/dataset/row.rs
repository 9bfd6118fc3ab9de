//! The fields of a row.

use std::path::Path;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::{DataError, Place, RowDrops};

/// A weight above this is a mistake.
const MAX_WEIGHT: f64 = 1000.0;

/// What a list or a sample says of a row. What is serialised decides a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Fields {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) image_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reference_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mask_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id_embed_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) weight: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) image_drop: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) text_drop: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) both_drop: Option<f64>,
    #[serde(skip_serializing)]
    pub(super) license: Option<Value>,
    #[serde(skip_serializing)]
    pub(super) consent: Option<Value>,
    /// Fields that mean nothing here.
    #[serde(flatten, skip_serializing)]
    pub(super) unknown: Names,
}

impl Fields {
    /// The files that a list's row names beside its picture.
    pub(super) fn other_files(&self) -> [(&'static str, Option<&str>); 3] {
        [
            ("reference_file", self.reference_file.as_deref()),
            ("mask_file", self.mask_file.as_deref()),
            ("id_embed_file", self.id_embed_file.as_deref()),
        ]
    }

    pub(super) fn drops(&self) -> RowDrops {
        RowDrops { image_drop: self.image_drop, text_drop: self.text_drop, both_drop: self.both_drop }
    }

    /// Checks that a caption is there and that numbers are in their ranges.
    pub(super) fn check(&self, path: &Path, place: &Place) -> Result<(), DataError> {
        let fault =
            |field, problem: String| DataError::Field { path: path.into(), place: place.clone(), field, problem };
        if self.text.is_none() {
            return Err(fault("text", "is missing: write the caption there, which may be empty".to_owned()));
        }
        if let Some(weight) = self.weight
            && !(weight > 0.0 && weight <= MAX_WEIGHT)
        {
            return Err(fault(
                "weight",
                format!("is {weight}: give a number above 0, at most {MAX_WEIGHT}; 1 is usual"),
            ));
        }
        let drops = [("image_drop", self.image_drop), ("text_drop", self.text_drop), ("both_drop", self.both_drop)];
        for (field, share) in drops {
            if let Some(share) = share.filter(|share| !(0.0..=1.0).contains(share)) {
                return Err(fault(field, format!("is {share}: give a share from 0 to 1")));
            }
        }
        let sum: f64 = drops.iter().filter_map(|(_, share)| *share).sum();
        match sum <= 1.0 {
            true => Ok(()),
            false => {
                Err(fault("image_drop", format!("and `text_drop` and `both_drop` sum to {sum}: make that 1 at most")))
            }
        }
    }
}

/// Names of fields whose values are skipped.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Names(pub(super) Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Names;

            fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
                formatter.write_str("fields")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Names, M::Error> {
                let mut names = Vec::new();
                while let Some((name, IgnoredAny)) = map.next_entry()? {
                    names.push(name);
                }
                Ok(Names(names))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn check(row: &str) -> Result<Fields, String> {
        let fields: Fields = serde_json::from_str(row).unwrap();
        fields.check(Path::new("data.json"), &Place::Row(3)).map_err(|error| error.to_string())?;
        Ok(fields)
    }

    #[test]
    fn numbers_out_of_range_are_refused_with_row_and_field() {
        for (fields, expected) in [
            (r#""weight": 0"#, "row 3: `weight` is 0"),
            (r#""weight": -1"#, "`weight` is -1"),
            (r#""weight": 1e9"#, "`weight`"),
            (r#""image_drop": 1.5"#, "`image_drop` is 1.5"),
            (r#""text_drop": -0.1"#, "`text_drop`"),
            (r#""both_drop": 0.6, "text_drop": 0.6"#, "sum to 1.2"),
        ] {
            let error = check(&format!(r#"{{"text": "", {fields}}}"#)).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert!(check("{}").unwrap_err().contains("`text` is missing"));
        let fields = check(r#"{"text": "", "weight": 2, "both_drop": 1, "image_drop": 0}"#).unwrap();
        assert_eq!((fields.weight, fields.drops().both_drop, fields.drops().text_drop), (Some(2.0), Some(1.0), None));
    }

    #[test]
    fn unknown_fields_are_kept_by_name_and_decide_nothing() {
        let plain = check(r#"{"text": "a", "license": "CC0"}"#).unwrap();
        let more = check(r#"{"url": {"a": [1, 2]}, "text": "a", "width": 5}"#).unwrap();
        assert_eq!(more.unknown.0, ["url", "width"]);
        assert_eq!(serde_json::to_string(&plain).unwrap(), serde_json::to_string(&more).unwrap());
    }
}
