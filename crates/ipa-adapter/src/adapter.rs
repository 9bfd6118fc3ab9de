//! The adapter: projection and decoupled keys and values.

use std::collections::HashMap;
use std::path::Path;

use ipa_core::layers::{Linear, linear_no_bias};
use ipa_core::tch::{Device, Kind, Tensor, nn::VarStore};
use ipa_core::{Checkpoint, WeightsError, save_variables, split_heads};
use ipa_formats::{
    AdapterCoupling, AdapterFile, AdapterInfo, AdapterKind, AdapterOptions, AdapterVariant, BaseModel, published_number,
};
use ipa_unet::UnetConfig;
use serde_json::Value;

use crate::projection::{Prefusion, Projection, ProjectionConfig};
use crate::{AdapterError, Features, ImageFeatures, ImagePrompt, Lora};

/// Kind and sizes of an adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterConfig {
    /// What makes tokens of a reference.
    pub projection: ProjectionConfig,
    /// How the UNet comes to see the tokens.
    pub coupling: AdapterCoupling,
    /// Rank of the changes to the UNet's weights that are inside the adapter, if any are.
    pub lora_rank: Option<i64>,
    /// The UNet it belongs to.
    pub unet: UnetConfig,
}

impl AdapterConfig {
    /// One whose tokens get attention of their own, which is all published ones but FaceID.
    pub fn new(projection: ProjectionConfig, unet: &UnetConfig) -> Self {
        Self { projection, coupling: AdapterCoupling::Decoupled, lora_rank: None, unet: unet.clone() }
    }

    /// The name of its kind.
    pub fn variant(&self) -> AdapterVariant {
        let kind = match &self.projection {
            ProjectionConfig::Classic { .. } => AdapterKind::Classic,
            ProjectionConfig::Plus(_) => AdapterKind::Plus,
            ProjectionConfig::FullFace { .. } => AdapterKind::FullFace,
            ProjectionConfig::Face(_) => AdapterKind::FaceId,
            ProjectionConfig::Portrait(_) => AdapterKind::Portrait,
            ProjectionConfig::FacePlus { has_shortcut: true, .. } => AdapterKind::FaceIdPlusV2,
            ProjectionConfig::FacePlus { .. } => AdapterKind::FaceIdPlus,
            ProjectionConfig::FaceResampler(_) => AdapterKind::PortraitUnnorm,
        };
        AdapterVariant::of(kind, self.coupling)
    }

    /// The base adapter: four tokens from one embedding.
    pub fn classic(embed_dim: i64, unet: &UnetConfig) -> Self {
        Self::new(ProjectionConfig::Classic { embed_dim, num_tokens: 4 }, unet)
    }
}

/// Keys and values of one cross-attention layer.
#[derive(Debug)]
struct DecoupledSite {
    to_k_ip: Linear,
    to_v_ip: Linear,
    heads: i64,
}

/// An image-prompt adapter for one base model.
#[derive(Debug)]
pub struct IpAdapter {
    config: AdapterConfig,
    vs: VarStore,
    image_proj: Projection,
    prefusion: Option<Prefusion>,
    sites: Vec<DecoupledSite>, // in execution order; none if the UNet's own attention reads the tokens
    lora: Option<Lora>,
}

impl IpAdapter {
    /// An adapter without values yet; its variables have the names of published files.
    pub fn new(config: &AdapterConfig, (device, kind): (Device, Kind)) -> Self {
        let mut vs = VarStore::new(device);
        vs.set_kind(kind);
        let (root, width) = (vs.root(), config.unet.cross_attention_dim);
        let attention = &root / "ip_adapter";
        let sites = match config.coupling {
            AdapterCoupling::Concatenated => Vec::new(),
            AdapterCoupling::Decoupled | AdapterCoupling::Prefused => DecoupledSite::all(&attention, &config.unet),
        };
        let is_prefused = config.coupling == AdapterCoupling::Prefused;
        Self {
            image_proj: Projection::new(&(&root / "image_proj"), &config.projection, width),
            prefusion: is_prefused.then(|| Prefusion::new(&(&root / "prefusion"), width)),
            sites,
            lora: config.lora_rank.map(|rank| Lora::declared(&attention, &config.unet, rank)),
            config: config.clone(),
            vs,
        }
    }

    /// Loads an adapter file in any of the layouts that [`AdapterFile::open`] reads.
    ///
    /// # Errors
    /// [`AdapterError`] if the file is broken or for another base model.
    pub fn load(path: &Path, unet: &UnetConfig, options: (Device, Kind)) -> Result<Self, AdapterError> {
        Self::load_file(AdapterFile::open(path, &AdapterOptions::default()).map_err(WeightsError::from)?, unet, options)
    }

