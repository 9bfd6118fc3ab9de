//! LoRA files for a UNet: which tensors change which of its modules.
//!
//! Read are kohya's names (`lora_unet_…`), those of diffusers, old and new, and those of PEFT. Text towers' parts,
//! and kinds of files that are more than two factors a module, are refused.

use std::collections::BTreeMap;

use crate::floats::floats;
use crate::{FormatError, TensorInfo, Weights};

/// Prefix of kohya's names, in which underscores stand for the dots of a module's path.
const KOHYA: &str = "lora_unet_";
/// What comes before a module's path in the other dialects, in this order.
const PREFIXES: [&str; 4] = ["base_model.model.", "unet.", "base_model.model.", "module."];
const TEXT_TOWERS: [&str; 2] = ["lora_te", "text_encoder"];
const ENDINGS: [(&str, Role); 7] = [
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    (".lora.down.weight", Role::Down),
    (".lora.up.weight", Role::Up),
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".alpha", Role::Alpha),
];

/// One module's change: `W + scale · alpha / rank · up · down`.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraLayer {
    /// Path of the module in the UNet, such as `mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0`.
    pub module: String,
    /// Name in the file of the factor `[rank, in]`, of a convolution `[rank, in, k, k]`.
    pub down: String,
    /// Name in the file of the factor `[out, rank]`, of a convolution `[out, rank, 1, 1]`.
    pub up: String,
    /// Numerator of the scale; without one it is the rank.
    pub alpha: Option<f64>,
}

/// The names that a LoRA file uses.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LoraNames {
    /// `lora_unet_….lora_down.weight`, which kohya's trainer writes and every tool reads.
    #[default]
    Kohya,
    /// `unet.….lora_A.weight`, as diffusers saves it.
    Diffusers,
}

impl LoraNames {
    /// Name of a module's factor, `down` or `up`.
    pub(crate) fn name(self, module: &str, factor: &str) -> String {
        match self {
            Self::Kohya => format!("{}.lora_{factor}.weight", underscored(module)),
            Self::Diffusers => format!("unet.{module}.lora_{}.weight", if factor == "down" { "A" } else { "B" }),
        }
    }
}

/// Why a file is no LoRA that fits a UNet.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LoraError {
    /// A file without tensors.
    #[error("it holds no tensors")]
    Empty,
    /// A tensor for a module that the UNet does not have, or with a name of no known dialect.
    #[error("tensor `{name}` belongs to no module of this UNet; the file is for another model or of another kind")]
    Unknown {
        /// Its name.
        name: String,
    },
    /// A tensor for a text tower, which an image prompt's LoRA has no business with.
    #[error("tensor `{name}` changes a text encoder, only the UNet can be changed; take a file for the UNet alone")]
    TextEncoder {
        /// Its name.
        name: String,
    },
    /// A tensor of a method that is more than two factors.
    #[error("tensor `{name}` is of {method}, which is not read; take a plain LoRA")]
    Method {
        /// Its name.
        name: String,
        /// The method.
        method: &'static str,
    },
    /// Half of a pair.
    #[error("tensor `{name}` has no partner, the {missing} factor of its module")]
    Partner {
        /// The half that is there.
        name: String,
        /// Which is missing.
        missing: &'static str,
    },
    /// Two tensors for the same purpose.
    #[error("tensors `{first}` and `{second}` stand for the same factor of one module; remove one")]
    Twice {
        /// Name of the one.
        first: String,
        /// Name of the other.
        second: String,
    },
    /// A tensor whose shape does not fit.
    #[error("tensor `{name}` has shape {shape:?}, expected {expected}")]
    Shape {
        /// Its name.
        name: String,
        /// Its sizes.
        shape: Vec<usize>,
        /// What fits.
        expected: String,
    },
    /// A scale that is no number.
    #[error("tensor `{name}` is no finite floating-point number")]
    Alpha {
        /// Its name.
        name: String,
    },
}

/// What a tensor is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Role {
    Down,
    Up,
    Alpha,
}

