//! Adapter tensors under the names of the UNet's attention layers.

use std::fmt;

use super::layers::numbered;

/// Place of a transformer block, ordered as the reference registers them: down, up, middle.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct BlockPlace {
    pub(super) section: Section,
    pub(super) block: usize,
    pub(super) attention: usize,
    pub(super) transformer: usize,
}

/// Part of a UNet.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Section {
    Down,
    Up,
    Mid,
}

/// An adapter's tensor in an attention layer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct ProcessorTensor<'a> {
    pub(super) place: BlockPlace,
    /// Whether the attention is to the text, not to the image itself.
    pub(super) cross: bool,
    /// Number of the adapter in a UNet with several, where there is one.
    pub(super) adapter: Option<usize>,
    /// `to_k_ip` or `to_q_lora.down`.
    pub(super) matrix: &'a str,
    /// The rest, `weight`.
    pub(super) suffix: &'a str,
}

/// A LoRA's matrices as diffusers keeps them in the layers that they change, and as processors call them.
const LAYER_LORA: [(&str, &str); 8] = [
    ("to_q.lora_A", "to_q_lora.down"),
    ("to_q.lora_B", "to_q_lora.up"),
    ("to_k.lora_A", "to_k_lora.down"),
    ("to_k.lora_B", "to_k_lora.up"),
    ("to_v.lora_A", "to_v_lora.down"),
    ("to_v.lora_B", "to_v_lora.up"),
    ("to_out.0.lora_A", "to_out_lora.down"),
    ("to_out.0.lora_B", "to_out_lora.up"),
];
/// What diffusers calls the LoRA of the adapter with the number that follows.
const LAYER_LORA_NAME: &str = "faceid_";

impl fmt::Display for BlockPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { section, block, attention, transformer } = self;
        match section {
            Section::Down => write!(f, "down_blocks.{block}")?,
            Section::Up => write!(f, "up_blocks.{block}")?,
            Section::Mid => write!(f, "mid_block")?,
        }
        write!(f, ".attentions.{attention}.transformer_blocks.{transformer}")
    }
}

/// The transformer block that a name of a UNet's tensor lies in, whether it is of its cross-attention, and the rest.
pub(super) fn attention_layer(name: &str) -> Option<(BlockPlace, bool, &str)> {
    let ((section, block), path) = match name.strip_prefix("mid_block.") {
        Some(rest) => ((Section::Mid, 0), rest),
        None => blocks(name, "down_blocks.", Section::Down).or_else(|| blocks(name, "up_blocks.", Section::Up))?,
    };
    let (attention, path) = numbered(path.strip_prefix("attentions.")?)?;
    let (transformer, layer) = numbered(path.strip_prefix("transformer_blocks.")?)?;
    let (layer, rest) = layer.split_once('.')?;
    let cross = match layer {
        "attn1" => false,
        "attn2" => true,
        _ => return None,
    };
    Some((BlockPlace { section, block, attention, transformer }, cross, rest))
}

/// Reads `up_blocks.1.attentions.0.transformer_blocks.0.attn2.processor.to_k_ip.0.weight`, and of a LoRA in diffusers'
/// layers `….attn1.to_q.lora_A.faceid_0.weight`.
pub(super) fn processor_tensor(name: &str) -> Option<ProcessorTensor<'_>> {
    let (place, cross, tensor) = attention_layer(name)?;
    let Some(tensor) = tensor.strip_prefix("processor.") else {
        let (matrix, adapter) = layer_lora(tensor)?;
        return Some(ProcessorTensor { place, cross, adapter: Some(adapter), matrix, suffix: "weight" });
    };
    let (matrix, suffix) = tensor.rsplit_once('.')?;
    let (matrix, adapter) = match matrix.rsplit_once('.') {
        Some((matrix, digits)) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            (matrix, Some(digits.parse().ok()?))
        }
        _ => (matrix, None),
    };
    Some(ProcessorTensor { place, cross, adapter, matrix, suffix })
}

/// As diffusers keeps a matrix of the first adapter's in a layer; `rest` as in `to_k_ip.weight`.
pub(super) fn in_diffusers(rest: &str) -> Option<String> {
    let matrix = rest.strip_suffix(".weight")?;
    if matches!(matrix, "to_k_ip" | "to_v_ip") {
        return Some(format!("processor.{matrix}.0.weight"));
    }
    let (layer, _) = LAYER_LORA.iter().find(|(_, processor)| *processor == matrix)?;
    Some(format!("{layer}.{LAYER_LORA_NAME}0.weight"))
}

fn layer_lora(tensor: &str) -> Option<(&'static str, usize)> {
    let (matrix, rest) = LAYER_LORA.iter().find_map(|(layer, matrix)| Some((*matrix, tensor.strip_prefix(layer)?)))?;
    let adapter = rest.strip_prefix('.')?.strip_suffix(".weight")?.strip_prefix(LAYER_LORA_NAME)?;
    Some((matrix, adapter.parse().ok()?))
}

fn blocks<'a>(path: &'a str, prefix: &str, section: Section) -> Option<((Section, usize), &'a str)> {
    let (block, rest) = numbered(path.strip_prefix(prefix)?)?;
    Some(((section, block), rest))
}
