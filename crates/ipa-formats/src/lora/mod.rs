//! LoRA files: which tensors change which modules of a model.
//!
//! Read are kohya's names (`lora_unet_…`), those of diffusers, old and new, and those of PEFT. Kinds of files that are
//! more than two factors a module are refused; text towers' parts are for conversion alone.

mod alpha;
mod error;
mod names;

use std::collections::BTreeMap;

pub(crate) use alpha::METADATA;
pub use error::LoraError;
pub(crate) use names::{KOHYA, underscored};

use alpha::Settings;
use names::{Parsed, Role, parsed};

use crate::{FormatError, TensorInfo, Weights};

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

/// A model that a LoRA changes.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Tower {
    Unet,
    TextEncoder,
    TextEncoder2,
}

impl Tower {
    /// What diffusers puts before the paths of its modules.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Tower::Unet => "unet",
            Tower::TextEncoder => "text_encoder",
            Tower::TextEncoder2 => "text_encoder_2",
        }
    }
}

/// The modules that may be changed, by every spelling of theirs.
pub(crate) type Spellings = BTreeMap<String, (Tower, String)>;

/// A change with its place.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) tower: Tower,
    pub(crate) layer: LoraLayer,
    pub(crate) rank: usize,
    /// Name in the file of the numerator.
    pub(crate) alpha: Option<String>,
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
    let spelled = |path: &String| {
        let target = (Tower::Unet, path.clone());
        [(path.clone(), target.clone()), (underscored(KOHYA, path), target)]
    };
    let spellings = modules.iter().flat_map(spelled).collect();
    let found = text_refused(weights).and_then(|()| find_layers(weights, &spellings));
    let found =
        found.map_err(|source| FormatError::Lora { path: weights.path().to_owned(), source: Box::new(source) })?;
    Ok(found.into_iter().map(|found| found.layer).collect())
}

fn text_refused(weights: &Weights) -> Result<(), LoraError> {
    match weights.names().find(|name| parsed(name).is_ok_and(|parsed| parsed.is_text)) {
        Some(name) => Err(LoraError::TextEncoder { name: name.to_owned() }),
        None => Ok(()),
    }
}

/// Finds the module of every tensor among those with known spellings; sorted by tower and module.
pub(crate) fn find_layers(weights: &Weights, spellings: &Spellings) -> Result<Vec<Found>, LoraError> {
    let mut by_module = BTreeMap::<&(Tower, String), Names<'_>>::new();
    for name in weights.names() {
        let Parsed { key, role, .. } = parsed(name)?;
        let target = spellings.get(&key).ok_or_else(|| LoraError::Unknown { name: name.to_owned() })?;
        by_module.entry(target).or_default().keep(role, name)?;
    }
    let settings = Settings::read(&weights.metadata())?;
    match by_module.is_empty() {
        true => Err(LoraError::Empty),
        false => by_module.into_iter().map(|(target, names)| names.layer(target, weights, &settings)).collect(),
    }
}

/// Whether a tensor belongs to a module with a known spelling.
pub(crate) fn is_of(name: &str, spellings: &Spellings) -> bool {
    parsed(name).is_ok_and(|parsed| spellings.contains_key(&parsed.key))
}

/// Whether all tensor names are those of a LoRA, in whichever dialect.
pub(crate) fn is_lora(tensors: &BTreeMap<String, TensorInfo>) -> bool {
    !tensors.is_empty() && tensors.keys().all(|name| parsed(name).is_ok())
}

/// Whether most tensor names are those of a LoRA, or of a method that is none: what converting one may refuse by name.
pub fn resembles_lora(tensors: &BTreeMap<String, TensorInfo>) -> bool {
    let alike = tensors.keys().filter(|name| matches!(parsed(name), Ok(_) | Err(LoraError::Method { .. }))).count();
    2 * alike > tensors.len()
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

    fn layer(
        self,
        (tower, module): &(Tower, String),
        weights: &Weights,
        settings: &Settings,
    ) -> Result<Found, LoraError> {
        let partner =
            |name: Option<&str>, missing| LoraError::Partner { name: name.unwrap_or(module).to_owned(), missing };
        let down = self.down.ok_or_else(|| partner(self.up.or(self.alpha), "down"))?;
        let up = self.up.ok_or_else(|| partner(self.down, "up"))?;
        let rank = check_pair((down, weights.info(down)), (up, weights.info(up)))?;
        let alpha = match self.alpha {
            Some(name) => alpha::of_tensor(name, weights)?,
            None => settings.alpha(*tower, module, rank)?,
        };
        let layer = LoraLayer { module: module.clone(), down: down.to_owned(), up: up.to_owned(), alpha };
        Ok(Found { tower: *tower, layer, rank, alpha: self.alpha.map(str::to_owned) })
    }
}

/// The rank of two factors that fit.
fn check_pair(down: (&str, Option<&TensorInfo>), up: (&str, Option<&TensorInfo>)) -> Result<usize, LoraError> {
    let shape = |info: Option<&TensorInfo>| info.map(|info| info.shape.clone()).unwrap_or_default();
    let fault = |name: &str, shape: &[usize], expected: String| {
        Err(LoraError::Shape { name: name.to_owned(), shape: shape.to_vec(), expected })
    };
    let (down_shape, up_shape) = (shape(down.1), shape(up.1));
    if down_shape.contains(&0) {
        return fault(down.0, &down_shape, "sizes above 0".to_owned());
    }
    match (&down_shape[..], &up_shape[..]) {
        (&[rank, _], &[out, up_rank]) if up_rank == rank && out > 0 => Ok(rank),
        (&[rank, _, _, _], &[out, up_rank, 1, 1]) if up_rank == rank && out > 0 => Ok(rank),
        (&[rank, _], _) => fault(up.0, &up_shape, format!("[out, {rank}] as `{}` has rank {rank}", down.0)),
        (&[rank, _, _, _], _) => fault(up.0, &up_shape, format!("[out, {rank}, 1, 1] as `{}` has rank {rank}", down.0)),
        _ => fault(down.0, &down_shape, "[rank, in] or [rank, in, k, k]".to_owned()),
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
