//! Adapter tensors under the names of the UNet's attention processors.

use super::layers::numbered;

/// Place of a transformer block, ordered as the reference registers them: down, up, middle.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct BlockPlace {
    section: Section,
    block: usize,
    attention: usize,
    transformer: usize,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Section {
    Down,
    Up,
    Mid,
}

/// An adapter's tensor in an attention processor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct ProcessorTensor<'a> {
    pub(super) place: BlockPlace,
    /// Whether the attention is to the text, not to the image itself.
    pub(super) cross: bool,
    /// Number of the adapter in a UNet with several, where there is one.
    pub(super) adapter: Option<usize>,
    /// `to_k_ip` or `to_q_lora.down`.
    pub(super) matrix: &'a str,
    /// The rest, `.weight`.
    pub(super) suffix: &'a str,
}

/// Reads `up_blocks.1.attentions.0.transformer_blocks.0.attn2.processor.to_k_ip.0.weight`.
pub(super) fn processor_tensor(name: &str) -> Option<ProcessorTensor<'_>> {
    let (path, tensor) = name.split_once(".processor.")?;
    let (section, path) = match path.strip_prefix("mid_block.") {
        Some(rest) => ((Section::Mid, 0), rest),
        None => blocks(path, "down_blocks.", Section::Down).or_else(|| blocks(path, "up_blocks.", Section::Up))?,
    };
    let (attention, path) = numbered(path.strip_prefix("attentions.")?)?;
    let (transformer, layer) = numbered(path.strip_prefix("transformer_blocks.")?)?;
    let cross = match layer {
        "attn1" => false,
        "attn2" => true,
        _ => return None,
    };
    let (matrix, suffix) = tensor.rsplit_once('.')?;
    let (matrix, adapter) = match matrix.rsplit_once('.') {
        Some((matrix, digits)) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            (matrix, Some(digits.parse().ok()?))
        }
        _ => (matrix, None),
    };
    let place = BlockPlace { section: section.0, block: section.1, attention, transformer };
    Some(ProcessorTensor { place, cross, adapter, matrix, suffix })
}

fn blocks<'a>(path: &'a str, prefix: &str, section: Section) -> Option<((Section, usize), &'a str)> {
    let (block, rest) = numbered(path.strip_prefix(prefix)?)?;
    Some(((section, block), rest))
}