/// Names in the file of what changes one module.
#[derive(Debug, Default)]
struct Names<'a> {
    down: Option<&'a str>,
    up: Option<&'a str>,
    alpha: Option<&'a str>,
}

/// Finds the module of every tensor of a LoRA file; sorted by module.
///
/// `modules` are the paths of all modules of the UNet that have weights.
///
/// # Errors
/// [`FormatError::Lora`] naming the tensor that is unknown, alone or does not fit.
pub fn lora_layers(weights: &Weights, modules: &[String]) -> Result<Vec<LoraLayer>, FormatError> {
    layers(weights, modules)
        .map_err(|source| FormatError::Lora { path: weights.path().to_owned(), source: Box::new(source) })
}

fn layers(weights: &Weights, modules: &[String]) -> Result<Vec<LoraLayer>, LoraError> {
    let paths: BTreeMap<String, &str> =
        modules.iter().flat_map(|path| [(path.clone(), &path[..]), (underscored(path), path)]).collect();
    let mut by_module = BTreeMap::<&str, Names<'_>>::new();
    for name in weights.names() {
        let (path, role) = parsed(name)?;
        let module = paths.get(&path).ok_or_else(|| LoraError::Unknown { name: name.to_owned() })?;
        by_module.entry(module).or_default().keep(role, name)?;
    }
    match by_module.is_empty() {
        true => Err(LoraError::Empty),
        false => by_module.into_iter().map(|(module, names)| names.layer(module, weights)).collect(),
    }
}

/// Whether a tensor is one that [`lora_layers`] may find a module for.
pub(crate) fn is_lora_name(name: &str) -> bool {
    parsed(name).is_ok()
}

fn underscored(path: &str) -> String {
    format!("{KOHYA}{}", path.replace('.', "_"))
}

/// Path of the module, in kohya's spelling or with dots, and what the tensor is for.
fn parsed(name: &str) -> Result<(String, Role), LoraError> {
    let bare = PREFIXES.iter().fold(name, |name, prefix| name.strip_prefix(prefix).unwrap_or(name));
    if TEXT_TOWERS.iter().any(|tower| bare.starts_with(tower)) {
        return Err(LoraError::TextEncoder { name: name.to_owned() });
    }
    if let Some(method) = other_method(bare) {
        return Err(LoraError::Method { name: name.to_owned(), method });
    }
    let plain = ENDINGS.iter().find_map(|&(ending, role)| Some((bare.strip_suffix(ending)?.to_owned(), role)));
    plain.or_else(|| processor(bare)).ok_or_else(|| LoraError::Unknown { name: name.to_owned() })
}

fn other_method(name: &str) -> Option<&'static str> {
    let part_of = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    match () {
        () if part_of(&["dora_scale", "lora_magnitude_vector"]) => Some("DoRA"),
        () if part_of(&[".hada_w"]) => Some("LoHa"),
        () if part_of(&[".lokr_w"]) => Some("LoKr"),
        () if part_of(&[".lora_mid."]) => Some("a LoRA with a factor in the middle"),
        () => None,
    }
}

/// Reads `….attn1.processor.to_out_lora.down.weight`, whose module is `….attn1.to_out.0`.
fn processor(name: &str) -> Option<(String, Role)> {
    let (attention, rest) = name.split_once(".processor.")?;
    let (matrix, side) = rest.split_once("_lora.")?;
    let matrix = match matrix {
        "to_q" | "to_k" | "to_v" => matrix,
        "to_out" => "to_out.0",
        _ => return None,
    };
    let role = match side {
        "down.weight" => Role::Down,
        "up.weight" => Role::Up,
        _ => return None,
    };
    Some((format!("{attention}.{matrix}"), role))
}

impl<'a> Names<'a> {
    fn keep(&mut self, role: Role, name: &'a str) -> Result<(), LoraError> {
        let place = match role {
            Role::Down => &mut self.down,
            Role::Up => &mut self.up,
            Role::Alpha => &mut self.alpha,
        };
        match place.replace(name) {
            Some(first) => Err(LoraError::Twice { first: first.to_owned(), second: name.to_owned() }),
            None => Ok(()),
        }
    }

