//! Presets that draw faster and pay with a little of the picture.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::GenerateRequest;

/// How much of the arithmetic is saved; docs/performance.md has the measured costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fast {
    /// The least that is left out.
    Mild,
    /// What `--fast` alone is.
    Default,
    /// The most.
    Most,
}

/// The fields that presets set. The sampler is none of them: with the model's own, pictures stay closest to the plain ones.
struct Fields {
    num_steps: usize,
    guidance_end: f64,
    cache_interval: usize,
    cache_branch: usize,
}

impl Fast {
    /// All of them, the least first.
    pub const ALL: [Self; 3] = [Self::Mild, Self::Default, Self::Most];

    /// As requests and the command line name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mild => "mild",
            Self::Default => "default",
            Self::Most => "most",
        }
    }

    fn fields(self) -> Fields {
        match self {
            Self::Mild => Fields { num_steps: 25, guidance_end: 0.8, cache_interval: 2, cache_branch: 0 },
            Self::Default => Fields { num_steps: 20, guidance_end: 0.6, cache_interval: 2, cache_branch: 0 },
            Self::Most => Fields { num_steps: 15, guidance_end: 0.6, cache_interval: 2, cache_branch: 0 },
        }
    }

    /// A request with the preset's fields, to give others to:
    /// `GenerateRequest { prompt, ..Fast::Default.request() }`.
    pub fn request(self) -> GenerateRequest {
        let mut request = GenerateRequest::default();
        self.fill(&mut request, |_| false);
        request
    }

    /// Sets the preset's fields but for those that the user named, whatever they were set to.
    pub fn fill(self, request: &mut GenerateRequest, is_named: impl Fn(&str) -> bool) {
        let Fields { num_steps, guidance_end, cache_interval, cache_branch } = self.fields();
        request.fast = Some(self);
        if !is_named("num_steps") {
            request.num_steps = num_steps;
        }
        if !is_named("guidance_end") {
            request.guidance_end = guidance_end.max(request.guidance_start);
        }
        if !is_named("cache_interval") {
            request.cache_interval = cache_interval;
        }
        if !is_named("cache_branch") {
            request.cache_branch = cache_branch;
        }
    }
}

/// No preset has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no preset `{0}`: choose mild, default or most")]
pub struct UnknownFast(pub String);

impl FromStr for Fast {
    type Err = UnknownFast;

    fn from_str(name: &str) -> Result<Self, UnknownFast> {
        Self::ALL.into_iter().find(|fast| fast.name() == name).ok_or_else(|| UnknownFast(name.to_owned()))
    }
}

impl fmt::Display for Fast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_found_by_the_name_it_shows_and_can_be_drawn() {
        for fast in Fast::ALL {
            assert_eq!(fast.to_string().parse(), Ok(fast));
            assert_eq!(serde_json::to_value(fast).expect("a name"), fast.name());
            assert!(fast.request().check().is_ok(), "{fast}");
        }
        assert!("slow".parse::<Fast>().expect_err("no preset").to_string().contains("mild"));
    }

    #[test]
    fn what_was_named_is_left_alone() {
        let mut request = GenerateRequest { num_steps: 30, guidance_start: 0.9, ..GenerateRequest::default() };
        Fast::Default.fill(&mut request, |field| field == "num_steps");
        assert_eq!((request.num_steps, request.guidance_end), (30, 0.9));
        assert_eq!(request.cache_interval, Fast::Default.request().cache_interval);
    }
}
