//! Recognising an adapter from the names and shapes in its header.
//!
//! The tests and their order are those of the reference loaders (diffusers' `loaders/unet.py`,
//! ComfyUI_IPAdapter_plus). Three pairs cannot be told apart by tensors: plus and plus-face, base and
//! light, FaceID-Plus v1 and v2.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::TensorInfo;

/// Prefix of the tensors that project an image embedding into tokens.
const PROJECTION: &str = "image_proj.";
/// Prefixes of the attention tensors: the published one, and one that community files use.
const ATTENTION: [&str; 2] = ["ip_adapter.", "adapter_modules."];
/// Width of an attention head in every published resampler.
const RESAMPLER_HEAD: usize = 64;
/// Features per patch go in, one token each comes out: 16 × 16 patches and the class token.
const FULL_FACE_TOKENS: usize = 257;

/// Which projection turns an image into tokens.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdapterKind {
    /// One linear layer from the pooled CLIP embedding: base, light, vit-G, SDXL base.
    Classic,
    /// A resampler over the penultimate features: plus, plus-face.
    Plus,
    /// A small network over every penultimate feature: full-face.
    FullFace,
    /// A small network from a face embedding, with LoRA in the attention layers.
    FaceId,
    /// A face embedding that also reads CLIP features, with LoRA.
    FaceIdPlus,
    /// A face embedding without LoRA, several faces at once.
    Portrait,
    /// A resampler over the un-normalised face embedding.
    PortraitUnnorm,
}

/// The family of UNets an adapter fits, by the sizes of its attention layers.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BaseModel {
    /// Stable Diffusion 1.x: 16 layers on text features of 768.
    Sd15,
    /// Stable Diffusion XL: 70 layers on text features of 2048.
    Sdxl,
    /// Other sizes.
    Other,
}

/// What an adapter's header tells about it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct AdapterInfo {
    /// Kind of projection.
    pub kind: AdapterKind,
    /// Family of UNets it fits.
    pub base: BaseModel,
    /// Width of the image features it takes; `None` if it takes a face embedding alone.
    pub image_embed_dim: Option<usize>,
    /// Width of the face embedding it takes, if it does.
    pub face_embed_dim: Option<usize>,
    /// Width of its tokens, which is that of the UNet's text features.
    pub cross_attention_dim: usize,
    /// Tokens for one image.
    pub num_tokens: usize,
    /// Cross-attention layers it adds to.
    pub num_layers: usize,
    /// Whether it brings LoRA tensors for the attention layers.
    pub has_lora: bool,
    /// Sizes inside of the resampler that makes its tokens, if one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resampler: Option<ResamplerSizes>,
}

/// Sizes of a resampler that an adapter does not show outside.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct ResamplerSizes {
    /// Width of its latents.
    pub width: usize,
    /// Width of all attention heads together.
    pub attention_width: usize,
    /// Width inside the feed-forward layers.
    pub feed_forward: usize,
    /// Layers.
    pub depth: usize,
}

/// Why a header does not describe a whole adapter of a known kind.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum AdapterError {
    /// A tensor that every adapter of its kind has.
    #[error("tensor `{name}` is missing; the file is incomplete or of another kind")]
    Missing {
        /// Name in the published layout.
        name: String,
    },
    /// A tensor whose shape contradicts the others.
    #[error("tensor `{name}` has shape {shape:?}, expected {expected}")]
    Shape {
        /// Name in the published layout.
        name: String,
        /// Shape in the file.
        shape: Vec<usize>,
        /// What fits the other tensors.
        expected: String,
    },
    /// Attention tensors that are not numbered 1, 3, 5, ….
    #[error("its layers are numbered {numbers:?}, published adapters number them 1, 3, 5, …")]
    Numbering {
        /// Numbers in the file, sorted.
        numbers: Vec<usize>,
    },
}

/// Whether any tensor name is that of an adapter.
pub fn is_adapter(tensors: &BTreeMap<String, TensorInfo>) -> bool {
    tensors.keys().any(|name| name.starts_with(PROJECTION) || attention_name(name).is_some())
}

