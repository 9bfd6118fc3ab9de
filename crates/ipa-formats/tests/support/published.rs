//! Headers of the published adapters, written down from the reference's module definitions.
#![allow(dead_code)] // each test file uses its own part

use std::collections::BTreeMap;

use ipa_formats::{AdapterKind, Dtype, TensorInfo};

pub(crate) type Tensors = BTreeMap<String, TensorInfo>;

/// Sizes of an adapter in the reference's words.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    /// Widths of the cross-attention layers, the middle block last.
    pub(crate) layers: Vec<usize>,
    pub(crate) context: usize,
    pub(crate) input: usize,
    pub(crate) face: usize,
    pub(crate) face_hidden: usize,
    pub(crate) tokens: usize,
    pub(crate) width: usize,
    pub(crate) heads: usize,
    pub(crate) depth: usize,
    pub(crate) rank: usize,
}

impl Sizes {
    pub(crate) fn sd15() -> Self {
        let layers = [[320; 2].as_slice(), &[640; 2], &[1280; 5], &[640; 3], &[320; 3], &[1280]].concat();
        Self {
            layers,
            context: 768,
            input: 1024,
            face: 512,
            face_hidden: 1024,
            tokens: 4,
            width: 768,
            heads: 12,
            depth: 4,
            rank: 128,
        }
    }

    pub(crate) fn sdxl() -> Self {
        let layers = [[640; 4].as_slice(), &[1280; 50], &[640; 6], &[1280; 10]].concat();
        Self { layers, context: 2048, input: 1280, width: 1280, heads: 20, ..Self::sd15() }
    }

    /// Sixteen layers as in SD1.5, all small.
    pub(crate) fn tiny() -> Self {
        let layers = Self::sd15().layers.iter().map(|width| width / 40).collect();
        Self {
            layers,
            context: 12,
            input: 10,
            face: 6,
            face_hidden: 8,
            tokens: 4,
            width: 20,
            heads: 2,
            depth: 3,
            rank: 2,
        }
    }
}

pub(crate) fn info(shape: &[usize]) -> TensorInfo {
    TensorInfo { dtype: Dtype::F16, shape: shape.to_vec() }
}

/// All tensors of an adapter, with LoRA where published ones have it.
pub(crate) fn adapter(kind: AdapterKind, sizes: &Sizes) -> Tensors {
    let mut tensors = projection(kind, sizes);
    tensors.extend(attention(sizes));
    if matches!(kind, AdapterKind::FaceId | AdapterKind::FaceIdPlus | AdapterKind::FaceIdPlusV2) {
        tensors.extend(lora(sizes));
    }
    tensors
}

pub(crate) fn projection(kind: AdapterKind, sizes: &Sizes) -> Tensors {
    let mut tensors = Tensors::new();
    let mut add = |name: String, shape: &[usize]| tensors.insert(format!("image_proj.{name}"), info(shape));
    let Sizes { context, input, face, face_hidden, tokens, width, .. } = *sizes;
    let mut affine = |name: &str, shape: &[usize]| {
        add(format!("{name}.weight"), shape);
        add(format!("{name}.bias"), &shape[..1]);
    };
    match kind {
        AdapterKind::Classic => {
            affine("proj", &[tokens * context, input]);
            affine("norm", &[context]);
        }
        AdapterKind::FullFace => {
            affine("proj.0", &[input, input]);
            affine("proj.2", &[context, input]);
            affine("proj.3", &[context]);
        }
        AdapterKind::Plus | AdapterKind::PortraitUnnorm => {
            add("latents".to_owned(), &[1, tokens, width]);
            resampler(&mut add, "", width, sizes);
        }
        AdapterKind::FaceId | AdapterKind::Portrait | AdapterKind::FaceIdPlus | AdapterKind::FaceIdPlusV2 => {
            affine("proj.0", &[face_hidden, face]);
            affine("proj.2", &[tokens * context, face_hidden]);
            affine("norm", &[context]);
            if matches!(kind, AdapterKind::FaceIdPlus | AdapterKind::FaceIdPlusV2) {
                resampler(&mut add, "perceiver_resampler.", context, sizes);
            }
        }
    }
    tensors
}

fn resampler(
    add: &mut impl FnMut(String, &[usize]) -> Option<TensorInfo>,
    prefix: &str,
    width: usize,
    Sizes { context, input, heads, depth, .. }: &Sizes,
) {
    let inner = heads * 64;
    let mut add = |name: &str, shape: &[usize]| add(format!("{prefix}{name}"), shape);
    add("proj_in.weight", &[width, *input]);
    add("proj_in.bias", &[width]);
    add("proj_out.weight", &[*context, width]);
    for name in ["proj_out.bias", "norm_out.weight", "norm_out.bias"] {
        add(name, &[*context]);
    }
    for layer in 0..*depth {
        for norm in ["0.norm1", "0.norm2", "1.0"] {
            add(&format!("layers.{layer}.{norm}.weight"), &[width]);
            add(&format!("layers.{layer}.{norm}.bias"), &[width]);
        }
        add(&format!("layers.{layer}.0.to_q.weight"), &[inner, width]);
        add(&format!("layers.{layer}.0.to_kv.weight"), &[2 * inner, width]);
        add(&format!("layers.{layer}.0.to_out.weight"), &[width, inner]);
        add(&format!("layers.{layer}.1.1.weight"), &[4 * width, width]);
        add(&format!("layers.{layer}.1.3.weight"), &[width, 4 * width]);
    }
}

fn attention(Sizes { layers, context, .. }: &Sizes) -> Tensors {
    let of = |(layer, &width): (usize, &usize)| {
        let name = |part: &str| format!("ip_adapter.{}.to_{part}_ip.weight", 2 * layer + 1);
        ["k", "v"].map(|part| (name(part), info(&[width, *context])))
    };
    layers.iter().enumerate().flat_map(of).collect()
}

pub(crate) fn lora(Sizes { layers, context, rank, .. }: &Sizes) -> Tensors {
    let mut tensors = Tensors::new();
    for (number, &width) in layers.iter().flat_map(|width| [width; 2]).enumerate() {
        for part in ["q", "k", "v", "out"] {
            let input = if number % 2 == 1 && ["k", "v"].contains(&part) { *context } else { width };
            let name = |side: &str| format!("ip_adapter.{number}.to_{part}_lora.{side}.weight");
            tensors.insert(name("down"), info(&[*rank, input]));
            tensors.insert(name("up"), info(&[width, *rank]));
        }
    }
    tensors
}
