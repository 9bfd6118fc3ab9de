//! Names of the text towers: CLIP's as transformers has it, and OpenCLIP's.
//!
//! Source: diffusers' `loaders/single_file_utils.py`, `convert_ldm_clip_checkpoint` and
//! `convert_open_clip_checkpoint`.

use super::names::{moved, moved_back, number};
use super::plan::Operation;

/// The layer of a published OpenCLIP ViT-H tower behind the last that Stable Diffusion 2.x reads.
/// Diffusers leaves it out by its name, so towers of other depths stay whole here as there.
pub(super) const UNREAD_LAYER: usize = 23;

/// OpenCLIP's name first.
const ONCE: [(&str, &str); 4] = [
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
    ("ln_final.weight", "text_model.final_layer_norm.weight"),
    ("ln_final.bias", "text_model.final_layer_norm.bias"),
];
const LAYER: [(&str, &str); 5] = [
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
    ("attn.out_proj", "self_attn.out_proj"),
];
/// Query, key and value, whose rows OpenCLIP keeps in one tensor.
const THIRDS: [&str; 3] = ["q_proj", "k_proj", "v_proj"];
const FUSED: [(&str, &str); 2] = [("attn.in_proj_weight", "weight"), ("attn.in_proj_bias", "bias")];
const PROJECTION: (&str, &str) = ("text_projection", "text_projection.weight");

/// Parts of a text tower under `text_model.`.
const TOWER: [&str; 3] = ["embeddings.", "encoder.", "final_layer_norm."];

/// What a tensor of the source layout is.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Found {
    /// Tensors to be made of it, with the operation for each.
    Makes(Vec<(String, Operation)>),
    /// Known, and not read by Stable Diffusion.
    Unread,
    /// Not part of a text tower.
    Unknown,
}

impl Found {
    fn one(name: String, operation: Operation) -> Self {
        Found::Makes(vec![(name, operation)])
    }
}

/// Transformers' name of a tensor of a CLIP tower, whose names have `text_model.` before them if it is `nested`.
pub(super) fn from_clip(name: &str, nested: bool, whole: bool) -> Found {
    let inner = name.strip_prefix("text_model.");
    if inner.unwrap_or(name) == "embeddings.position_ids" {
        return Found::Unread;
    }
    if name == PROJECTION.1 {
        return if whole { Found::one(name.to_owned(), Operation::AsIs) } else { Found::Unread };
    }
    let inner = if nested { inner } else { Some(name) };
    match inner.filter(|inner| TOWER.iter().any(|part| inner.starts_with(part))) {
        Some(inner) => Found::one(format!("text_model.{inner}"), Operation::AsIs),
        None => Found::Unknown,
    }
}

/// Transformers' names of a tensor of an OpenCLIP tower; `whole` keeps what Stable Diffusion does not read.
pub(super) fn from_open_clip(name: &str, whole: bool) -> Found {
    if let Some((_, transformers)) = ONCE.iter().find(|(open_clip, _)| *open_clip == name) {
        return Found::one((*transformers).to_owned(), Operation::AsIs);
    }
    if name == PROJECTION.0 {
        return if whole { Found::one(PROJECTION.1.to_owned(), Operation::Transpose) } else { Found::Unread };
    }
    if matches!(name, "logit_scale" | "attn_mask") || name.starts_with("visual.") {
        return Found::Unread;
    }
    let Some((layer, rest)) = name.strip_prefix("transformer.resblocks.").and_then(number) else {
        return Found::Unknown;
    };
    let target = |part: &str| format!("text_model.encoder.layers.{layer}.{part}");
    let makes = if let Some((_, kind)) = FUSED.iter().find(|(fused, _)| *fused == rest) {
        let third = |(third, part)| (target(&format!("self_attn.{part}.{kind}")), Operation::Third(third));
        Found::Makes(THIRDS.into_iter().enumerate().map(third).collect())
    } else {
        moved(rest, &LAYER).map_or(Found::Unknown, |part| Found::one(target(&part), Operation::AsIs))
    };
    match makes {
        Found::Makes(_) if layer == UNREAD_LAYER && !whole => Found::Unread,
        makes => makes,
    }
}