    fn layer(self, module: &str, weights: &Weights) -> Result<LoraLayer, LoraError> {
        let partner =
            |name: Option<&str>, missing| LoraError::Partner { name: name.unwrap_or(module).to_owned(), missing };
        let down = self.down.ok_or_else(|| partner(self.up.or(self.alpha), "down"))?;
        let up = self.up.ok_or_else(|| partner(self.down, "up"))?;
        check_pair((down, weights.info(down)), (up, weights.info(up)))?;
        let alpha = self.alpha.map(|name| alpha(name, weights)).transpose()?;
        Ok(LoraLayer { module: module.to_owned(), down: down.to_owned(), up: up.to_owned(), alpha: alpha.flatten() })
    }
}

fn check_pair(down: (&str, Option<&TensorInfo>), up: (&str, Option<&TensorInfo>)) -> Result<(), LoraError> {
    let shape = |info: Option<&TensorInfo>| info.map(|info| info.shape.clone()).unwrap_or_default();
    let fault = |name: &str, shape: &[usize], expected: String| {
        Err(LoraError::Shape { name: name.to_owned(), shape: shape.to_vec(), expected })
    };
    let (down_shape, up_shape) = (shape(down.1), shape(up.1));
    if down_shape.contains(&0) {
        return fault(down.0, &down_shape, "sizes above 0".to_owned());
    }
    match (&down_shape[..], &up_shape[..]) {
        (&[rank, _], &[out, up_rank]) if up_rank == rank && out > 0 => Ok(()),
        (&[rank, _, _, _], &[out, up_rank, 1, 1]) if up_rank == rank && out > 0 => Ok(()),
        (&[rank, _], _) => fault(up.0, &up_shape, format!("[out, {rank}] as `{}` has rank {rank}", down.0)),
        (&[rank, _, _, _], _) => fault(up.0, &up_shape, format!("[out, {rank}, 1, 1] as `{}` has rank {rank}", down.0)),
        _ => fault(down.0, &down_shape, "[rank, in] or [rank, in, k, k]".to_owned()),
    }
}

