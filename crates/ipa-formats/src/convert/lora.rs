//! LoRA files in kohya's or in diffusers' names.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Conversion, Dropped, kept_texts};
use crate::floats::{floats, number_bytes};
use crate::lora::{Found, KOHYA, METADATA, Spellings, Tower, find_layers, is_of, underscored};
use crate::single_file::ldm_module;
use crate::unet_modules::UnetStructure;
use crate::weights::Made;
use crate::{Dtype, FormatError, TensorInfo, Weights, read_json};

/// More layers than any text tower has.
const MAX_TEXT_LAYERS: usize = 64;
/// Width of the text features of Stable Diffusion XL.
const XL_CONTEXT: usize = 2048;

/// Whose names a LoRA file is written in.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LoraDialect {
    /// `unet.….lora_A.weight`, as diffusers saves them since it uses PEFT. There is no tensor for the scale: where it
    /// is not 1, the second factor is multiplied by it, exactly if it is a power of two.
    Diffusers,
    /// `lora_unet_….lora_down.weight` with an `.alpha` each, as kohya's scripts save them: for Stable Diffusion XL
    /// with LDM's numbers of blocks.
    #[default]
    Kohya,
}

impl LoraDialect {
    /// Name of a factor, `down` or `up`, of a UNet's module under its own path, which readers of either dialect know.
    pub(crate) fn name(self, module: &str, factor: &str) -> String {
        match self {
            Self::Kohya => format!("{}.lora_{factor}.weight", underscored(KOHYA, module)),
            Self::Diffusers => format!("unet.{module}.lora_{}.weight", if factor == "down" { "A" } else { "B" }),
        }
    }
}

/// Plans a LoRA in another dialect; those of kohya and of diffusers, old and new, are read.
///
/// The modules follow from `unet_config`, a `config.json` of a UNet, without one from the published structures of
/// Stable Diffusion 1.x, 2.x and XL. Text encoders' parts are carried over too.
///
/// # Errors
/// [`FormatError::Lora`] naming the tensor that belongs to no module, has no partner or is of another method;
/// [`FormatError::Json`] and [`FormatError::NotConvertible`] for the configuration.
pub fn convert_lora(input: &Path, to: LoraDialect, unet_config: Option<&Path>) -> Result<Conversion, FormatError> {
    let weights = Weights::open(input)?;
    let lora_error = |source| FormatError::Lora { path: input.to_owned(), source: Box::new(source) };
    let structure = match unet_config {
        Some(path) => configured(path)?,
        None => guessed(&weights),
    };
    let found = find_layers(&weights, &spellings(&structure)).map_err(lora_error)?;
    let (mut made, mut dropped) = (BTreeMap::new(), Vec::new());
    for found in found {
        match to {
            LoraDialect::Diffusers => in_diffusers(found, &mut made, &mut dropped),
            LoraDialect::Kohya => in_kohya(found, &structure, &weights, &mut made),
        }
    }
    let mut texts = kept_texts(&weights.metadata());
    ["ss_network_alpha", METADATA].iter().for_each(|scale| drop(texts.remove(*scale))); // they are in the tensors now
    Ok(Conversion::new(weights.renamed(made.into_iter()), dropped, Vec::new()).with_texts(texts))
}

fn configured(path: &Path) -> Result<UnetStructure, FormatError> {
    UnetStructure::of(&read_json(path)?).map_err(|problem| FormatError::NotConvertible {
        path: path.to_owned(),
        problem: format!("{problem}; give the config.json of a UNet of Stable Diffusion 1.x, 2.x or XL"),
    })
}

/// The published structure that fits more of the names; with equals, the text features' width decides.
fn guessed(weights: &Weights) -> UnetStructure {
    let is_wide = |name: &str| {
        name.contains("attn2") && weights.info(name).and_then(|info| info.shape.get(1)) == Some(&XL_CONTEXT)
    };
    let looks_xl =
        weights.names().any(|name| is_wide(name) || name.contains("lora_te2_") || name.contains("text_encoder_2."));
    let fits = |structure: &UnetStructure| {
        let spellings = spellings(structure);
        weights.names().filter(|name| is_of(name, &spellings)).count()
    };
    let (sd, xl) = (UnetStructure::sd(), UnetStructure::sdxl());
    let (fits_sd, fits_xl) = (fits(&sd), fits(&xl));
    if fits_xl > fits_sd || fits_xl == fits_sd && looks_xl { xl } else { sd }
}

/// Every spelling of every module.
fn spellings(structure: &UnetStructure) -> Spellings {
    let mut spellings = Spellings::new();
    for module in structure.modules() {
        let target = (Tower::Unet, module.clone());
        spellings.extend(ldm_spelling(structure, &module).map(|ldm| (ldm, target.clone())));
        spellings.extend([(underscored(KOHYA, &module), target.clone()), (module, target)]);
    }
    let towers = [(Tower::TextEncoder, &["lora_te_", "lora_te1_"][..]), (Tower::TextEncoder2, &["lora_te2_"])];
    for (tower, prefixes) in towers {
        for module in text_modules() {
            let target = (tower, module.clone());
            let dotted = format!("{}.{module}", tower.prefix());
            // transformers has left `text_model` out since its version 5
            spellings.extend([(dotted.replacen(".text_model.", ".", 1), target.clone()), (dotted, target.clone())]);
            spellings.extend(prefixes.iter().map(|prefix| (underscored(prefix, &module), target.clone())));
        }
    }
    spellings
}

