//! Every published adapter is recognised whole, and refused by the name of the tensor if anything is wrong with one.
#![allow(clippy::unwrap_used)]

#[path = "support/published.rs"]
mod published;

use ipa_formats::AdapterKind::*;
use ipa_formats::{
    AdapterError, AdapterInfo, AdapterKind, AdapterOptions, AdapterVariant, BaseModel, ResamplerSizes,
    recognise_adapter,
};
use published::{Sizes, Tensors, adapter, info};

const VIT_H: Option<&str> = Some("OpenCLIP ViT-H/14");
const VIT_G: Option<&str> = Some("OpenCLIP ViT-bigG/14");

/// A published file; checkpoints.md §4 has the numbers of parameters.
struct Published {
    file: &'static str,
    kind: AdapterKind,
    sizes: Sizes,
    num_parameters: usize,
    encoder: Option<&'static str>,
    variant: Option<AdapterVariant>,
}

fn published() -> Vec<Published> {
    let row = |file, kind, sizes, num_parameters, encoder| {
        let variant = None;
        Published { file, kind, sizes, num_parameters, encoder, variant }
    };
    let (sd15, sdxl) = (Sizes::sd15(), Sizes::sdxl());
    let clip = |sizes: &Sizes, input| Sizes { input, ..sizes.clone() };
    let portrait = |sizes: &Sizes| Sizes { tokens: 16, ..sizes.clone() };
    let plus = |sizes: &Sizes| Sizes { tokens: 16, input: 1280, ..sizes.clone() };
    let perceiver = |sizes: &Sizes| Sizes { heads: sizes.context / 64, input: 1280, ..sizes.clone() };
    let unnorm = Sizes { input: 512, ..plus(&sdxl) };
    let unnorm_parameters = 423_748_864 - (1280 - 512) * 1280; // those of plus but for its input
    vec![
        row("sd15", Classic, sd15.clone(), 22_319_616, VIT_H),
        row("sd15_vit-G", Classic, clip(&sd15, 1280), 23_106_048, VIT_G),
        row("plus_sd15", Plus, plus(&sd15), 49_087_488, VIT_H),
        row("full-face_sd15", FullFace, clip(&sd15, 1280), 21_794_304, VIT_H),
        row("sdxl", Classic, sdxl.clone(), 351_285_248, VIT_G),
        row("sdxl_vit-h", Classic, clip(&sdxl, 1024), 349_188_096, VIT_H),
        row("plus_sdxl_vit-h", Plus, plus(&sdxl), 423_748_864, VIT_H),
        row("faceid_sd15", FaceId, sd15.clone(), 48_354_816, None),
        row("faceid-plus_sd15", FaceIdPlus, perceiver(&sd15), 78_260_736, VIT_H),
        Published {
            variant: Some(AdapterVariant::FaceIdPlusV2),
            ..row("faceid-plusv2_sd15", FaceIdPlusV2, perceiver(&sd15), 78_260_736, VIT_H)
        },
        row("faceid-portrait_sd15", Portrait, portrait(&sd15), 32_291_328, None),
        row("faceid_sdxl", FaceId, sdxl.clone(), 535_507_968, None),
        row("faceid-plusv2_sdxl", FaceIdPlusV2, perceiver(&sdxl), 743_707_648, VIT_H),
        row("faceid-portrait_sdxl", Portrait, portrait(&sdxl), 374_903_808, None),
        row("faceid-portrait_sdxl_unnorm", PortraitUnnorm, unnorm, unnorm_parameters, None),
    ]
}

impl Published {
    fn tensors(&self) -> Tensors {
        adapter(self.kind, &self.sizes)
    }

    fn recognise(&self, tensors: &Tensors) -> Result<AdapterInfo, AdapterError> {
        recognise_adapter(tensors, &AdapterOptions { variant: self.variant, ..AdapterOptions::default() })
    }

    /// All tensors of the projection; of the attention layers first, middle and last, all for the smallest adapters.
    fn sample(&self, tensors: &Tensors) -> Vec<String> {
        let last = self.sizes.layers.len() * 2 - 1;
        let sampled = |name: &&String| {
            let number = name.strip_prefix("ip_adapter.").and_then(|rest| rest.split('.').next()?.parse().ok());
            let all = self.kind == Classic && last < 32;
            number.is_none_or(|number: usize| all || [0, 1, 16, 17, last - 1, last].contains(&number))
        };
        tensors.keys().filter(sampled).cloned().collect()
    }

    /// Whether only this tensor tells this size, so that another is another adapter.
    fn is_alone(&self, name: &str, dim: usize) -> bool {
        match (self.kind, name.strip_prefix("image_proj.").unwrap_or_default()) {
            (Classic, "proj.weight") => dim == 1,
            (Plus | PortraitUnnorm, "latents" | "proj_in.weight") => dim == 1,
            (FaceId | FaceIdPlus | FaceIdPlusV2 | Portrait, "proj.0.weight") => dim == 1,
            (_, "perceiver_resampler.proj_in.weight") => dim == 1,
            _ => false,
        }
    }
}

