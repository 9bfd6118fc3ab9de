//! Names of the UNet: LDM's numbered blocks and diffusers' levels.
//!
//! Source: diffusers' `loaders/single_file_utils.py`, `convert_ldm_unet_checkpoint`. LDM numbers the
//! layers of both halves through, a level being `layers` residual blocks and one resampling (down) or
//! `layers + 1` residual blocks, the last with a resampling (up).

use super::names::{moved, moved_back, number, within};

/// Parts of a residual block, LDM's name first.
const RESNET: [(&str, &str); 6] = [
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
];
/// What stands once in a UNet.
const ONCE: [(&str, &str); 5] = [
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("input_blocks.0.0", "conv_in"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
];
const MIDDLE: [(&str, &str); 3] = [
    ("middle_block.0", "mid_block.resnets.0"),
    ("middle_block.1", "mid_block.attentions.0"),
    ("middle_block.2", "mid_block.resnets.1"),
];
/// Parts of an attention layer, named alike in both layouts.
const ATTENTION: [&str; 4] = ["norm.", "proj_in.", "proj_out.", "transformer_blocks."];

/// Diffusers' name of LDM's, without prefixes; `None` if LDM's UNets have no such tensor.
pub(super) fn diffusers_name(name: &str, layers: usize) -> Option<String> {
    if let Some(name) = moved(name, &ONCE) {
        return Some(name);
    }
    if let Some((ldm, diffusers)) = MIDDLE.iter().find(|(ldm, _)| within(name, ldm).is_some()) {
        return block_part(diffusers, within(name, ldm)?);
    }
    let (half, rest) = name.split_once('.')?;
    let (index, rest) = number(rest)?;
    let (place, rest) = number(rest)?;
    match half {
        "input_blocks" => {
            let index = index.checked_sub(1)?;
            let (level, layer) = (index / (layers + 1), index % (layers + 1));
            match place {
                0 if rest.starts_with("op.") => {
                    let rest = within(rest, "op").filter(|_| layer == layers)?;
                    Some(format!("down_blocks.{level}.downsamplers.0.conv.{rest}"))
                }
                0 => block_part(&format!("down_blocks.{level}.resnets.{layer}"), rest),
                1 => block_part(&format!("down_blocks.{level}.attentions.{layer}"), rest),
                _ => None,
            }
        }
        "output_blocks" => {
            let (level, layer) = (index / (layers + 1), index % (layers + 1));
            match place {
                0 => block_part(&format!("up_blocks.{level}.resnets.{layer}"), rest),
                1 | 2 if rest.starts_with("conv.") => {
                    let rest = within(rest, "conv").filter(|_| layer == layers)?;
                    Some(format!("up_blocks.{level}.upsamplers.0.conv.{rest}"))
                }
                1 => block_part(&format!("up_blocks.{level}.attentions.{layer}"), rest),
                _ => None,
            }
        }
        _ => None,
    }
}

/// A tensor of the residual block or attention layer that diffusers calls `block`.
fn block_part(block: &str, rest: &str) -> Option<String> {
    let rest = match block.contains(".resnets.") {
        true => moved(rest, &RESNET)?,
        false => attention_part(rest)?.to_owned(),
    };
    Some(format!("{block}.{rest}"))
}

/// LDM's name of diffusers', without prefixes. `attends` tells whether a level of the upward half has
/// attention, behind which LDM puts the upsampler.
pub(super) fn ldm_name(name: &str, layers: usize, attends: impl Fn(usize) -> bool) -> Option<String> {
    if let Some(name) = moved_back(name, &ONCE) {
        return Some(name);
    }
    if let Some((ldm, diffusers)) = MIDDLE.iter().find(|(_, diffusers)| within(name, diffusers).is_some()) {
        let rest = within(name, diffusers)?;
        return ldm_part(ldm, diffusers.contains(".resnets."), rest);
    }
    let (half, rest) = name.split_once('.')?;
    let (level, rest) = number(rest)?;
    let (kind, rest) = rest.split_once('.')?;
    let (layer, rest) = number(rest)?;
    let first = level * (layers + 1);
    match (half, kind) {
        ("down_blocks", "downsamplers") if layer == 0 => {
            Some(format!("input_blocks.{}.0.op.{}", first + layers + 1, within(rest, "conv")?))
        }
        ("down_blocks", "resnets") if layer < layers => {
            ldm_part(&format!("input_blocks.{}.0", first + layer + 1), true, rest)
        }
        ("down_blocks", "attentions") if layer < layers => {
            ldm_part(&format!("input_blocks.{}.1", first + layer + 1), false, rest)
        }
        ("up_blocks", "upsamplers") if layer == 0 => {
            let place = if attends(level) { 2 } else { 1 };
            Some(format!("output_blocks.{}.{place}.conv.{}", first + layers, within(rest, "conv")?))
        }
        ("up_blocks", "resnets") if layer <= layers => {
            ldm_part(&format!("output_blocks.{}.0", first + layer), true, rest)
        }
        ("up_blocks", "attentions") if layer <= layers => {
            ldm_part(&format!("output_blocks.{}.1", first + layer), false, rest)
        }
        _ => None,
    }
}

/// LDM's name of a module of Stable Diffusion 1.x, 2.x or XL; arguments as for [`ldm_name`].
pub(crate) fn ldm_module(module: &str, layers: usize, attends: impl Fn(usize) -> bool) -> Option<String> {
    match module {
        "add_embedding.linear_1" => Some("label_emb.0.0".to_owned()),
        "add_embedding.linear_2" => Some("label_emb.0.2".to_owned()),
        _ => ldm_name(&format!("{module}.weight"), layers, attends)?.strip_suffix(".weight").map(str::to_owned),
    }
}

fn ldm_part(block: &str, is_resnet: bool, rest: &str) -> Option<String> {
    let rest = match is_resnet {
        true => moved_back(rest, &RESNET)?,
        false => attention_part(rest)?.to_owned(),
    };
    Some(format!("{block}.{rest}"))
}

fn attention_part(rest: &str) -> Option<&str> {
    ATTENTION.iter().any(|part| rest.starts_with(part)).then_some(rest)
}

/// Residual blocks in a level of LDM's downward half; `has` tells whether a tensor is there.
pub(super) fn ldm_layers(num_tensors: usize, has: impl Fn(&str) -> bool) -> Option<usize> {
    (1..=num_tensors).take_while(|index| has(&format!("input_blocks.{index}.0.in_layers.2.weight"))).last()
}

/// Residual blocks in a level of diffusers' downward half.
pub(super) fn diffusers_layers(num_tensors: usize, has: impl Fn(&str) -> bool) -> Option<usize> {
    let layers = (0..num_tensors).take_while(|layer| has(&format!("down_blocks.0.resnets.{layer}.conv1.weight")));
    Some(layers.count()).filter(|&layers| layers > 0)
}

/// Whether a tensor of an attention layer is a 1×1 convolution in some UNets and a matrix in others.
pub(super) fn is_projection(name: &str) -> bool {
    name.ends_with(".proj_in.weight") || name.ends_with(".proj_out.weight")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The table of models.md: SD1.5 has two layers a level, the level of `up_blocks.0` no attention.
    const SD15: [(&str, &str); 12] = [
        ("time_embed.2.bias", "time_embedding.linear_2.bias"),
        ("input_blocks.0.0.weight", "conv_in.weight"),
        ("input_blocks.3.0.op.weight", "down_blocks.0.downsamplers.0.conv.weight"),
        ("input_blocks.4.0.skip_connection.bias", "down_blocks.1.resnets.0.conv_shortcut.bias"),
        ("input_blocks.8.1.proj_in.weight", "down_blocks.2.attentions.1.proj_in.weight"),
        ("middle_block.2.emb_layers.1.weight", "mid_block.resnets.1.time_emb_proj.weight"),
        (
            "middle_block.1.transformer_blocks.0.ff.net.0.proj.bias",
            "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.bias",
        ),
        ("output_blocks.2.1.conv.weight", "up_blocks.0.upsamplers.0.conv.weight"),
        ("output_blocks.5.2.conv.bias", "up_blocks.1.upsamplers.0.conv.bias"),
        ("output_blocks.11.0.in_layers.2.weight", "up_blocks.3.resnets.2.conv1.weight"),
        ("output_blocks.11.1.norm.weight", "up_blocks.3.attentions.2.norm.weight"),
        ("out.2.weight", "conv_out.weight"),
    ];

    #[test]
    fn blocks_of_sd15_go_to_their_levels_and_back() {
        for (ldm, diffusers) in SD15 {
            assert_eq!(diffusers_name(ldm, 2).as_deref(), Some(diffusers));
            assert_eq!(ldm_name(diffusers, 2, |level| level > 0).as_deref(), Some(ldm));
        }
    }

    #[test]
    fn names_of_no_unet_have_no_counterpart() {
        for name in [
            "",
            "time_embed.1.weight",
            "input_blocks.1",
            "input_blocks.1.0",
            "input_blocks.01.0.in_layers.0.weight",
            "input_blocks.99999999999999999999.0.in_layers.0.weight",
            "input_blocks.1.0.op.weight", // a resampling in the middle of a level
            "input_blocks.1.1.loops.weight",
            "input_blocks.1.2.norm.weight",
            "middle_block.3.norm.weight",
            "output_blocks.1.1.conv.weight",
            "label_emb.0.0.weight",
        ] {
            assert_eq!(diffusers_name(name, 2), None, "{name}");
        }
        for name in ["down_blocks.0.resnets.2.conv1.weight", "up_blocks.0.upsamplers.1.conv.bias", "add_embedding.a"] {
            assert_eq!(ldm_name(name, 2, |_| true), None, "{name}");
        }
    }

    #[test]
    fn the_layers_of_a_level_are_counted() {
        let ldm = |last: usize| {
            ldm_layers(9, move |name| (1..=last).any(|i| name == format!("input_blocks.{i}.0.in_layers.2.weight")))
        };
        assert_eq!((ldm(0), ldm(1), ldm(2), ldm(3)), (None, Some(1), Some(2), Some(3)));
        assert_eq!(diffusers_layers(9, |_| false), None);
        assert_eq!(diffusers_layers(9, |_| true), Some(9));
    }
}
