//! Kind and sizes of an adapter, from the names and shapes of its tensors.
//!
//! Three pairs cannot be told apart by tensors: plus and plus-face, base and light, FaceID-Plus v1 and v2.

use super::AdapterError;
use super::declared::Declared;
use super::info::{AdapterInfo, ResamplerSizes};
use super::kind::{AdapterCoupling, AdapterKind, BaseModel};
use super::layers::{self, base_of, count_layers, keys_and_values, mostly_there, set_widths};
use super::projections::Network;
use super::schema::{self, Size, Sizes, Slot, Tensors};

/// Width of an attention head in every published resampler.
const RESAMPLER_HEAD: usize = 64;
/// Features per patch go in, one token each comes out: 16 × 16 patches and the class token.
const FULL_FACE_TOKENS: usize = 257;
/// Tokens of a portrait adapter; a FaceID adapter whose LoRA lies in another file has fewer.
const PORTRAIT_TOKENS: usize = 16;
/// Width of an ArcFace embedding, which no vision tower has.
const FACE_EMBED_DIM: usize = 512;

/// The parts of an adapter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    pub(super) network: Network,
    pub(super) coupling: AdapterCoupling,
    pub(super) num_layers: usize,
    pub(super) has_lora: bool,
}

/// What an adapter need not be.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Lenience {
    /// Whole.
    pub(super) missing: bool,
    /// Alone in its file.
    pub(super) unknown: bool,
}

/// An adapter under published names.
#[derive(Debug)]
pub(super) struct Recognised {
    pub(super) parts: Parts,
    /// Kind and sizes, if it is whole.
    pub(super) info: Option<AdapterInfo>,
    /// Names of the tensors that it lacks.
    pub(super) missing: Vec<String>,
    /// Names of the tensors that are none of its.
    pub(super) unknown: Vec<String>,
}

/// Recognises an adapter under published names; every tensor must be one of its kind, and of the right shape.
pub(super) fn recognise(tensors: &Tensors, declared: &Declared) -> Result<AdapterInfo, AdapterError> {
    let recognised = recognise_leniently(tensors, declared, Lenience::default())?;
    Ok(recognised.info.expect("nothing is missing: that would have been an error"))
}

/// As [`recognise`], of what may be more or less than an adapter.
pub(super) fn recognise_leniently(
    tensors: &Tensors,
    declared: &Declared,
    lenience: Lenience,
) -> Result<Recognised, AdapterError> {
    let parts = Parts::of(tensors, declared, lenience.missing)?;
    let slots = parts.slots();
    let mut sizes = Sizes::vote(&slots, tensors);
    let base = parts.base(sizes.get(Size::Context));
    if parts.coupling != AdapterCoupling::Concatenated {
        set_widths(base, &mut sizes);
    }
    let missing = schema::missing(&slots, tensors);
    if let (false, Some(name)) = (lenience.missing, missing.first()) {
        return Err(AdapterError::Missing { name: name.clone() });
    }
    sizes.check(&slots, tensors)?;
    let unknown = schema::unknown(&slots, tensors);
    if let (false, Some(name)) = (lenience.unknown, unknown.first()) {
        return Err(AdapterError::Unexpected { name: name.clone() });
    }
    let mut info = None;
    if missing.is_empty() {
        check_heads(parts.network, tensors)?;
        let found = parts.info(&sizes, base, declared);
        declared.check(&found)?;
        info = Some(found);
    }
    Ok(Recognised { parts, info, missing, unknown })
}

impl Parts {
    fn of(tensors: &Tensors, declared: &Declared, may_lack: bool) -> Result<Self, AdapterError> {
        let network = Network::nearest(tensors);
        let plain = matches!(network, Network::Linear | Network::Resampler { .. });
        let face = matches!(network, Network::Face | Network::FacePerceiver { .. });
        let layered = tensors.keys().any(|name| name.starts_with(layers::ATTENTION));
        if plain && !layered && declared.concatenated() {
            return Ok(Self { network, coupling: AdapterCoupling::Concatenated, num_layers: 0, has_lora: false });
        }
        let num_layers = match may_lack {
            true => layers::likely_layers(tensors),
            false => count_layers(tensors)?,
        };
        let coupling = match plain && mostly_there(&layers::prefusion(), tensors) {
            true => AdapterCoupling::Prefused,
            false => AdapterCoupling::Decoupled,
        };
        let has_lora = face && mostly_there(&layers::lora(num_layers), tensors);
        Ok(Self { network, coupling, num_layers, has_lora })
    }