fn text_modules() -> impl Iterator<Item = String> {
    let parts =
        ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2"];
    let layer = move |layer| parts.map(|part| format!("text_model.encoder.layers.{layer}.{part}"));
    (0..MAX_TEXT_LAYERS).flat_map(layer).chain(["text_projection".to_owned()])
}

/// Kohya's name of a module with LDM's numbers, which its scripts use for Stable Diffusion XL.
fn ldm_spelling(structure: &UnetStructure, module: &str) -> Option<String> {
    let ldm = ldm_module(module, structure.layers()?, |level| structure.up_attends(level))?;
    Some(underscored(KOHYA, &ldm))
}

fn in_diffusers(found: Found, made: &mut BTreeMap<String, Made>, dropped: &mut Vec<Dropped>) {
    let Found { tower, layer, rank, alpha } = found;
    let module = format!("{}.{}", tower.prefix(), layer.module);
    let factor = layer.alpha.map_or(1.0, |alpha| alpha / rank as f64);
    let up = match (factor == 1.0, alpha) {
        (false, alpha) => Made::Scaled(layer.up, factor, alpha),
        (true, alpha) => {
            let dropped_alpha =
                |name| Dropped { name, reason: "says no more than the rank, which is taken without it".into() };
            dropped.extend(alpha.map(dropped_alpha));
            Made::Moved(layer.up)
        }
    };
    made.insert(format!("{module}.lora_A.weight"), Made::Moved(layer.down));
    made.insert(format!("{module}.lora_B.weight"), up);
}

fn in_kohya(found: Found, structure: &UnetStructure, weights: &Weights, made: &mut BTreeMap<String, Made>) {
    let Found { tower, layer, rank, alpha } = found;
    let module = match tower {
        Tower::Unet => ldm_spelling(structure, &layer.module)
            .filter(|_| structure.is_xl())
            .unwrap_or_else(|| underscored(KOHYA, &layer.module)),
        Tower::TextEncoder if structure.is_xl() => underscored("lora_te1_", &layer.module),
        Tower::TextEncoder => underscored("lora_te_", &layer.module),
        Tower::TextEncoder2 => underscored("lora_te2_", &layer.module),
    };
    let alpha = match (layer.alpha, alpha) {
        (Some(_), Some(name)) => Made::Moved(name),
        (alpha, _) => number(alpha.unwrap_or(rank as f64), weights.info(&layer.down).map(|info| info.dtype)),
    };
    let names = ["lora_down.weight", "lora_up.weight", "alpha"].map(|part| format!("{module}.{part}"));
    for (name, tensor) in names.into_iter().zip([Made::Moved(layer.down), Made::Moved(layer.up), alpha]) {
        made.insert(name, tensor);
    }
}

/// One number, of the element type that the factors have if that can say it.
fn number(number: f64, wanted: Option<Dtype>) -> Made {
    let exact = |dtype: &Dtype| {
        let bytes = number_bytes(*dtype, number);
        floats(*dtype, &bytes).is_some_and(|read| read == [number])
    };
    let dtype = wanted.filter(|dtype| dtype.is_float()).filter(exact).unwrap_or(Dtype::F32);
    Made::Given(TensorInfo { dtype, shape: Vec::new() }, number_bytes(dtype, number))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn no_two_modules_have_a_spelling_in_common() {
        for structure in [UnetStructure::sd(), UnetStructure::sdxl()] {
            let (unet, text) = (structure.modules().len(), text_modules().count());
            // Three of each module of the UNet; of the text towers those with and without `text_model`, which the
            // projection has neither of, and two and one of kohya's.
            assert_eq!(spellings(&structure).len(), 3 * unet + 2 * (2 * text - 1) + 3 * text);
        }
    }

    /// The table of kohya's own SDXL files: LDM's blocks, whose level 0 has no attention.
    #[test]
    fn kohyas_names_for_xl_have_ldms_numbers() {
        let structure = UnetStructure::sdxl();
        for (module, ldm) in [
            ("conv_in", "input_blocks_0_0"),
            ("time_embedding.linear_2", "time_embed_2"),
            ("add_embedding.linear_1", "label_emb_0_0"),
            ("down_blocks.0.resnets.1.time_emb_proj", "input_blocks_2_0_emb_layers_1"),
            ("down_blocks.0.downsamplers.0.conv", "input_blocks_3_0_op"),
            (
                "down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k",
                "input_blocks_4_1_transformer_blocks_1_attn2_to_k",
            ),
            ("mid_block.attentions.0.proj_in", "middle_block_1_proj_in"),
            ("mid_block.resnets.1.conv2", "middle_block_2_out_layers_3"),
            ("up_blocks.0.upsamplers.0.conv", "output_blocks_2_2_conv"),
            ("up_blocks.2.resnets.2.conv_shortcut", "output_blocks_8_0_skip_connection"),
            ("conv_out", "out_2"),
        ] {
            assert_eq!(ldm_spelling(&structure, module), Some(format!("lora_unet_{ldm}")));
        }
    }
}
