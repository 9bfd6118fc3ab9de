//! The strength of an image prompt by layer: listed, by blocks as diffusers names them, or by a preset.

use std::collections::BTreeMap;

use ipa_unet::UnetConfig;
use serde::{Deserialize, Serialize};

use super::presets::{self, Preset};
use crate::RequestError;

/// Factors on an image prompt's strength.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "a preset (such as style, layout, ease-in; all are in docs/composition.md), { preset, layout, boost }, a list \
                 of factors, or { down, mid, up } of numbers and tables { block_1 = 0.5 }"
)]
pub enum Layers {
    /// A preset: `style`, `layout`, `ease-in`, `weak-output`, …
    Preset(Preset),
    /// A preset with strengths of its parts.
    Tuned(Tuned),
    /// A factor for every attention, or for every one of its transformer blocks, in execution order.
    List(Vec<f64>),
    /// By part, as diffusers' `set_ip_adapter_scale` takes it: what is not named is 0.
    Parts(Parts),
}

/// A preset with strengths of its parts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuned {
    /// The preset.
    pub preset: Preset,
    /// The factor where layout is decided, in presets of style and layout.
    #[serde(default = "one")]
    pub layout: f64,
    /// The factor of what the precise presets hold back.
    #[serde(default = "one")]
    pub boost: f64,
}

fn one() -> f64 {
    1.0
}

/// Factors of the parts of a UNet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parts {
    /// On the way down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub down: Option<PartScale>,
    /// In the middle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mid: Option<f64>,
    /// On the way up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub up: Option<PartScale>,
}

/// The factor of a part, or those of its blocks, `block_0`, `block_1`, …; blocks that are not named are 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PartScale {
    /// All of it.
    All(f64),
    /// By block.
    Blocks(BTreeMap<String, BlockScale>),
}

/// The factor of a block, or those of its attentions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum BlockScale {
    /// All of it.
    All(f64),
    /// By attention.
    Attentions(Vec<f64>),
}

/// What [`Layers`] mean for one UNet.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerScales {
    /// A factor for every cross-attention layer, in execution order.
    pub factors: Vec<f64>,
    /// Whether a layer gets the reference in the unconditional half, and nothing in the other.
    pub swapped: Vec<bool>,
}

impl LayerScales {
    /// The strength as it is, everywhere.
    pub fn uniform(unet: &UnetConfig) -> Self {
        let num = unet.sites().len();
        Self { factors: vec![1.0; num], swapped: vec![false; num] }
    }
}

impl Layers {
    /// The factor of every cross-attention layer of a UNet.
    ///
    /// # Errors
    /// [`RequestError::Field`] if a preset is not known for this UNet, or a list or block does not fit it.
    pub fn scales(&self, unet: &UnetConfig) -> Result<LayerScales, RequestError> {
        let attentions = Attention::all(unet);
        let plain = |factors: Vec<f64>| (factors, vec![false; attentions.len()]);
        let (factors, swapped) = match self {
            Self::Preset(preset) => presets::factors(*preset, &Self::parts_of(&attentions), (1.0, 1.0))?,
            Self::Tuned(Tuned { preset, layout, boost }) => {
                presets::factors(*preset, &Self::parts_of(&attentions), (*layout, *boost))?
            }
            Self::List(list) if list.len() == unet.sites().len() => {
                check_factors(list)?;
                return Ok(LayerScales { factors: list.clone(), swapped: vec![false; list.len()] });
            }
            Self::List(list) if list.len() == attentions.len() => plain(list.clone()),
            Self::List(list) => {
                let (num, blocks) = (attentions.len(), unet.sites().len());
                let value = format!("a list of {}", list.len());
                return Err(refused(
                    value,
                    format!("this model has {num} attentions with {blocks} transformer blocks"),
                ));
            }
            Self::Parts(parts) => plain(parts.factors(&attentions)?),
        };
        check_factors(&factors)?;
        Ok(LayerScales {
            factors: attentions.iter().zip(factors).flat_map(|(own, factor)| vec![factor; own.depth]).collect(),
            swapped: attentions.iter().zip(swapped).flat_map(|(own, swapped)| vec![swapped; own.depth]).collect(),
        })
    }

    fn parts_of(attentions: &[Attention]) -> Vec<&'static str> {
        attentions.iter().map(|attention| attention.part).collect()
    }
}

/// One attention of a UNet: the place that presets and blocks speak of.
struct Attention {
    part: &'static str,
    block: usize,
    depth: usize,
}

impl Attention {
    /// In execution order.
    fn all(unet: &UnetConfig) -> Vec<Self> {
        let mut all: Vec<(String, Self)> = Vec::new();
        for site in unet.sites() {
            let (name, _) = site.name.split_once(".transformer_blocks").expect("a path of an attention");
            match all.last_mut() {
                Some((last, attention)) if last == name => attention.depth += 1,
                _ => all.push((name.to_owned(), Self::of(name))),
            }
        }
        all.into_iter().map(|(_, attention)| attention).collect()
    }

