//! Files that are not Stable Diffusion 1.x or 2.x, and tensors that belong to no model.
//!
//! Source of the names: diffusers' `loaders/single_file_utils.py`, `CHECKPOINT_KEY_NAMES`.

use super::SingleFileError;
use super::parts::{Parts, Prefix, Tensors};

/// What to call a file that has a UNet of the same make, by a piece of one of its names.
const OTHER_CHECKPOINTS: [(&str, &str); 3] = [
    ("conditioner.embedders.1.", "a Stable Diffusion XL checkpoint"),
    ("conditioner.embedders.0.model.", "a Stable Diffusion XL refiner"),
    ("conditioner.embedders.", "a Stable Diffusion XL checkpoint"),
];
/// What to call a file without a UNet of LDM's make, the more telling piece first.
const OTHER_FILES: [(&str, &str); 25] = [
    ("lora_down.", "a LoRA"),
    ("lora_A.", "a LoRA"),
    ("hada_w1_a", "a LyCORIS adapter"),
    ("ip_adapter.", "an IP-Adapter"),
    ("image_proj.", "an IP-Adapter"),
    ("motion_modules.", "an AnimateDiff motion module"),
    ("control_model.", "a ControlNet"),
    ("controlnet_cond_embedding.", "a ControlNet"),
    ("input_hint_block.", "a ControlNet"),
    ("joint_blocks.", "a Stable Diffusion 3 checkpoint"),
    ("double_stream_blocks.", "a HiDream checkpoint"),
    ("distilled_guidance_layer.", "a Chroma checkpoint"),
    ("double_blocks.", "a Flux checkpoint"),
    ("double_layers.", "an AuraFlow checkpoint"),
    ("clip_txt_mapper.", "a Stable Cascade checkpoint"),
    (".channelwise.", "a Stable Cascade checkpoint"),
    ("patchify_proj.", "an LTX-Video checkpoint"),
    ("cap_embedder.", "a Lumina 2 checkpoint"),
    ("individual_token_refiner.", "a HunyuanVideo checkpoint"),
    ("head.modulation", "a Wan checkpoint"),
    ("txt_in.", "a Qwen-Image or HunyuanVideo checkpoint"),
    ("text_encoders.", "a text encoder of Stable Diffusion 3 or Flux"),
    ("string_to_param", "a textual inversion"),
    ("emb_params", "a textual inversion"),
    ("down_blocks.", "a component in diffusers' own names, which belongs in a model folder beside its config.json"),
];

/// Tensors of the diffusion process itself, which a scheduler computes anew.
const PROCESS: [&str; 19] = [
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "lvlb_weights",
    "logvar",
    "scale_factor",
    "global_step",
    "epoch",
    "cond_stage_model.logit_scale",
    "cond_stage_model.transformer.logit_scale",
];
/// What training leaves behind: averages, the autoencoder's critic, the optimizer and its schedule.
const TRAINING: [&str; 10] = [
    "model_ema.",
    "first_stage_model.loss.",
    "first_stage_model.model_ema.",
    "vae.loss.",
    "loss.",
    "optimizer_states.",
    "optimizer.",
    "lr_schedulers.",
    "callbacks.",
    "loops.",
];

