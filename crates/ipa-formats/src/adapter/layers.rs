//! The tensors of an adapter in the UNet's attention layers, and those beside them.

use std::collections::BTreeSet;

use super::AdapterError;
use super::kind::BaseModel;
use super::schema::{Dim, Size, Sizes, Slot, Tensors};

/// Prefix of the tensors in the attention layers.
pub(super) const ATTENTION: &str = "ip_adapter.";
/// Prefix of the layer in which tokens attend to the text first.
pub(super) const PREFUSION: &str = "prefusion.";
/// Attention layers, self and cross, that a file may number; SDXL has 140.
const MAX_LAYERS: usize = 1024;

/// The number before the first dot, and what follows: `7.to_k_ip.weight`.
pub(super) fn numbered(name: &str) -> Option<(usize, &str)> {
    let (digits, rest) = name.split_once('.')?;
    let number = digits.parse().ok().filter(|number: &usize| *number < MAX_LAYERS && number.to_string() == digits)?;
    Some((number, rest))
}

/// Whether this is a layer's key or value matrix for the tokens.
pub(super) fn is_key_or_value(rest: &str) -> bool {
    matches!(rest, "to_k_ip.weight" | "to_v_ip.weight")
}

/// Numbers of the layers with keys and values, for names without prefix.
pub(super) fn layer_numbers<'a>(names: impl Iterator<Item = &'a str>) -> BTreeSet<usize> {
    names.filter_map(numbered).filter(|(_, rest)| is_key_or_value(rest)).map(|(number, _)| number).collect()
}

/// Counts the cross-attention layers, which must be numbered 1, 3, 5, ….
pub(super) fn count_layers(tensors: &Tensors) -> Result<usize, AdapterError> {
    let numbers = layer_numbers(tensors.keys().filter_map(|name| name.strip_prefix(ATTENTION)));
    if numbers.is_empty() {
        return Err(AdapterError::Missing { name: format!("{ATTENTION}1.to_k_ip.weight") });
    }
    match numbers.iter().copied().eq((0..numbers.len()).map(|layer| 2 * layer + 1)) {
        true => Ok(numbers.len()),
        false => Err(AdapterError::Numbering { numbers: numbers.into_iter().collect() }),
    }
}

/// How many cross-attention layers the adapter has that these tensors are left of: those of a published UNet where they
/// may be, otherwise as many as are numbered.
pub(super) fn likely_layers(tensors: &Tensors) -> usize {
    let rests = || tensors.keys().filter_map(|name| name.strip_prefix(ATTENTION));
    let highest = rests().filter_map(numbered).map(|(number, _)| number / 2 + 1).max().unwrap_or_default();
    let keys = tensors.iter().find(|(name, _)| name.ends_with("_ip.weight"));
    let norm = tensors.iter().find(|(name, _)| name.ends_with("norm.weight") || name.ends_with("norm_out.weight"));
    let context = keys.or(norm).and_then(|(_, info)| info.shape.last().copied());
    let published = [16, 70].into_iter().filter(|&num_layers| base_of(num_layers, context) != BaseModel::Other);
    published.filter(|&num_layers| num_layers >= highest).min().unwrap_or(highest.max(1))
}

/// Keys and values of every layer.
pub(super) fn keys_and_values(num_layers: usize) -> Vec<Slot> {
    let of = |layer: usize| {
        let dims = [Dim::Of(Size::Hidden(layer)), Dim::Of(Size::Context)];
        ["to_k_ip", "to_v_ip"].map(|part| Slot::new(format!("{ATTENTION}{}.{part}.weight", 2 * layer + 1), &dims))
    };
    (0..num_layers).flat_map(of).collect()
}

/// LoRA of every attention layer, self and cross.
pub(super) fn lora(num_layers: usize) -> Vec<Slot> {
    let of = |number: usize| {
        ["q", "k", "v", "out"].into_iter().flat_map(move |part| {
            let hidden = Dim::Of(Size::Hidden(number / 2));
            let input = if number % 2 == 1 && matches!(part, "k" | "v") { Dim::Of(Size::Context) } else { hidden };
            let name = |side: &str| format!("{ATTENTION}{number}.to_{part}_lora.{side}.weight");
            let rank = Dim::Of(Size::Rank);
            [Slot::new(name("down"), &[rank, input]), Slot::new(name("up"), &[hidden, rank])]
        })
    };
    (0..2 * num_layers).flat_map(of).collect()
}

/// The layer in which tokens attend to the text before they reach the UNet.
pub(super) fn prefusion() -> Vec<Slot> {
    let width = Dim::Of(Size::Context);
    let slot = |name: &str, dims: &[Dim]| Slot::new(format!("{PREFUSION}{name}"), dims);
    let norm = ["norm.weight", "norm.bias"].map(|name| slot(name, &[width]));
    let linear = ["to_q", "to_k", "to_v", "to_out"].map(|name| slot(&format!("{name}.weight"), &[width, width]));
    norm.into_iter().chain(linear).collect()
}

/// Whether tensors that come all or none are there: of a few the rest would be missing, of many they would be foreign.
pub(super) fn mostly_there(slots: &[Slot], tensors: &Tensors) -> bool {
    let there = slots.iter().filter(|slot| tensors.contains_key(&slot.name)).count();
    there > 0 && 2 * there >= slots.len()
}

/// The family of UNets with these layers.
pub(super) fn base_of(num_layers: usize, context: Option<usize>) -> BaseModel {
    context.map_or(BaseModel::Other, |context| BaseModel::of(num_layers, context))
}

/// Sets the widths of a known family's layers.
pub(super) fn set_widths(base: BaseModel, sizes: &mut Sizes) {
    let runs: &[(usize, usize)] = match base {
        BaseModel::Sd15 => &[(2, 320), (2, 640), (5, 1280), (3, 640), (3, 320), (1, 1280)],
        BaseModel::Sdxl => &[(4, 640), (20, 1280), (30, 1280), (6, 640), (10, 1280)],
        BaseModel::Other => &[],
    };
    let widths = runs.iter().flat_map(|&(layers, width)| std::iter::repeat_n(width, layers));
    widths.enumerate().for_each(|(layer, width)| sizes.set(Size::Hidden(layer), width));
}