/// What a tensor of a transformers folder becomes in a single file.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Written {
    /// The tensor of this name, of these sources in the folder.
    As(String, Vec<String>, Operation),
    /// Made together with another or of no use to anyone.
    Elsewhere,
    /// No text tower has such a tensor.
    NoPlace,
}

/// For towers that stay as they are; puts `text_model.` before names that lack it.
pub(super) fn to_clip(name: &str) -> Written {
    let inner = name.strip_prefix("text_model.").unwrap_or(name);
    let written = |target: String| Written::As(target, vec![name.to_owned()], Operation::AsIs);
    match inner {
        "embeddings.position_ids" => Written::Elsewhere,
        _ if name == PROJECTION.1 => written(name.to_owned()),
        _ if TOWER.iter().any(|part| inner.starts_with(part)) => written(format!("text_model.{inner}")),
        _ => Written::NoPlace,
    }
}

/// For towers that become OpenCLIP's; the query's tensors bring those of key and value along.
pub(super) fn to_open_clip(name: &str) -> Written {
    let inner = name.strip_prefix("text_model.").unwrap_or(name);
    let prefix = &name[..name.len() - inner.len()];
    let written = |target: &str, operation| Written::As(target.to_owned(), vec![name.to_owned()], operation);
    if inner == "embeddings.position_ids" {
        return Written::Elsewhere;
    }
    if name == PROJECTION.1 {
        return written(PROJECTION.0, Operation::Transpose);
    }
    let once = ONCE.iter().find(|(_, own)| own.strip_prefix("text_model.") == Some(inner));
    if let Some((open_clip, _)) = once {
        return written(open_clip, Operation::AsIs);
    }
    let Some((layer, rest)) = inner.strip_prefix("encoder.layers.").and_then(number) else {
        return Written::NoPlace;
    };
    let block = format!("transformer.resblocks.{layer}");
    if let Some(part) = moved_back(rest, &LAYER) {
        return written(&format!("{block}.{part}"), Operation::AsIs);
    }
    let Some((part, kind)) = rest.strip_prefix("self_attn.").and_then(|rest| rest.split_once('.')) else {
        return Written::NoPlace;
    };
    match (THIRDS.iter().position(|third| *third == part), FUSED.iter().find(|(_, own)| *own == kind)) {
        (Some(0), Some((fused, _))) => {
            let third = |third| format!("{prefix}encoder.layers.{layer}.self_attn.{third}.{kind}");
            let sources = THIRDS.iter().map(third).collect();
            Written::As(format!("{block}.{fused}"), sources, Operation::Concatenate)
        }
        (Some(_), Some(_)) => Written::Elsewhere,
        _ => Written::NoPlace,
    }
}

