//! The names that LoRA files give their tensors: whose module, and what for.

use super::LoraError;

/// Prefix of kohya's names for the UNet, in which underscores stand for the dots of a module's path.
pub(crate) const KOHYA: &str = "lora_unet_";
/// What comes before a module's path in the other dialects, in this order.
const PREFIXES: [&str; 4] = ["base_model.model.", "unet.", "base_model.model.", "module."];
const TEXT_TOWERS: [&str; 2] = ["lora_te", "text_encoder"];
const ENDINGS: [(&str, Role); 9] = [
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    (".lora.down.weight", Role::Down),
    (".lora.up.weight", Role::Up),
    (".lora_linear_layer.down.weight", Role::Down),
    (".lora_linear_layer.up.weight", Role::Up),
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".alpha", Role::Alpha),
];

/// What a tensor is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Role {
    Down,
    Up,
    Alpha,
}

/// A tensor's name taken apart.
#[derive(Debug)]
pub(super) struct Parsed {
    /// The module in kohya's spelling, prefix included, or with dots, behind `text_encoder.` if it is a text tower's.
    pub(super) key: String,
    pub(super) role: Role,
    pub(super) is_text: bool,
}

/// Takes a name of any dialect apart.
pub(super) fn parsed(name: &str) -> Result<Parsed, LoraError> {
    let bare = PREFIXES.iter().fold(name, |name, prefix| name.strip_prefix(prefix).unwrap_or(name));
    let is_text = TEXT_TOWERS.iter().any(|tower| bare.starts_with(tower));
    if let Some(method) = other_method(bare) {
        return Err(LoraError::Method { name: name.to_owned(), method });
    }
    let plain = ENDINGS.iter().find_map(|&(ending, role)| Some((bare.strip_suffix(ending)?.to_owned(), role)));
    let found = plain.or_else(|| if is_text { text_attention(bare) } else { processor(bare) });
    let (key, role) = found.ok_or_else(|| LoraError::Unknown { name: name.to_owned() })?;
    Ok(Parsed { key, role, is_text })
}

/// A module's path as kohya spells it.
pub(crate) fn underscored(prefix: &str, path: &str) -> String {
    format!("{prefix}{}", path.replace('.', "_"))
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
    Some((format!("{attention}.{matrix}"), side_of(side)?))
}

/// Reads `….self_attn.to_q_lora.down.weight`, whose module is `….self_attn.q_proj`.
fn text_attention(name: &str) -> Option<(String, Role)> {
    let (attention, rest) = name.split_once(".self_attn.to_")?;
    let (matrix, side) = rest.split_once("_lora.")?;
    let known = matches!(matrix, "q" | "k" | "v" | "out");
    Some((format!("{attention}.self_attn.{matrix}_proj"), side_of(side)?)).filter(|_| known)
}

fn side_of(side: &str) -> Option<Role> {
    match side {
        "down.weight" => Some(Role::Down),
        "up.weight" => Some(Role::Up),
        _ => None,
    }
}
