//! Names of the autoencoder: LDM's and diffusers'.
//!
//! Source: diffusers' `loaders/single_file_utils.py`, `convert_ldm_vae_checkpoint`. LDM numbers the
//! decoder's levels from the picture, diffusers from the latents; LDM's attention is made of 1×1
//! convolutions, diffusers' of linear layers.

use super::names::{moved, moved_back, number, within};

/// LDM's name first.
const HALF: [(&str, &str); 6] = [
    ("conv_in", "conv_in"),
    ("conv_out", "conv_out"),
    ("norm_out", "conv_norm_out"),
    ("mid.block_1", "mid_block.resnets.0"),
    ("mid.block_2", "mid_block.resnets.1"),
    ("mid.attn_1", "mid_block.attentions.0"),
];
const RESNET: [(&str, &str); 5] =
    [("norm1", "norm1"), ("conv1", "conv1"), ("norm2", "norm2"), ("conv2", "conv2"), ("nin_shortcut", "conv_shortcut")];
/// The last four are diffusers' names before its version 0.12, which published folders still have.
const ATTENTION: [(&str, &str); 9] = [
    ("norm", "group_norm"),
    ("q", "to_q"),
    ("k", "to_k"),
    ("v", "to_v"),
    ("proj_out", "to_out.0"),
    ("q", "query"),
    ("k", "key"),
    ("v", "value"),
    ("proj_out", "proj_attn"),
];
const ONCE: [&str; 2] = ["quant_conv", "post_quant_conv"];

/// Diffusers' name of LDM's, without prefixes; `None` if LDM's autoencoders have no such tensor.
pub(super) fn diffusers_name(name: &str, levels: usize) -> Option<String> {
    if ONCE.iter().any(|once| within(name, once).is_some()) {
        return Some(name.to_owned());
    }
    let (half, rest) = name.split_once('.').filter(|(half, _)| matches!(*half, "encoder" | "decoder"))?;
    let fixed = HALF.iter().find_map(|(ldm, diffusers)| Some((*diffusers, within(rest, ldm)?)));
    if let Some((diffusers, rest)) = fixed {
        let rest = match diffusers {
            "mid_block.attentions.0" => moved(rest, &ATTENTION)?,
            _ if diffusers.starts_with("mid_block") => moved(rest, &RESNET)?,
            _ => rest.to_owned(),
        };
        return Some(format!("{half}.{diffusers}.{rest}"));
    }
    let (kind, rest) = rest.split_once('.')?;
    let (number, rest) = number(rest)?;
    let (level, sampler) = match (half, kind) {
        ("encoder", "down") => (Some(number), "downsample"),
        ("decoder", "up") => ((levels.checked_sub(1)?).checked_sub(number), "upsample"),
        _ => return None,
    };
    let level = format!("{half}.{kind}_blocks.{}", level?);
    if let Some(rest) = within(rest, sampler) {
        return Some(format!("{level}.{sampler}rs.0.{rest}")).filter(|_| rest.starts_with("conv."));
    }
    let (layer, rest) = self::number(within(rest, "block")?)?;
    Some(format!("{level}.resnets.{layer}.{}", moved(rest, &RESNET)?))
}

/// LDM's name of diffusers', without prefixes; `None` if diffusers' autoencoders have no such tensor.
pub(super) fn ldm_name(name: &str, levels: usize) -> Option<String> {
    if ONCE.iter().any(|once| within(name, once).is_some()) {
        return Some(name.to_owned());
    }
    let (half, rest) = name.split_once('.').filter(|(half, _)| matches!(*half, "encoder" | "decoder"))?;
    let fixed = HALF.iter().find_map(|(ldm, diffusers)| Some((*ldm, within(rest, diffusers)?)));
    if let Some((ldm, rest)) = fixed {
        let rest = match ldm {
            "mid.attn_1" => moved_back(rest, &ATTENTION)?,
            _ if ldm.starts_with("mid.") => moved_back(rest, &RESNET)?,
            _ => rest.to_owned(),
        };
        return Some(format!("{half}.{ldm}.{rest}"));
    }
    let (kind, rest) = rest.split_once('.')?;
    let (number, rest) = number(rest)?;
    let (level, samplers) = match (half, kind) {
        ("encoder", "down_blocks") => (format!("encoder.down.{number}"), "downsamplers.0"),
        ("decoder", "up_blocks") => {
            (format!("decoder.up.{}", levels.checked_sub(1)?.checked_sub(number)?), "upsamplers.0")
        }
        _ => return None,
    };
    if let Some(rest) = within(rest, samplers) {
        let sampler = samplers.trim_end_matches("rs.0");
        return Some(format!("{level}.{sampler}.{rest}")).filter(|_| rest.starts_with("conv."));
    }
    let (layer, rest) = self::number(within(rest, "resnets")?)?;
    Some(format!("{level}.block.{layer}.{}", moved_back(rest, &RESNET)?))
}