    /// By a path such as `down_blocks.1.attentions.0`.
    fn of(name: &str) -> Self {
        let part = match name {
            _ if name.starts_with("down") => "down",
            _ if name.starts_with("mid") => "mid",
            _ => "up",
        };
        let block = name.split('.').nth(1).and_then(|number| number.parse().ok()).unwrap_or_default();
        Self { part, block, depth: 1 }
    }
}

impl Parts {
    fn factors(&self, attentions: &[Attention]) -> Result<Vec<f64>, RequestError> {
        let mut factors = Vec::new();
        for (part, scale) in [("down", self.down.as_ref()), ("mid", None), ("up", self.up.as_ref())] {
            let own: Vec<&Attention> = attentions.iter().filter(|attention| attention.part == part).collect();
            match (part, scale) {
                ("mid", _) => factors.extend(vec![self.mid.unwrap_or_default(); own.len()]),
                (_, None) => factors.extend(vec![0.0; own.len()]),
                (_, Some(PartScale::All(factor))) => factors.extend(vec![*factor; own.len()]),
                (_, Some(PartScale::Blocks(blocks))) => factors.extend(of_blocks(part, blocks, &own)?),
            }
        }
        Ok(factors)
    }
}

/// Parity: as diffusers, but for blocks that the model has not, which there are left out silently.
fn of_blocks(part: &str, blocks: &BTreeMap<String, BlockScale>, own: &[&Attention]) -> Result<Vec<f64>, RequestError> {
    let numbers: std::collections::BTreeSet<usize> = own.iter().map(|attention| attention.block).collect();
    let names: Vec<String> = numbers.iter().map(|number| format!("block_{number}")).collect();
    if let Some(unknown) = blocks.keys().find(|name| !names.contains(name)) {
        return Err(refused(format!("{part}.{unknown}"), format!("this model has {part}.{}", names.join(", "))));
    }
    let mut factors = Vec::new();
    for number in numbers {
        let num = own.iter().filter(|attention| attention.block == number).count();
        match blocks.get(&format!("block_{number}")) {
            None => factors.extend(vec![0.0; num]),
            Some(BlockScale::All(factor)) => factors.extend(vec![*factor; num]),
            Some(BlockScale::Attentions(list)) if list.len() == 1 => factors.extend(vec![list[0]; num]),
            Some(BlockScale::Attentions(list)) if list.len() == num => factors.extend(list),
            Some(BlockScale::Attentions(list)) => {
                let value = format!("a list of {} for {part}.block_{number}", list.len());
                return Err(refused(value, format!("that block has {num} attentions")));
            }
        }
    }
    Ok(factors)
}

fn check_factors(factors: &[f64]) -> Result<(), RequestError> {
    match factors.iter().find(|factor| !(-10.0..=10.0).contains(*factor)) {
        Some(factor) => Err(refused(factor.to_string(), "choose factors of -10 to 10".to_owned())),
        None => Ok(()),
    }
}

pub(super) fn refused(value: String, allowed: String) -> RequestError {
    RequestError::Layers { value, allowed }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn scales(toml: &str, unet: &UnetConfig) -> Result<Vec<f64>, String> {
        #[derive(Deserialize)]
        struct Spec {
            layers: Layers,
        }
        let Spec { layers } = toml::from_str(toml).map_err(|error| error.to_string())?;
        layers.scales(unet).map(|scales| scales.factors).map_err(|error| error.to_string())
    }

    #[test]
    fn blocks_are_those_of_diffusers() {
        let sd15 = UnetConfig::sd15();
        let factors = scales("layers = { down = { block_1 = [0.2, 1] }, mid = 0.5, up = { block_3 = 0.7 } }", &sd15);
        let expected = [0., 0., 0.2, 1., 0., 0., 0.5, 0., 0., 0., 0., 0., 0., 0.7, 0.7, 0.7];
        assert_eq!(factors.unwrap(), expected);
        assert_eq!(scales("layers = { up = { block_1 = [0.4] } }", &sd15).unwrap()[7..10], [0.4; 3]);
    }

    #[test]
    fn blocks_that_are_not_there_are_refused_with_those_that_are() {
        let sd15 = UnetConfig::sd15();
        let error = scales("layers = { up = { block_0 = 1 } }", &sd15).unwrap_err();
        assert!(error.contains("up.block_0") && error.contains("block_1, block_2, block_3"), "{error}");
        let error = scales("layers = { down = { block_0 = [1, 2, 3] } }", &sd15).unwrap_err();
        assert!(error.contains("that block has 2 attentions"), "{error}");
        assert!(scales("layers = [1, 2]", &sd15).unwrap_err().contains("16 attentions"));
        assert!(scales("layers = \"stile\"", &sd15).is_err());
    }

    #[test]
    fn a_factor_for_an_attention_holds_for_all_its_blocks() {
        let sdxl = UnetConfig::sdxl();
        let factors = scales("layers = { up = { block_0 = [0, 1, 0] } }", &sdxl).unwrap();
        assert!(factors.iter().enumerate().all(|(site, &factor)| factor == f64::from((44..54).contains(&site))));
        assert_eq!(scales("layers = \"style\"", &sdxl).unwrap(), factors);
        let list: Vec<f64> = (0..70).map(f64::from).map(|site| site / 70.0).collect();
        assert_eq!(scales(&format!("layers = {list:?}"), &sdxl).unwrap(), list);
    }
}