    /// As [`IpAdapter::load`], of a file that is open already, perhaps with options.
    ///
    /// # Errors
    /// As [`IpAdapter::load`].
    pub fn load_file(file: AdapterFile, unet: &UnetConfig, options: (Device, Kind)) -> Result<Self, AdapterError> {
        let info = file.info();
        let path = file.weights().path().to_path_buf();
        check_base(&path, info, unet)?;
        let no_size = || AdapterError::Sizes { path: path.clone() };
        let config = AdapterConfig {
            projection: ProjectionConfig::of(info).ok_or_else(no_size)?,
            coupling: info.coupling,
            lora_rank: info.lora_rank.map(|rank| rank as i64),
            unet: unet.clone(),
        };
        let adapter = Self::new(&config, options);
        Checkpoint::of(file.into_weights()).load_into(&adapter.vs)?;
        Ok(adapter)
    }

    /// Writes the published layout in `kind`; published files are f16.
    ///
    /// Tensors do not tell all variants apart, so that `variant` is added to the metadata where it is not there.
    ///
    /// # Errors
    /// [`AdapterError::Weights`] if the file cannot be written.
    pub fn save(&self, path: &Path, kind: Kind, metadata: Option<&Value>) -> Result<(), AdapterError> {
        let mut fields = metadata.and_then(Value::as_object).cloned().unwrap_or_default();
        fields.entry("variant").or_insert_with(|| self.config.variant().name().into());
        Ok(save_variables(path, &self.vs, kind, Some(&fields.into()))?)
    }

    /// Its sizes.
    pub fn config(&self) -> &AdapterConfig {
        &self.config
    }

    /// Its variables, under their published names.
    pub fn variables(&self) -> HashMap<String, Tensor> {
        self.vs.variables()
    }

    /// What of a picture it reads, if it reads pictures.
    pub fn image_features(&self) -> Option<ImageFeatures> {
        self.config.projection.image_features()
    }

    /// Changes to the UNet's weights that are inside the file, if any are.
    pub fn lora(&self) -> Option<&Lora> {
        self.lora.as_ref()
    }

    /// References as prompt tokens.
    ///
    /// # Shapes
    /// - `features`: one reference a row, or several in one prompt after another
    /// - result: `[batch, images · num_tokens, cross_attention_dim]`
    ///
    /// # Errors
    /// [`AdapterError::EmbedDim`], [`AdapterError::FeatureWidth`] or [`AdapterError::FaceWidth`] if a width is not the
    /// one this adapter was trained for; [`AdapterError::NeedsPicture`] or [`AdapterError::NeedsFace`] if something it
    /// reads is not there.
    ///
    /// # Panics
    /// If `features` has too few dimensions.
    pub fn ip_tokens(&self, features: impl Into<Features>) -> Result<Tensor, AdapterError> {
        let features = features.into();
        let projection = &self.config.projection;
        let last = |tensor: &Tensor| tensor.size().last().copied().unwrap_or_default();
        let mut batch = 1;
        let mut rows = Features { image: None, face: None, structure: features.structure };
        if let Some(kind) = self.image_features() {
            let image = features.image.as_ref().ok_or(AdapterError::NeedsPicture)?;
            self.check_width(last(image))?;
            batch = image.size()[0];
            rows.image = Some(as_rows(image, kind.dimensions()));
        }
        if let Some(expected) = projection.face_width() {
            let face = features.face.as_ref().ok_or(AdapterError::NeedsFace { width: expected })?;
            if last(face) != expected {
                return Err(AdapterError::FaceWidth { found: last(face), expected });
            }
            batch = face.size()[0];
            rows.face = Some(as_rows(face, 1));
        }
        let tokens = self.image_proj.forward(&rows.to(self.vs.device(), self.vs.kind()));
        Ok(tokens.reshape([batch, -1, self.config.unet.cross_attention_dim]))
    }

    /// Checks that an encoder's features are as wide as those this adapter was trained for.
    ///
    /// # Errors
    /// [`AdapterError::EmbedDim`] or [`AdapterError::FeatureWidth`].
    pub fn check_width(&self, found: i64) -> Result<(), AdapterError> {
        check_image_width(&self.config.projection, found)
    }

    /// Projects references into prompt tokens and prepares every cross-attention layer.
    ///
    /// Decoupled cross-attention (arXiv:2308.06721 §3.2): `Attn(Q, K, V) + scale · Attn(Q, K', V')`.
    /// `scale` 0 gives the plain UNet, 1 the trained strength; values above 1 are allowed.
    ///
    /// # Errors
    /// As [`IpAdapter::ip_tokens`].
    pub fn prompt(&self, features: impl Into<Features>, scale: f64) -> Result<ImagePrompt, AdapterError> {
        Ok(self.prompt_of(&self.ip_tokens(features)?, scale))
    }