/// Recognises kind and sizes of an adapter.
///
/// # Errors
/// [`AdapterError`] naming the tensor that is missing or does not fit.
pub fn recognise_adapter(tensors: &BTreeMap<String, TensorInfo>) -> Result<AdapterInfo, AdapterError> {
    let header = AdapterHeader::new(tensors);
    let layers = header.layers()?;
    let has_lora = header.attention.keys().any(|name| name.contains("_lora."));
    let Projection { kind, image_embed_dim, face_embed_dim, num_tokens } =
        header.projection(layers.cross_attention_dim, has_lora)?;
    let resampler = matches!(kind, AdapterKind::Plus | AdapterKind::PortraitUnnorm).then(|| header.resampler_sizes());
    Ok(AdapterInfo {
        kind,
        base: match layers {
            Layers { cross_attention_dim: 768, count: 16 } => BaseModel::Sd15,
            Layers { cross_attention_dim: 2048, count: 70 } => BaseModel::Sdxl,
            _ => BaseModel::Other,
        },
        image_embed_dim,
        face_embed_dim,
        cross_attention_dim: layers.cross_attention_dim,
        num_tokens,
        num_layers: layers.count,
        has_lora,
        resampler: resampler.transpose()?,
    })
}

fn attention_name(name: &str) -> Option<&str> {
    ATTENTION.iter().find_map(|prefix| name.strip_prefix(prefix))
}

/// The number in `7.to_k_ip.weight`.
fn layer_number(name: &str) -> Option<usize> {
    name.strip_suffix(".to_k_ip.weight").or_else(|| name.strip_suffix(".to_v_ip.weight"))?.parse().ok()
}

struct Layers {
    count: usize,
    cross_attention_dim: usize,
}

struct Projection {
    kind: AdapterKind,
    image_embed_dim: Option<usize>,
    face_embed_dim: Option<usize>,
    num_tokens: usize,
}

/// Shapes by the names within the two parts of an adapter.
struct AdapterHeader<'a> {
    projection: BTreeMap<&'a str, &'a [usize]>,
    attention: BTreeMap<&'a str, &'a [usize]>,
}

impl<'a> AdapterHeader<'a> {
    fn new(tensors: &'a BTreeMap<String, TensorInfo>) -> Self {
        let shapes = || tensors.iter().map(|(name, info)| (name.as_str(), info.shape.as_slice()));
        Self {
            projection: shapes().filter_map(|(name, shape)| Some((name.strip_prefix(PROJECTION)?, shape))).collect(),
            attention: shapes().filter_map(|(name, shape)| Some((attention_name(name)?, shape))).collect(),
        }
    }

    fn layers(&self) -> Result<Layers, AdapterError> {
        let numbers: BTreeSet<usize> = self.attention.keys().filter_map(|name| layer_number(name)).collect();
        let [_, cross_attention_dim] = self.key_or_value("1.to_k_ip.weight")?;
        if !numbers.iter().copied().eq((0..numbers.len()).map(|layer| 2 * layer + 1)) {
            return Err(AdapterError::Numbering { numbers: numbers.into_iter().collect() });
        }
        for number in &numbers {
            let [hidden, _] = self.key_or_value(&format!("{number}.to_k_ip.weight"))?;
            for name in ["to_k_ip", "to_v_ip"].map(|part| format!("{number}.{part}.weight")) {
                if self.key_or_value(&name)? != [hidden, cross_attention_dim] {
                    let shape = self.attention[name.as_str()];
                    return Err(misshapen(ATTENTION[0], &name, shape, format!("[{hidden}, {cross_attention_dim}]")));
                }
            }
        }
        Ok(Layers { count: numbers.len(), cross_attention_dim })
    }

    fn key_or_value(&self, name: &str) -> Result<[usize; 2], AdapterError> {
        sized(&self.attention, ATTENTION[0], name, "two sizes")
    }

    fn projected<const RANK: usize>(&self, name: &str, expected: &str) -> Result<[usize; RANK], AdapterError> {
        sized(&self.projection, PROJECTION, name, expected)
    }

    /// Tokens that a final linear layer `name` puts out side by side.
    fn tokens_of(&self, name: &str, cross_attention_dim: usize) -> Result<usize, AdapterError> {
        let [out, _] = self.projected(name, "two sizes")?;
        if out == 0 || !out.is_multiple_of(cross_attention_dim.max(1)) {
            let expected = format!("a multiple of {cross_attention_dim} first");
            return Err(misshapen(PROJECTION, name, self.projection[name], expected));
        }
        Ok(out / cross_attention_dim.max(1))
    }