#[test]
fn every_published_adapter_is_recognised() {
    for row in published() {
        let tensors = row.tensors();
        let Published { file, kind, sizes, .. } = &row;
        let num_parameters: usize = tensors.values().map(|info| info.num_elements()).sum();
        assert_eq!(num_parameters, row.num_parameters, "{file}");
        let found = row.recognise(&tensors).unwrap();
        assert_eq!(found.kind, *kind, "{file}");
        let sdxl = sizes.context == 2048;
        assert_eq!(found.base, if sdxl { BaseModel::Sdxl } else { BaseModel::Sd15 }, "{file}");
        assert_eq!((found.cross_attention_dim, found.num_layers), (sizes.context, sizes.layers.len()), "{file}");
        assert_eq!(found.num_tokens, if *kind == FullFace { 257 } else { sizes.tokens }, "{file}");
        assert_eq!(found.encoder(), row.encoder, "{file}");
        let face = matches!(kind, FaceId | FaceIdPlus | FaceIdPlusV2 | Portrait);
        assert_eq!(found.face_embed_dim, (face || *kind == PortraitUnnorm).then_some(512), "{file}");
        assert_eq!(found.face_hidden, face.then_some(1024), "{file}");
        let has_lora = face && *kind != Portrait;
        assert_eq!((found.has_lora, found.lora_rank), (has_lora, has_lora.then_some(128)), "{file}");
        assert_eq!(found.resampler, resampler_of(&row), "{file}");
    }
}

fn resampler_of(Published { kind, sizes, .. }: &Published) -> Option<ResamplerSizes> {
    let width = match kind {
        Plus | PortraitUnnorm => sizes.width,
        FaceIdPlus | FaceIdPlusV2 => sizes.context,
        _ => return None,
    };
    Some(ResamplerSizes { width, attention_width: 64 * sizes.heads, feed_forward: 4 * width, depth: 4 })
}

#[test]
fn every_tensor_is_missed_by_name() {
    for row in published() {
        let tensors = row.tensors();
        for name in row.sample(&tensors) {
            let mut cut = tensors.clone();
            cut.remove(&name);
            assert_eq!(row.recognise(&cut), Err(AdapterError::Missing { name: name.clone() }), "{}: {name}", row.file);
        }
    }
}

#[test]
fn every_misshapen_tensor_is_named() {
    for row in published() {
        let mut tensors = row.tensors();
        for name in row.sample(&tensors) {
            let right = tensors[&name].shape.clone();
            for (dim, wrong) in misshapen(&right) {
                tensors.insert(name.clone(), info(&wrong));
                match row.recognise(&tensors) {
                    Err(AdapterError::Shape { name: named, shape, .. }) => {
                        assert_eq!((named, shape), (name.clone(), wrong), "{}", row.file);
                    }
                    Ok(_) if dim.is_some_and(|dim| row.is_alone(&name, dim)) => {}
                    other => panic!("{}: {name} of {wrong:?}: {other:?}", row.file),
                }
            }
            tensors.insert(name, info(&right));
        }
    }
}

/// Wrong shapes, with the place of the only wrong size.
fn misshapen(shape: &[usize]) -> Vec<(Option<usize>, Vec<usize>)> {
    let mut all = vec![(None, [shape, &[1]].concat()), (None, shape[1..].to_vec()), (None, vec![])];
    for (dim, size) in shape.iter().enumerate() {
        for wrong in [size + 1, 2 * size, usize::MAX / 2] {
            let mut shape = shape.to_vec();
            shape[dim] = wrong;
            all.push((Some(dim), shape));
        }
        let mut empty = shape.to_vec();
        empty[dim] = 0;
        all.push((None, empty));
    }
    all
}

#[test]
fn every_foreign_tensor_is_named() {
    for row in published() {
        let tensors = row.tensors();
        let mut foreign = vec![
            "image_proj.extra.weight",
            "image_proj.pos_emb.weight",
            "image_proj.layers.9.0.to_q.weight",
            "ip_adapter.1.to_k_ip.bias",
            "ip_adapter.1.to_q.weight",
            "ip_adapter.999.to_q_lora.down.weight",
            "ip_adapter.01.to_k_ip.weight",
            "ip_adapter.5000.to_k_ip.weight",
            "ip_adapter.18446744073709551616.to_k_ip.weight",
            "prefusion.to_q.weight",
            "conv_in.weight",
            "unet.conv_in.weight",
            "optimizer",
        ];
        if !matches!(row.kind, FaceId | FaceIdPlus | FaceIdPlusV2) {
            foreign.push("ip_adapter.0.to_q_lora.down.weight");
        }
        for name in foreign {
            let mut more = tensors.clone();
            more.insert(name.to_owned(), info(&[320, 320]));
            assert_eq!(row.recognise(&more), Err(AdapterError::Unexpected { name: name.to_owned() }), "{}", row.file);
        }
    }
}