    /// Every tensor of these parts.
    fn slots(&self) -> Vec<Slot> {
        let mut slots = keys_and_values(self.num_layers);
        slots.extend(self.network.slots());
        if self.has_lora {
            slots.extend(layers::lora(self.num_layers));
        }
        if self.coupling == AdapterCoupling::Prefused {
            slots.extend(layers::prefusion());
        }
        slots
    }

    fn base(&self, context: Option<usize>) -> BaseModel {
        match (self.coupling, context) {
            (AdapterCoupling::Concatenated, Some(768)) => BaseModel::Sd15,
            (AdapterCoupling::Concatenated, Some(2048)) => BaseModel::Sdxl,
            (AdapterCoupling::Concatenated, _) => BaseModel::Other,
            _ => base_of(self.num_layers, context),
        }
    }

    /// What the parts and their checked sizes tell.
    fn info(&self, sizes: &Sizes, base: BaseModel, declared: &Declared) -> AdapterInfo {
        let size = |size| sizes.get(size).unwrap_or_default(); // all that its tensors mention were found
        let num_tokens = match self.network {
            Network::EveryFeature => FULL_FACE_TOKENS,
            _ => size(Size::Tokens),
        };
        let kind = self.kind(sizes, base, declared);
        let unnormalised = kind == AdapterKind::PortraitUnnorm;
        let input = sizes.get(Size::Input);
        AdapterInfo {
            kind,
            coupling: self.coupling,
            base,
            image_embed_dim: input.filter(|_| !unnormalised),
            face_embed_dim: if unnormalised { input } else { sizes.get(Size::Face) },
            face_hidden: sizes.get(Size::FaceHidden),
            cross_attention_dim: size(Size::Context),
            num_tokens,
            num_layers: self.num_layers,
            has_lora: self.has_lora,
            lora_rank: sizes.get(Size::Rank),
            resampler: self.resampler(sizes),
        }
    }

    /// What was said, among the kinds with such tensors; otherwise what published files suggest.
    fn kind(&self, sizes: &Sizes, base: BaseModel, declared: &Declared) -> AdapterKind {
        use AdapterKind::*;
        let choose =
            |kinds: [AdapterKind; 2], second: bool| declared.kind_among(&kinds).unwrap_or(kinds[usize::from(second)]);
        let tokens = sizes.get(Size::Tokens).unwrap_or_default();
        match self.network {
            Network::Linear => Classic,
            Network::EveryFeature => FullFace,
            Network::Face if self.has_lora => FaceId,
            Network::Face => choose([FaceId, Portrait], tokens >= PORTRAIT_TOKENS),
            // Of SDXL only the second version was published.
            Network::FacePerceiver { .. } => {
                choose([FaceIdPlus, FaceIdPlusV2], base == BaseModel::Sdxl || declared.named_v2)
            }
            Network::Resampler { .. } => choose([Plus, PortraitUnnorm], sizes.get(Size::Input) == Some(FACE_EMBED_DIM)),
        }
    }

    fn resampler(&self, sizes: &Sizes) -> Option<ResamplerSizes> {
        let (width, depth) = match self.network {
            Network::FacePerceiver { depth } => (Size::Context, depth),
            Network::Resampler { depth } => (Size::Latents, depth),
            _ => return None,
        };
        Some(ResamplerSizes {
            width: sizes.get(width)?,
            attention_width: sizes.get(Size::Heads)?,
            feed_forward: sizes.get(Size::FeedForward)?,
            depth,
        })
    }
}

/// A resampler's queries must be whole heads.
fn check_heads(network: Network, tensors: &Tensors) -> Result<(), AdapterError> {
    let Some(name) = network.first_query() else { return Ok(()) };
    let shape = &tensors[&name].shape;
    match shape.first().is_some_and(|width| width.is_multiple_of(RESAMPLER_HEAD)) {
        true => Ok(()),
        false => Err(AdapterError::Shape {
            name,
            shape: shape.clone(),
            expected: format!("a multiple of {RESAMPLER_HEAD} first, the width of an attention head"),
        }),
    }
}