/// Levels of LDM's autoencoder; `has` tells whether a tensor is there.
pub(super) fn ldm_levels(num_tensors: usize, has: impl Fn(&str) -> bool) -> usize {
    (0..num_tensors).take_while(|level| has(&format!("decoder.up.{level}.block.0.conv1.weight"))).count()
}

/// Levels of diffusers' autoencoder.
pub(super) fn diffusers_levels(num_tensors: usize, has: impl Fn(&str) -> bool) -> usize {
    (0..num_tensors).take_while(|level| has(&format!("decoder.up_blocks.{level}.resnets.0.conv1.weight"))).count()
}

/// Whether a tensor is a matrix in diffusers and a 1×1 convolution in LDM, by LDM's name.
pub(super) fn is_attention_weight(ldm_name: &str) -> bool {
    ["q", "k", "v", "proj_out"].iter().any(|part| ldm_name.ends_with(&format!(".mid.attn_1.{part}.weight")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of models.md; the decoder's levels are reversed.
    const SD: [(&str, &str); 11] = [
        ("encoder.conv_in.bias", "encoder.conv_in.bias"),
        ("decoder.norm_out.weight", "decoder.conv_norm_out.weight"),
        ("encoder.down.1.block.0.nin_shortcut.weight", "encoder.down_blocks.1.resnets.0.conv_shortcut.weight"),
        ("encoder.down.2.downsample.conv.bias", "encoder.down_blocks.2.downsamplers.0.conv.bias"),
        ("encoder.mid.block_2.conv1.weight", "encoder.mid_block.resnets.1.conv1.weight"),
        ("decoder.mid.attn_1.norm.weight", "decoder.mid_block.attentions.0.group_norm.weight"),
        ("decoder.mid.attn_1.q.weight", "decoder.mid_block.attentions.0.to_q.weight"),
        ("encoder.mid.attn_1.proj_out.bias", "encoder.mid_block.attentions.0.to_out.0.bias"),
        ("decoder.up.3.block.2.norm2.bias", "decoder.up_blocks.0.resnets.2.norm2.bias"),
        ("decoder.up.1.upsample.conv.weight", "decoder.up_blocks.2.upsamplers.0.conv.weight"),
        ("post_quant_conv.weight", "post_quant_conv.weight"),
    ];

    #[test]
    fn names_go_both_ways() {
        for (ldm, diffusers) in SD {
            assert_eq!(diffusers_name(ldm, 4).as_deref(), Some(diffusers));
            assert_eq!(ldm_name(diffusers, 4).as_deref(), Some(ldm));
        }
    }

    #[test]
    fn attention_names_of_old_folders_are_understood() {
        for (old, ldm) in [("query", "q"), ("key", "k"), ("value", "v"), ("proj_attn", "proj_out")] {
            let old = format!("encoder.mid_block.attentions.0.{old}.weight");
            assert_eq!(ldm_name(&old, 4), Some(format!("encoder.mid.attn_1.{ldm}.weight")));
        }
    }

    #[test]
    fn names_of_no_autoencoder_have_no_counterpart() {
        for name in [
            "decoder.up.4.block.0.conv1.weight",
            "encoder.up.0.block.0.conv1.weight",
            "encoder.down.3.attn.0.q.weight",
            "encoder.down.0.downsample.op.weight",
            "encoder.mid.block_3.conv1.weight",
            "encoder.mid.attn_1.to_q.weight",
            "loss.logvar",
            "encoder",
        ] {
            assert_eq!(diffusers_name(name, 4), None, "{name}");
        }
        assert_eq!(diffusers_name("decoder.up.0.block.0.conv1.weight", 0), None);
        assert_eq!(ldm_name("decoder.up_blocks.4.resnets.0.conv1.weight", 4), None);
        assert_eq!(ldm_name("encoder.down_blocks.0.attentions.0.to_q.weight", 4), None);
    }
}