    fn projection(&self, cross_attention_dim: usize, has_lora: bool) -> Result<Projection, AdapterError> {
        let has = |name: &str| self.projection.contains_key(name);
        let input_of = |name: &str| self.projected(name, "two sizes").map(|[_, input]: [usize; 2]| input);
        let found = if has("proj.weight") {
            Projection {
                kind: AdapterKind::Classic,
                image_embed_dim: Some(input_of("proj.weight")?),
                face_embed_dim: None,
                num_tokens: self.tokens_of("proj.weight", cross_attention_dim)?,
            }
        } else if has("proj.3.weight") {
            Projection {
                kind: AdapterKind::FullFace,
                image_embed_dim: Some(input_of("proj.0.weight")?),
                face_embed_dim: None,
                num_tokens: FULL_FACE_TOKENS,
            }
        } else if has("perceiver_resampler.proj_in.weight") {
            Projection {
                kind: AdapterKind::FaceIdPlus,
                image_embed_dim: Some(input_of("perceiver_resampler.proj_in.weight")?),
                face_embed_dim: Some(input_of("proj.0.weight")?),
                num_tokens: self.tokens_of("proj.2.weight", cross_attention_dim)?,
            }
        } else if has("norm.weight") {
            Projection {
                kind: if has_lora { AdapterKind::FaceId } else { AdapterKind::Portrait },
                image_embed_dim: None,
                face_embed_dim: Some(input_of("proj.0.weight")?),
                num_tokens: self.tokens_of("proj.2.weight", cross_attention_dim)?,
            }
        } else {
            self.resampler()?
        };
        self.check_tokens_fit(found, cross_attention_dim)
    }

    fn resampler(&self) -> Result<Projection, AdapterError> {
        let [_, num_tokens, _] = self.projected("latents", "three sizes")?;
        let [_, input] = self.projected("proj_in.weight", "two sizes")?;
        Ok(match input {
            512 => Projection {
                // the width of an ArcFace embedding, which no vision tower has
                kind: AdapterKind::PortraitUnnorm,
                image_embed_dim: None,
                face_embed_dim: Some(input),
                num_tokens,
            },
            _ => Projection { kind: AdapterKind::Plus, image_embed_dim: Some(input), face_embed_dim: None, num_tokens },
        })
    }

    fn resampler_sizes(&self) -> Result<ResamplerSizes, AdapterError> {
        let [_, _, width] = self.projected("latents", "three sizes")?;
        let [attention_width, _] = self.projected("layers.0.0.to_q.weight", "two sizes")?;
        if attention_width == 0 || !attention_width.is_multiple_of(RESAMPLER_HEAD) {
            let name = "layers.0.0.to_q.weight";
            let expected = format!("a multiple of {RESAMPLER_HEAD} first, the width of an attention head");
            return Err(misshapen(PROJECTION, name, self.projection[name], expected));
        }
        let [feed_forward, _] = self.projected("layers.0.1.1.weight", "two sizes")?;
        let has_layer = |layer: &usize| self.projection.contains_key(format!("layers.{layer}.0.to_q.weight").as_str());
        Ok(ResamplerSizes { width, attention_width, feed_forward, depth: (0..).take_while(has_layer).count() })
    }

    /// The last normalisation of every projection is as wide as a token.
    fn check_tokens_fit(&self, found: Projection, cross_attention_dim: usize) -> Result<Projection, AdapterError> {
        let name = match found.kind {
            AdapterKind::FullFace => "proj.3.weight",
            AdapterKind::Plus | AdapterKind::PortraitUnnorm => "norm_out.weight",
            _ => "norm.weight",
        };
        let [width] = self.projected(name, "one size")?;
        if width != cross_attention_dim {
            let expected = format!("[{cross_attention_dim}] as in the attention layers");
            return Err(misshapen(PROJECTION, name, self.projection[name], expected));
        }
        Ok(found)
    }
}