/// Names the file if it is known to be something else.
pub(super) fn refuse_others(tensors: &Tensors, parts: &Parts) -> Result<(), SingleFileError> {
    let other = |what: &str| Err(SingleFileError::Other { what: what.to_owned() });
    let named = |pieces: &[(&str, &'static str)]| {
        let found = pieces.iter().find(|(piece, _)| tensors.keys().any(|name| name.contains(piece)));
        found.map(|(_, what)| *what)
    };
    if tensors.contains_key("edm_mean") {
        return other("a Playground v2.5 checkpoint");
    }
    if let Some(what) = named(&OTHER_CHECKPOINTS) {
        return other(what);
    }
    if let Some(unet) = &parts.unet {
        if let Some(what) = other_unet(tensors, unet) {
            return Err(SingleFileError::Other { what });
        }
    } else if let Some(what) = named(&OTHER_FILES) {
        return other(what);
    }
    match &parts.vae {
        Some(vae) if !tensors.contains_key(&format!("{}post_quant_conv.weight", vae.full)) => {
            other("an autoencoder without `post_quant_conv`, as Stable Diffusion 3 and Flux have")
        }
        _ => Ok(()),
    }
}

/// What a UNet is if it is not one of Stable Diffusion 1.x and 2.x, by its class embedding and channels.
fn other_unet(tensors: &Tensors, unet: &Prefix) -> Option<String> {
    let shape = |name: &str| tensors.get(&format!("{}{name}", unet.full)).map(|info| info.shape.as_slice());
    if shape("label_emb.weight").is_some() {
        return Some("a Stable Diffusion x4 upscaler".to_owned());
    }
    if shape("label_emb.0.0.weight").is_some() {
        let context = shape("middle_block.1.transformer_blocks.0.attn2.to_k.weight").and_then(<[usize]>::last);
        return Some(match context {
            Some(2048) => "the UNet of Stable Diffusion XL".to_owned(),
            Some(1280) => "the UNet of the Stable Diffusion XL refiner".to_owned(),
            _ => "a UNet with class embeddings, as unCLIP models have".to_owned(),
        });
    }
    match shape(super::parts::UNET_ANCHOR)?.get(1)? {
        4 | 8 | 9 => None,
        5 => Some("a UNet of 5 input channels, as Stable Diffusion 2 depth has".to_owned()),
        channels => Some(format!("a UNet of {channels} input channels (4, 8 and 9 are known)")),
    }
}

/// Whether a tensor outside the models is known and of no use for drawing.
pub(super) fn is_leftover(name: &str, parts: &Parts) -> bool {
    let mut names = parts.outer().chain([""]).filter_map(|outer| name.strip_prefix(outer));
    names.any(|name| PROCESS.contains(&name) || TRAINING.iter().any(|start| name.starts_with(start)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{Dtype, TensorInfo};

    fn refusal(tensors: &[(&str, &[usize])]) -> Option<String> {
        let info = |shape: &[usize]| TensorInfo { dtype: Dtype::F16, shape: shape.to_vec() };
        let tensors = tensors.iter().map(|(name, shape)| ((*name).to_owned(), info(shape))).collect();
        let parts = Parts::find(&tensors).unwrap();
        refuse_others(&tensors, &parts).err().map(|error| error.to_string())
    }

    #[test]
    fn other_families_are_called_by_name() {
        for (name, called) in [
            ("conditioner.embedders.1.model.ln_final.bias", "Stable Diffusion XL checkpoint"),
            ("conditioner.embedders.0.model.ln_final.bias", "refiner"),
            ("model.diffusion_model.joint_blocks.0.context_block.attn.qkv.bias", "Stable Diffusion 3"),
            ("double_blocks.0.img_attn.norm.key_norm.scale", "Flux"),
            ("text_encoders.clip_l.transformer.text_model.final_layer_norm.bias", "Stable Diffusion 3"),
            ("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", "LoRA"),
            ("control_model.input_blocks.0.0.weight", "ControlNet"),
            ("ip_adapter.1.to_k_ip.weight", "IP-Adapter"),
            ("down_blocks.0.resnets.0.conv1.weight", "diffusers' own names"),
            ("edm_mean", "Playground"),
        ] {
            let refusal = refusal(&[(name, &[4])]).unwrap();
            assert!(refusal.contains(called) && refusal.contains("1.x or 2.x"), "{name}: {refusal}");
        }
        assert_eq!(refusal(&[("something.else", &[1])]), None);
    }

    #[test]
    fn other_unets_are_told_by_channels_and_class_embedding() {
        let with = |channels: usize, more: &str, context: usize| {
            let context = [640, context];
            let attention = ("middle_block.1.transformer_blocks.0.attn2.to_k.weight", &context[..]);
            refusal(&[("input_blocks.0.0.weight", &[320, channels, 3, 3]), attention, (more, &[1])])
        };
        for channels in [4, 8, 9] {
            assert_eq!(with(channels, "out.2.bias", 768), None);
        }
        assert!(with(5, "out.2.bias", 1024).unwrap().contains("depth"));
        assert!(with(13, "out.2.bias", 1024).unwrap().contains("13 input channels"));
        assert!(with(7, "label_emb.weight", 1024).unwrap().contains("upscaler"));
        assert!(with(4, "label_emb.0.0.weight", 2048).unwrap().contains("XL"));
        assert!(with(4, "label_emb.0.0.weight", 1280).unwrap().contains("refiner"));
        assert!(with(4, "label_emb.0.0.weight", 1024).unwrap().contains("unCLIP"));
    }

    #[test]
    fn an_autoencoder_of_another_family_is_refused() {
        let tensors: [(&str, &[usize]); 2] =
            [("decoder.mid.block_1.conv1.weight", &[1]), ("post_quant_conv.weight", &[1])];
        assert!(refusal(&tensors[..1]).unwrap().contains("post_quant_conv"));
        let within: [(&str, &[usize]); 2] = [tensors[0], ("joint_blocks.0.x_block.attn.qkv.bias", &[1])];
        assert!(refusal(&within).unwrap().contains("Stable Diffusion 3 checkpoint"));
        assert_eq!(refusal(&tensors), None);
    }

    #[test]
    fn leftovers_of_training_are_known() {
        let info = TensorInfo { dtype: Dtype::F32, shape: vec![] };
        let wrapped = Tensors::from([("state_dict.model.diffusion_model.input_blocks.0.0.weight".to_owned(), info)]);
        let parts = Parts::find(&wrapped).unwrap();
        for name in [
            "betas",
            "state_dict.betas",
            "model_ema.decay",
            "state_dict.optimizer_states.0",
            "first_stage_model.loss.logvar",
        ] {
            assert!(is_leftover(name, &parts), "{name}");
        }
        for name in ["alphas", "betas.0", "other.betas", "model.betas", "embedding_manager.x"] {
            assert!(!is_leftover(name, &parts), "{name}");
        }
    }
}