/// A file that says 0 means the rank, as one that says nothing.
fn alpha(name: &str, weights: &Weights) -> Result<Option<f64>, LoraError> {
    let info = weights.info(name).filter(|info| matches!(info.shape[..], [] | [1]));
    let numbers = info.and_then(|info| floats(info.dtype, &weights.data(name)?));
    match numbers.as_deref() {
        Some(&[alpha]) if alpha.is_finite() => Ok(Some(alpha).filter(|&alpha| alpha != 0.0)),
        _ => Err(LoraError::Alpha { name: name.to_owned() }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::error::Error;

    use super::*;
    use crate::{Dtype, TensorBytes, write_safetensors};

    const ATTN: &str = "mid_block.attentions.0.transformer_blocks.0.attn1";

    fn modules() -> Vec<String> {
        let attention = ["to_q", "to_k", "to_v", "to_out.0"].map(|part| format!("{ATTN}.{part}"));
        attention.into_iter().chain(["conv_in".to_owned(), "mid_block.resnets.0.conv1".to_owned()]).collect()
    }

    fn read(tensors: &[(String, &[usize])]) -> Result<Vec<LoraLayer>, FormatError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lora.safetensors");
        let ones = |(name, shape): &(String, &[usize])| TensorBytes {
            name: name.clone(),
            dtype: Dtype::F16,
            shape: shape.to_vec(),
            data: half::f16::from_f32(1.5).to_le_bytes().repeat(shape.iter().product()).into(),
        };
        write_safetensors(&path, tensors.iter().map(ones).collect(), None).unwrap();
        lora_layers(&Weights::open(&path).unwrap(), &modules())
    }

    fn refusal(tensors: &[(String, &[usize])]) -> String {
        read(tensors).unwrap_err().source().unwrap().to_string()
    }

    fn layer(module: &str, down: &str, up: &str, alpha: Option<f64>) -> LoraLayer {
        LoraLayer { module: module.to_owned(), down: down.to_owned(), up: up.to_owned(), alpha }
    }

    #[test]
    fn every_dialect_finds_the_module() {
        let out = format!("{ATTN}.to_out.0");
        let kohya = format!("lora_unet_{}", out.replace('.', "_"));
        for (down, up) in [
            (format!("{kohya}.lora_down.weight"), format!("{kohya}.lora_up.weight")),
            (
                format!("unet.{ATTN}.processor.to_out_lora.down.weight"),
                format!("{ATTN}.processor.to_out_lora.up.weight"),
            ),
            (format!("unet.{out}.lora.down.weight"), format!("unet.{out}.lora.up.weight")),
            (format!("unet.{out}.lora_A.weight"), format!("unet.{out}.lora_B.weight")),
            (format!("base_model.model.{out}.lora_A.weight"), format!("base_model.model.unet.{out}.lora_B.weight")),
            (format!("unet.base_model.model.{out}.lora_A.weight"), format!("{out}.lora_B.weight")),
        ] {
            let found = read(&[(down.clone(), &[2, 8]), (up.clone(), &[6, 2])]).unwrap();
            assert_eq!(found, [layer(&out, &down, &up, None)]);
        }
    }

    #[test]
    fn convolutions_and_scales_are_read() {
        let name = |part: &str| format!("lora_unet_mid_block_resnets_0_conv1.{part}");
        let (down, up) = (name("lora_down.weight"), name("lora_up.weight"));
        let pair: [(String, &[usize]); 2] = [(down.clone(), &[2, 8, 3, 3]), (up.clone(), &[6, 2, 1, 1])];
        for shape in [&[][..], &[1]] {
            let found = read(&[&pair[..], &[(name("alpha"), shape)]].concat()).unwrap();
            assert_eq!(found, [layer("mid_block.resnets.0.conv1", &down, &up, Some(1.5))]);
        }
        assert!(refusal(&[&pair[..], &[(name("alpha"), &[2])]].concat()).contains("conv1.alpha"));
        assert!(refusal(&pair[..1]).contains(&down) && refusal(&pair[1..]).contains(&up));
    }

    #[test]
    fn other_parts_and_methods_are_refused_by_name() {
        for (name, expected) in [
            ("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "text encoder"),
            ("text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight", "text encoder"),
            ("lora_unet_conv_in.dora_scale", "DoRA"),
            ("unet.conv_in.lora_magnitude_vector", "DoRA"),
            ("lora_unet_conv_in.hada_w1_a", "LoHa"),
            ("lora_unet_conv_in.lora_mid.weight", "middle"),
            ("lora_unet_input_blocks_4_1_proj_in.lora_down.weight", "no module"),
            ("unet.conv_out.lora.down.weight", "no module"),
            ("conv_in.weight", "no module"),
        ] {
            let error = refusal(&[(name.to_owned(), &[2, 8])]);
            assert!(error.contains(name) && error.contains(expected), "{error}");
        }
        assert!(refusal(&[]).contains("no tensors"));
    }

    #[test]
    fn factors_that_do_not_fit_are_refused_by_name() {
        let (down, up) = ("unet.conv_in.lora.down.weight", "unet.conv_in.lora.up.weight");
        for (down_shape, up_shape, at_fault) in [
            (&[2, 8][..], &[6, 3][..], up),
            (&[2, 8], &[6, 2, 1, 1], up),
            (&[2, 8, 3, 3], &[6, 2, 3, 3], up),
            (&[2, 8], &[0, 2], up),
            (&[0, 8], &[6, 0], down),
            (&[2], &[6, 2], down),
        ] {
            let error = refusal(&[(down.to_owned(), down_shape), (up.to_owned(), up_shape)]);
            assert!(error.starts_with(&format!("tensor `{at_fault}`")), "{error}");
        }
        let twice = [(down.to_owned(), &[2, 8][..]), ("lora_unet_conv_in.lora_down.weight".to_owned(), &[2, 8])];
        assert!(refusal(&twice).contains("the same factor"));
    }
}