fn sized<const RANK: usize>(
    part: &BTreeMap<&str, &[usize]>,
    prefix: &str,
    name: &str,
    expected: &str,
) -> Result<[usize; RANK], AdapterError> {
    let shape = *part.get(name).ok_or_else(|| AdapterError::Missing { name: format!("{prefix}{name}") })?;
    shape.try_into().map_err(|_| misshapen(prefix, name, shape, expected.to_owned()))
}

fn misshapen(prefix: &str, name: &str, shape: &[usize], expected: String) -> AdapterError {
    AdapterError::Shape { name: format!("{prefix}{name}"), shape: shape.to_vec(), expected }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Dtype;

    type Tensors = BTreeMap<String, TensorInfo>;

    fn tensors(names: &[(&str, &[usize])]) -> Tensors {
        let info = |shape: &[usize]| TensorInfo { dtype: Dtype::F16, shape: shape.to_vec() };
        names.iter().map(|&(name, shape)| (name.to_owned(), info(shape))).collect()
    }

    fn with_layers(projection: &[(&str, &[usize])], prefix: &str, count: usize, dim: usize) -> Tensors {
        let mut all = tensors(projection);
        for layer in 0..count {
            for part in ["to_k_ip", "to_v_ip"] {
                let name = format!("{prefix}{}.{part}.weight", 2 * layer + 1);
                all.extend(tensors(&[(&name, &[320, dim])]));
            }
        }
        all
    }

    const CLASSIC: [(&str, &[usize]); 4] = [
        ("image_proj.proj.weight", &[3072, 1024]),
        ("image_proj.proj.bias", &[3072]),
        ("image_proj.norm.weight", &[768]),
        ("image_proj.norm.bias", &[768]),
    ];
    const FACE: [(&str, &[usize]); 3] = [
        ("image_proj.proj.0.weight", &[1024, 512]),
        ("image_proj.proj.2.weight", &[3072, 1024]),
        ("image_proj.norm.weight", &[768]),
    ];
    const RESAMPLER: [(&str, &[usize]); 6] = [
        ("image_proj.latents", &[1, 16, 1280]),
        ("image_proj.layers.0.0.to_q.weight", &[1280, 1280]),
        ("image_proj.layers.0.1.1.weight", &[5120, 1280]),
        ("image_proj.layers.1.0.to_q.weight", &[1280, 1280]),
        ("image_proj.layers.3.0.to_q.weight", &[1280, 1280]),
        ("image_proj.norm_out.weight", &[2048]),
    ];
    const LORA: (&str, &[usize]) = ("ip_adapter.0.to_q_lora.down.weight", &[128, 320]);

    #[test]
    fn classic_of_sd15_is_recognised_under_both_prefixes() {
        for prefix in ATTENTION {
            let found = recognise_adapter(&with_layers(&CLASSIC, prefix, 16, 768)).unwrap();
            let expected = AdapterInfo {
                kind: AdapterKind::Classic,
                base: BaseModel::Sd15,
                image_embed_dim: Some(1024),
                face_embed_dim: None,
                cross_attention_dim: 768,
                num_tokens: 4,
                num_layers: 16,
                has_lora: false,
                resampler: None,
            };
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn plus_of_sdxl_is_recognised() {
        let projection = [&RESAMPLER[..], &[("image_proj.proj_in.weight", &[1280, 1280])]].concat();
        let found = recognise_adapter(&with_layers(&projection, "ip_adapter.", 70, 2048)).unwrap();
        assert_eq!((found.kind, found.base), (AdapterKind::Plus, BaseModel::Sdxl));
        assert_eq!((found.image_embed_dim, found.num_tokens, found.num_layers), (Some(1280), 16, 70));
        let sizes = ResamplerSizes { width: 1280, attention_width: 1280, feed_forward: 5120, depth: 2 };
        assert_eq!(found.resampler, Some(sizes));
    }

    #[test]
    fn a_resampler_over_512_features_is_a_portrait() {
        let projection = [&RESAMPLER[..], &[("image_proj.proj_in.weight", &[1280, 512])]].concat();
        let found = recognise_adapter(&with_layers(&projection, "ip_adapter.", 70, 2048)).unwrap();
        assert_eq!((found.kind, found.face_embed_dim), (AdapterKind::PortraitUnnorm, Some(512)));
    }

    #[test]
    fn full_face_is_recognised() {
        let projection: [(&str, &[usize]); 3] = [
            ("image_proj.proj.0.weight", &[1280, 1280]),
            ("image_proj.proj.2.weight", &[768, 1280]),
            ("image_proj.proj.3.weight", &[768]),
        ];
        let found = recognise_adapter(&with_layers(&projection, "ip_adapter.", 16, 768)).unwrap();
        assert_eq!((found.kind, found.num_tokens), (AdapterKind::FullFace, 257));
    }

    #[test]
    fn lora_tells_face_id_from_portrait() {
        let portrait = with_layers(&FACE, "ip_adapter.", 16, 768);
        assert_eq!(recognise_adapter(&portrait).unwrap().kind, AdapterKind::Portrait);
        let mut face_id = portrait;
        face_id.extend(tensors(&[LORA]));
        let found = recognise_adapter(&face_id).unwrap();
        assert_eq!((found.kind, found.has_lora, found.num_tokens), (AdapterKind::FaceId, true, 4));
        assert_eq!((found.image_embed_dim, found.face_embed_dim), (None, Some(512)));
    }

    #[test]
    fn face_id_plus_takes_both_embeddings() {
        let mut all = with_layers(&FACE, "ip_adapter.", 16, 768);
        all.extend(tensors(&[LORA, ("image_proj.perceiver_resampler.proj_in.weight", &[768, 1280])]));
        let found = recognise_adapter(&all).unwrap();
        assert_eq!(found.kind, AdapterKind::FaceIdPlus);
        assert_eq!((found.image_embed_dim, found.face_embed_dim), (Some(1280), Some(512)));
    }

    #[test]
    fn small_models_are_another_base() {
        let projection: [(&str, &[usize]); 2] =
            [("image_proj.proj.weight", &[512, 96]), ("image_proj.norm.weight", &[128])];
        let found = recognise_adapter(&with_layers(&projection, "ip_adapter.", 16, 128)).unwrap();
        assert_eq!((found.base, found.num_tokens, found.image_embed_dim), (BaseModel::Other, 4, Some(96)));
    }

    #[test]
    fn other_models_are_not_adapters() {
        assert!(!is_adapter(&tensors(&[("conv_in.weight", &[320, 4, 3, 3])])));
        assert!(is_adapter(&tensors(&[("adapter_modules.1.to_k_ip.weight", &[320, 768])])));
    }

    #[test]
    fn faults_name_the_tensor() {
        let whole = with_layers(&CLASSIC, "ip_adapter.", 16, 768);
        let fault_without = |name: &str| {
            let mut cut = whole.clone();
            cut.remove(name).unwrap();
            recognise_adapter(&cut).unwrap_err().to_string()
        };
        for name in ["ip_adapter.1.to_k_ip.weight", "ip_adapter.31.to_v_ip.weight", "image_proj.norm.weight"] {
            assert!(fault_without(name).contains(name), "{}", fault_without(name));
        }
        assert!(fault_without("image_proj.proj.weight").contains("image_proj."));
        let fault_with = |name: &str, shape: &[usize]| {
            let mut bent = whole.clone();
            bent.extend(tensors(&[(name, shape)]));
            recognise_adapter(&bent).unwrap_err().to_string()
        };
        for (name, shape) in [
            ("ip_adapter.5.to_v_ip.weight", &[320, 767][..]),
            ("ip_adapter.5.to_k_ip.weight", &[320]),
            ("ip_adapter.1.to_v_ip.weight", &[640, 768]),
            ("image_proj.proj.weight", &[3000, 1024]),
            ("image_proj.proj.weight", &[0, 1024]),
            ("image_proj.norm.weight", &[767]),
        ] {
            assert!(fault_with(name, shape).contains(name), "{}", fault_with(name, shape));
        }
        assert!(fault_with("ip_adapter.40.to_k_ip.weight", &[320, 768]).contains("40"));
    }

    #[test]
    fn sizes_of_zero_are_a_fault() {
        assert!(recognise_adapter(&with_layers(&CLASSIC, "ip_adapter.", 16, 0)).is_err());
        assert!(recognise_adapter(&tensors(&CLASSIC)).is_err());
    }
}
