//! What is held out, and what is done with it.

use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::config::refuse;

/// Most rows that the loss is over and most pictures in a grid: one validation stays far shorter than a training.
const MAX_ROWS: usize = 65_536;
const MAX_REFERENCES: usize = 64;
const MAX_SCALES: usize = 8;

/// How a run is looked at on rows that it does not learn from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ValidationSettings {
    /// Share of the rows that are kept out of training, by their names.
    pub held_out: f64,
    /// Steps between validations; none has one at the end alone.
    pub every: Option<u64>,
    /// Rows that the held-out loss is over, at most.
    pub max_rows: usize,
    /// Rows that pictures are drawn from, for the grid and the scores; 0 draws none.
    pub num_references: usize,
    /// Strengths λ of the grid's columns.
    pub scales: Vec<f64>,
    /// Denoising steps of a picture.
    pub num_steps: usize,
    /// Guidance, 1 is off.
    pub guidance_scale: f64,
    /// What tells the best.
    pub metric: Metric,
    /// Validations in a row without a better one after which a run ends; none lets it go on.
    pub patience: Option<u64>,
}

/// What tells the best of several validations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// The held-out loss: the lowest.
    #[default]
    Loss,
    /// Likeness to the reference: the highest.
    ClipI,
    /// Likeness to the caption: the highest.
    ClipT,
}

impl Default for ValidationSettings {
    fn default() -> Self {
        Self {
            held_out: 0.0,
            every: None,
            max_rows: 64,
            num_references: 4,
            scales: vec![0.5, 1.0],
            num_steps: 20,
            guidance_scale: 7.5,
            metric: Metric::Loss,
            patience: None,
        }
    }
}

impl ValidationSettings {
    /// Checks every range.
    ///
    /// # Errors
    /// [`TrainError::Field`].
    pub fn check(&self) -> Result<(), TrainError> {
        if !(0.0..1.0).contains(&self.held_out) {
            return refuse("held_out", &self.held_out, "choose 0 to less than 1, such as 0.1; 0 holds nothing out");
        }
        if self.every == Some(0) {
            return refuse("every", &0, "choose at least 1 step, or leave it out for one validation at the end");
        }
        if let Some(patience) = self.patience.filter(|patience| *patience == 0 || self.every.is_none()) {
            let allowed = "choose at least 1 validation, and say by `every` how many steps lie between them";
            return refuse("patience", &patience, allowed);
        }
        if !(1..=MAX_ROWS).contains(&self.max_rows) {
            return refuse("max_rows", &self.max_rows, "choose 1 to 65536, such as 64");
        }
        self.check_drawing()
    }

    fn check_drawing(&self) -> Result<(), TrainError> {
        if self.num_references > MAX_REFERENCES {
            return refuse("num_references", &self.num_references, "choose at most 64; 4 are enough to look at");
        }
        if self.num_references == 0 && self.metric != Metric::Loss {
            return refuse("num_references", &0, "choose at least 1, or `metric = \"loss\"`: others need pictures");
        }
        if !(1..=MAX_SCALES).contains(&self.scales.len()) {
            return refuse("scales", &format!("{} strengths", self.scales.len()), "choose 1 to 8 of them");
        }
        if let Some(scale) = self.scales.iter().find(|scale| !(**scale > 0.0 && **scale <= 10.0)) {
            return refuse("scales", scale, "choose strengths above 0 and at most 10; 0 has a column of its own");
        }
        if !(1..=1000).contains(&self.num_steps) {
            return refuse("num_steps", &self.num_steps, "choose 1 to 1000; 20 are enough to look at");
        }
        match (1.0..=100.0).contains(&self.guidance_scale) {
            true => Ok(()),
            false => refuse("guidance_scale", &self.guidance_scale, "choose 1 to 100; 7.5 is usual and 1 is off"),
        }
    }

    /// How many held-out rows a validation looks at, at most; more need not be encoded.
    pub fn num_rows(&self) -> usize {
        self.max_rows.max(self.num_references)
    }

    /// Which of the strengths is scored: 1, as adapters are trained, or else the last.
    pub(super) fn scored(&self) -> usize {
        self.scales.iter().position(|scale| *scale == 1.0).unwrap_or(self.scales.len() - 1)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_range_is_checked_by_field() {
        assert!(ValidationSettings::default().check().is_ok());
        for (text, field) in [
            ("held_out = 1.0", "`held_out`"),
            ("held_out = nan", "`held_out`"),
            ("every = 0", "`every`"),
            ("patience = 3", "`patience`"),
            ("every = 10\npatience = 0", "`patience`"),
            ("max_rows = 0", "`max_rows`"),
            ("num_references = 65", "`num_references`"),
            ("num_references = 0\nmetric = \"clip-i\"", "`num_references`"),
            ("scales = []", "`scales`"),
            ("scales = [0.0]", "`scales`"),
            ("num_steps = 0", "`num_steps`"),
            ("guidance_scale = 0.5", "`guidance_scale`"),
        ] {
            let settings: ValidationSettings = toml::from_str(text).unwrap();
            assert!(settings.check().unwrap_err().to_string().contains(field), "{text}");
        }
    }

    #[test]
    fn strength_1_is_scored_wherever_it_stands() {
        let scored = |scales: &[f64]| ValidationSettings { scales: scales.into(), ..Default::default() }.scored();
        assert_eq!([scored(&[1.0, 0.5]), scored(&[0.5, 1.0]), scored(&[0.3, 0.6])], [0, 1, 1]);
    }
}