    /// As [`IpAdapter::prompt`] for classifier-free guidance: batch `[unconditional; conditional]`.
    ///
    /// The unconditional half sees `unconditional` in place of every image, through the same projection at the same
    /// scale. The reference takes zeros in place of embeddings and identities, and the features of a picture of zeros,
    /// after normalisation, in place of penultimate features.
    ///
    /// # Shapes
    /// - `unconditional`: as `features`, or sizes of one that stretch to it
    ///
    /// # Errors
    /// As [`IpAdapter::prompt`].
    pub fn guided_prompt(
        &self,
        features: impl Into<Features>,
        unconditional: impl Into<Features>,
        scale: f64,
    ) -> Result<ImagePrompt, AdapterError> {
        let (features, unconditional) = (features.into(), unconditional.into());
        let both = |features: &Option<Tensor>, unconditional: &Option<Tensor>| {
            let (features, unconditional) = (features.as_ref()?, unconditional.as_ref()?);
            let unconditional = unconditional.to_device(features.device()).to_kind(features.kind());
            Some(Tensor::cat(&[unconditional.expand_as(features), features.shallow_clone()], 0))
        };
        let image = both(&features.image, &unconditional.image);
        let face = both(&features.face, &unconditional.face);
        self.prompt(Features { image, face, structure: features.structure }, scale)
    }

    /// Image tokens as the UNet is to see them beside `text`, `[batch, text tokens, width]`: only where
    /// [`AdapterConfig::coupling`] is prefused do they depend on it.
    pub fn fused(&self, ip_tokens: &Tensor, text: &Tensor) -> Tensor {
        match &self.prefusion {
            Some(prefusion) => prefusion.forward(ip_tokens, &text.to_kind(ip_tokens.kind())),
            None => ip_tokens.shallow_clone(),
        }
    }

    /// Prepares every cross-attention layer for tokens `[batch, tokens, cross_attention_dim]`.
    pub fn prompt_of(&self, ip_tokens: &Tensor, scale: f64) -> ImagePrompt {
        self.prompt_by_site(|_| ip_tokens.shallow_clone(), scale)
    }

    /// As [`IpAdapter::prompt_of`], with tokens for each layer, by its number in execution order.
    pub fn prompt_by_site(&self, ip_tokens: impl Fn(usize) -> Tensor, scale: f64) -> ImagePrompt {
        if self.config.coupling == AdapterCoupling::Concatenated {
            return ImagePrompt::appended(ip_tokens(0), self.config.unet.sites().len(), scale);
        }
        let keys_values = |(index, site): (usize, &DecoupledSite)| {
            let tokens = ip_tokens(index);
            let heads = |projection: &Linear| split_heads(&tokens.apply(projection), site.heads);
            (heads(&site.to_k_ip), heads(&site.to_v_ip))
        };
        ImagePrompt::new(self.sites.iter().enumerate().map(keys_values).collect(), scale)
    }
}

impl DecoupledSite {
    fn all(vs: &ipa_core::tch::nn::Path, unet: &UnetConfig) -> Vec<Self> {
        let (width, counts) = (unet.cross_attention_dim, unet.site_counts());
        let decoupled = |(index, site): (usize, ipa_unet::Site)| {
            let vs = vs / published_number(index, counts);
            Self {
                to_k_ip: linear_no_bias(&(&vs / "to_k_ip"), width, site.width),
                to_v_ip: linear_no_bias(&(&vs / "to_v_ip"), width, site.width),
                heads: site.heads,
            }
        };
        unet.sites().into_iter().enumerate().map(decoupled).collect()
    }
}

/// `[.., features of one]` → `[references, features of one]`
fn as_rows(features: &Tensor, dimensions: usize) -> Tensor {
    let size = features.size();
    features.reshape([&[-1], &size[size.len() - dimensions..]].concat())
}

/// Checks that an encoder's features are as wide as those that a projection was trained for.
pub(crate) fn check_image_width(projection: &ProjectionConfig, found: i64) -> Result<(), AdapterError> {
    match (projection.image_features(), projection.image_width()) {
        (Some(ImageFeatures::Embedding), Some(expected)) if expected != found => {
            Err(AdapterError::EmbedDim { found, expected })
        }
        (Some(ImageFeatures::Penultimate), Some(expected)) if expected != found => {
            Err(AdapterError::FeatureWidth { found, expected })
        }
        _ => Ok(()),
    }
}

/// Checks, from the header, that an adapter is for this base model.
///
/// # Errors
/// [`AdapterError::Base`].
pub fn check_base(path: &Path, info: &AdapterInfo, unet: &UnetConfig) -> Result<(), AdapterError> {
    let describe =
        |layers: usize, width: usize| format!("{layers} cross-attention layers reading tokens of width {width}");
    let (layers, width) = (unet.sites().len(), unet.cross_attention_dim as usize);
    // One without attention of its own fits any number of layers.
    let own_layers = if info.coupling == AdapterCoupling::Concatenated { layers } else { info.num_layers };
    if (own_layers, info.cross_attention_dim) != (layers, width) {
        let (theirs, ours) = (describe(own_layers, info.cross_attention_dim), describe(layers, width));
        return Err(AdapterError::Base { path: path.into(), theirs, ours, base: BaseModel::of(layers, width) });
    }
    Ok(())
}