/// Name of the query's tensor beside a key's or value's, without which these would be left behind.
pub(super) fn query_of(name: &str) -> String {
    name.replace(".self_attn.k_proj.", ".self_attn.q_proj.").replace(".self_attn.v_proj.", ".self_attn.q_proj.")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: &str = "transformer.resblocks.4";
    const LAYER_4: &str = "text_model.encoder.layers.4";

    #[test]
    fn open_clip_names_go_both_ways() {
        let pairs = [
            ("positional_embedding".to_owned(), "text_model.embeddings.position_embedding.weight".to_owned()),
            ("ln_final.bias".to_owned(), "text_model.final_layer_norm.bias".to_owned()),
            (format!("{BLOCK}.ln_2.weight"), format!("{LAYER_4}.layer_norm2.weight")),
            (format!("{BLOCK}.mlp.c_proj.bias"), format!("{LAYER_4}.mlp.fc2.bias")),
            (format!("{BLOCK}.attn.out_proj.weight"), format!("{LAYER_4}.self_attn.out_proj.weight")),
        ];
        for (open_clip, own) in pairs {
            assert_eq!(from_open_clip(&open_clip, false), Found::one(own.clone(), Operation::AsIs));
            assert_eq!(to_open_clip(&own), Written::As(open_clip, vec![own], Operation::AsIs));
        }
    }

    #[test]
    fn query_key_and_value_are_thirds_of_one_tensor() {
        let thirds = ["q", "k", "v"].map(|part| format!("{LAYER_4}.self_attn.{part}_proj.bias"));
        let makes = thirds.iter().cloned().enumerate().map(|(third, name)| (name, Operation::Third(third)));
        let fused = format!("{BLOCK}.attn.in_proj_bias");
        assert_eq!(from_open_clip(&fused, false), Found::Makes(makes.collect()));
        assert_eq!(to_open_clip(&thirds[0]), Written::As(fused, thirds.to_vec(), Operation::Concatenate));
        assert_eq!(to_open_clip(&thirds[2]), Written::Elsewhere);
        assert_eq!([query_of(&thirds[1]), query_of(&thirds[2])], [thirds[0].clone(), thirds[0].clone()]);
    }

    #[test]
    fn what_stable_diffusion_does_not_read_is_kept_on_request() {
        for name in ["text_projection", "transformer.resblocks.23.ln_1.weight"] {
            assert_eq!(from_open_clip(name, false), Found::Unread, "{name}");
            assert!(matches!(from_open_clip(name, true), Found::Makes(_)), "{name}");
        }
        assert!(matches!(from_open_clip("transformer.resblocks.22.ln_1.weight", false), Found::Makes(_)));
        assert!(matches!(from_open_clip("transformer.resblocks.24.ln_1.weight", false), Found::Makes(_)));
        let transposed = from_open_clip("text_projection", true);
        assert_eq!(transposed, Found::one("text_projection.weight".into(), Operation::Transpose));
        assert!(matches!(to_open_clip("text_projection.weight"), Written::As(_, _, Operation::Transpose)));
        assert_eq!(from_clip("text_projection.weight", true, false), Found::Unread);
        assert!(matches!(from_clip("text_projection.weight", true, true), Found::Makes(_)));
    }

    #[test]
    fn clip_names_may_lack_their_prefix() {
        let own = "text_model.encoder.layers.0.mlp.fc1.bias";
        for (name, nested) in [(own, true), ("encoder.layers.0.mlp.fc1.bias", false)] {
            assert_eq!(from_clip(name, nested, false), Found::one(own.to_owned(), Operation::AsIs));
            assert_eq!(from_clip(name, !nested, false), Found::Unknown);
            assert_eq!(to_clip(name), Written::As(own.to_owned(), vec![name.to_owned()], Operation::AsIs));
            assert!(
                matches!(to_open_clip(name), Written::As(target, _, _) if target == "transformer.resblocks.0.mlp.c_fc.bias")
            );
        }
        assert_eq!(from_clip("embeddings.position_ids", true, false), Found::Unread);
        assert_eq!(from_clip("text_model.embeddings.position_ids", true, false), Found::Unread);
        assert_eq!(to_clip("text_model.embeddings.position_ids"), Written::Elsewhere);
    }

    #[test]
    fn other_names_are_not_guessed_at() {
        for name in ["", "transformer.resblocks.x.ln_1.weight", "transformer.resblocks.0.attn.in_proj", "ln_pre.weight"]
        {
            assert_eq!(from_open_clip(name, true), Found::Unknown, "{name}");
        }
        assert_eq!(from_clip("vision_model.pre_layrnorm.bias", false, true), Found::Unknown);
        for name in ["vision_model.a.b", "encoder.layers.0.self_attn.q_proj.scale", "encoder.layers.0.self_attn.x"] {
            assert_eq!(to_open_clip(name), Written::NoPlace, "{name}");
        }
    }
}
