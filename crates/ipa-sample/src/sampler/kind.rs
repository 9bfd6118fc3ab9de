//! The samplers by name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! names {
    () => {
        "ddim, ddpm, pndm, euler, euler-a, heun, dpm++2m, dpm++2m-karras, dpm++2m-sde, dpm++2m-sde-karras, unipc, lcm"
    };
}

/// A sampler that a request can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SamplerKind {
    /// Denoising diffusion implicit models, arXiv:2010.02502.
    Ddim,
    /// Denoising diffusion probabilistic models, arXiv:2006.11239.
    Ddpm,
    /// Pseudo numerical methods, arXiv:2202.09778.
    Pndm,
    /// Euler's method, arXiv:2206.00364 algorithm 2 without churn.
    Euler,
    /// Euler's method with ancestral noise.
    EulerAncestral,
    /// Heun's method, arXiv:2206.00364 algorithm 1.
    Heun,
    /// DPM-Solver++, multistep, arXiv:2211.01095.
    Dpmpp2m,
    /// The same at the noise levels of arXiv:2206.00364 Eq. 5.
    Dpmpp2mKarras,
    /// DPM-Solver++ of the stochastic equation.
    Dpmpp2mSde,
    /// The same at the noise levels of arXiv:2206.00364 Eq. 5.
    Dpmpp2mSdeKarras,
    /// UniPC, arXiv:2302.04867.
    Unipc,
    /// Latent consistency models, arXiv:2310.04378.
    Lcm,
}

impl SamplerKind {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Ddim,
        Self::Ddpm,
        Self::Pndm,
        Self::Euler,
        Self::EulerAncestral,
        Self::Heun,
        Self::Dpmpp2m,
        Self::Dpmpp2mKarras,
        Self::Dpmpp2mSde,
        Self::Dpmpp2mSdeKarras,
        Self::Unipc,
        Self::Lcm,
    ];

    /// All names, for a message.
    pub const NAMES: &str = names!();

    /// What to do about a wrong name.
    pub(crate) const CHOOSE: &str = concat!("choose ", names!());

    /// As requests name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ddim => "ddim",
            Self::Ddpm => "ddpm",
            Self::Pndm => "pndm",
            Self::Euler => "euler",
            Self::EulerAncestral => "euler-a",
            Self::Heun => "heun",
            Self::Dpmpp2m => "dpm++2m",
            Self::Dpmpp2mKarras => "dpm++2m-karras",
            Self::Dpmpp2mSde => "dpm++2m-sde",
            Self::Dpmpp2mSdeKarras => "dpm++2m-sde-karras",
            Self::Unipc => "unipc",
            Self::Lcm => "lcm",
        }
    }

    /// As `_class_name` of scheduler_config.json names it.
    pub fn class_name(self) -> &'static str {
        match self {
            Self::Ddim => "DDIMScheduler",
            Self::Ddpm => "DDPMScheduler",
            Self::Pndm => "PNDMScheduler",
            Self::Euler => "EulerDiscreteScheduler",
            Self::EulerAncestral => "EulerAncestralDiscreteScheduler",
            Self::Heun => "HeunDiscreteScheduler",
            Self::Dpmpp2m | Self::Dpmpp2mKarras | Self::Dpmpp2mSde | Self::Dpmpp2mSdeKarras => {
                "DPMSolverMultistepScheduler"
            }
            Self::Unipc => "UniPCMultistepScheduler",
            Self::Lcm => "LCMScheduler",
        }
    }

    /// Whether it takes the noise levels of arXiv:2206.00364 by its name; others may by their file.
    pub(crate) fn is_karras(self) -> bool {
        matches!(self, Self::Dpmpp2mKarras | Self::Dpmpp2mSdeKarras)
    }

    /// Whether it is one of the stochastic DPM-Solvers.
    pub(crate) fn is_sde(self) -> bool {
        matches!(self, Self::Dpmpp2mSde | Self::Dpmpp2mSdeKarras)
    }

    /// The DPM-Solver of two properties.
    pub(crate) fn dpm_solver(sde: bool, karras: bool) -> Self {
        match (sde, karras) {
            (false, false) => Self::Dpmpp2m,
            (false, true) => Self::Dpmpp2mKarras,
            (true, false) => Self::Dpmpp2mSde,
            (true, true) => Self::Dpmpp2mSdeKarras,
        }
    }
}

/// No sampler has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no sampler `{0}`: {choose}", choose = SamplerKind::CHOOSE)]
pub struct UnknownSampler(pub String);

impl FromStr for SamplerKind {
    type Err = UnknownSampler;

    fn from_str(name: &str) -> Result<Self, UnknownSampler> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| UnknownSampler(name.to_owned()))
    }
}

impl TryFrom<String> for SamplerKind {
    type Error = UnknownSampler;

    fn try_from(name: String) -> Result<Self, UnknownSampler> {
        name.parse()
    }
}

impl From<SamplerKind> for String {
    fn from(kind: SamplerKind) -> Self {
        kind.name().to_owned()
    }
}

impl fmt::Display for SamplerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sampler_is_found_by_the_name_it_shows() {
        for kind in SamplerKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
            let json = serde_json::to_string(&kind).expect("a name");
            assert_eq!(serde_json::from_str::<SamplerKind>(&json).expect("a sampler"), kind);
        }
        assert_eq!(SamplerKind::NAMES, SamplerKind::ALL.map(SamplerKind::name).join(", "));
        let error = "DDIM".parse::<SamplerKind>().expect_err("names are lower case").to_string();
        assert!(error.contains("`DDIM`") && error.contains("dpm++2m-sde-karras"), "{error}");
    }
}
