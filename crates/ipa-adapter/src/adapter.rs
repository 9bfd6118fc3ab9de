//! The adapter: projection and decoupled keys and values.

use std::collections::HashMap;
use std::path::Path;

use ipa_core::layers::{Linear, linear_no_bias};
use ipa_core::noise::Draws;
use ipa_core::tch::{self, Device, Kind, Tensor, nn::VarStore};
use ipa_core::{Checkpoint, WeightsError, save_variables, split_heads};
use ipa_formats::{AdapterInfo, Weights, published_number};
use ipa_unet::UnetConfig;
use serde_json::Value;

use crate::projection::{ImageFeatures, Projection, ProjectionConfig};
use crate::{AdapterError, ImagePrompt};

/// Kind and sizes of an adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterConfig {
    /// What makes tokens of a picture.
    pub projection: ProjectionConfig,
    /// The UNet it belongs to.
    pub unet: UnetConfig,
}

impl AdapterConfig {
    /// The base adapter: four tokens from one embedding.
    pub fn classic(embed_dim: i64, unet: &UnetConfig) -> Self {
        Self { projection: ProjectionConfig::Classic { embed_dim, num_tokens: 4 }, unet: unet.clone() }
    }
}

/// Keys and values of one cross-attention layer.
#[derive(Debug)]
struct DecoupledSite {
    to_k_ip: Linear,
    to_v_ip: Linear,
    heads: i64,
}

/// An image-prompt adapter for one base model and one image encoder.
#[derive(Debug)]
pub struct IpAdapter {
    config: AdapterConfig,
    vs: VarStore,
    image_proj: Projection,
    sites: Vec<DecoupledSite>, // in execution order
}

impl IpAdapter {
    /// An adapter without values yet; its variables have the names of published files.
    pub fn new(config: &AdapterConfig, (device, kind): (Device, Kind)) -> Self {
        let mut vs = VarStore::new(device);
        vs.set_kind(kind);
        let (width, counts) = (config.unet.cross_attention_dim, config.unet.site_counts());
        let decoupled = |(index, site): (usize, ipa_unet::Site)| {
            let vs = vs.root() / "ip_adapter" / published_number(index, counts);
            DecoupledSite {
                to_k_ip: linear_no_bias(&(&vs / "to_k_ip"), width, site.width),
                to_v_ip: linear_no_bias(&(&vs / "to_v_ip"), width, site.width),
                heads: site.heads,
            }
        };
        let image_proj = Projection::new(&(vs.root() / "image_proj"), &config.projection, width);
        let sites = config.unet.sites().into_iter().enumerate().map(decoupled).collect();
        Self { config: config.clone(), vs, image_proj, sites }
    }

    /// Loads a published adapter file (flat safetensors, or torch's nested `.bin`; `adapter_modules.` is read as
    /// `ip_adapter.`).
    ///
    /// # Errors
    /// [`AdapterError`] if the file is broken, of another kind, or for another base model.
    pub fn load(path: &Path, unet: &UnetConfig, options: (Device, Kind)) -> Result<Self, AdapterError> {
        let weights = Weights::open(path).map_err(WeightsError::from)?;
        let info = ipa_formats::recognise_adapter(&weights.tensors())
            .map_err(|source| AdapterError::NotAnAdapter { path: path.into(), source })?;
        let unknown = || AdapterError::Kind { path: path.into(), kind: format!("{:?}", info.kind) };
        let projection = ProjectionConfig::of(&info).ok_or_else(unknown)?;
        check_base(path, &info, unet)?;
        let adapter = Self::new(&AdapterConfig { projection, unet: unet.clone() }, options);
        Checkpoint::open(path)?.renamed(published_name).load_into(&adapter.vs)?;
        Ok(adapter)
    }

    /// Fills a new classic adapter as the reference trainer does: every K', V' a copy of the layer's K, V; the
    /// projection uniform in `±1/√fan_in`.
    ///
    /// `unet` are the UNet's variables by name.
    ///
    /// # Panics
    /// If they are not those of the configured UNet, or the adapter is of another kind.
    pub fn initialize(&self, unet: &HashMap<String, Tensor>, seed: u64) {
        let _no_grad = tch::no_grad_guard();
        let set = |name: &str, value: &Tensor| {
            let mut variable = self.vs.variables().remove(name).expect("a variable of this adapter");
            variable.set_data(&value.detach().copy().to_kind(self.vs.kind()).to_device(self.vs.device()));
        };
        let counts = self.config.unet.site_counts();
        for (index, site) in self.config.unet.sites().iter().enumerate() {
            let number = published_number(index, counts);
            for (from, to) in [("to_k", "to_k_ip"), ("to_v", "to_v_ip")] {
                let weight = &unet[&format!("{}.{from}.weight", site.name)];
                set(&format!("ip_adapter.{number}.{to}.weight"), weight);
            }
        }
        let ProjectionConfig::Classic { embed_dim, num_tokens } = self.config.projection else {
            panic!("only classic adapters are begun from nothing");
        };
        let (width, bound) = (self.config.unet.cross_attention_dim, 1.0 / (embed_dim as f64).sqrt());
        let outputs = num_tokens * width;
        let mut draws = Draws::counted(seed, "image_proj", 0);
        for (name, shape) in [("weight", vec![outputs, embed_dim]), ("bias", vec![outputs])] {
            set(&format!("image_proj.proj.{name}"), &((draws.uniform(&shape) * 2.0 - 1.0) * bound));
        }
        set("image_proj.norm.weight", &Tensor::ones([width], (Kind::Float, Device::Cpu)));
        set("image_proj.norm.bias", &Tensor::zeros([width], (Kind::Float, Device::Cpu)));
    }

    /// Writes the published layout in `kind`; published files are f16.
    ///
    /// # Errors
    /// [`AdapterError::Weights`] if the file cannot be written.
    pub fn save(&self, path: &Path, kind: Kind, metadata: Option<&Value>) -> Result<(), AdapterError> {
        Ok(save_variables(path, &self.vs, kind, metadata)?)
    }

    /// Its sizes.
    pub fn config(&self) -> &AdapterConfig {
        &self.config
    }

    /// Its variables, under their published names.
    pub fn variables(&self) -> HashMap<String, Tensor> {
        self.vs.variables()
    }

    /// What of a picture it reads.
    pub fn features(&self) -> ImageFeatures {
        self.config.projection.features()
    }

    /// Image features as prompt tokens.
    ///
    /// # Shapes
    /// - `features`: embeddings `[batch, width]` or penultimate features `[batch, patches, width]`, as
    ///   [`IpAdapter::features`] says; with a dimension for the images after `batch` for several in one prompt
    /// - result: `[batch, images · num_tokens, cross_attention_dim]`
    ///
    /// # Errors
    /// [`AdapterError::EmbedDim`] or [`AdapterError::FeatureWidth`] if `width` is not the one this adapter was trained
    /// for.
    ///
    /// # Panics
    /// If `features` has too few dimensions.
    pub fn ip_tokens(&self, features: &Tensor) -> Result<Tensor, AdapterError> {
        let size = features.size();
        self.check_width(size[size.len() - 1])?;
        let each = match self.features() {
            ImageFeatures::Embedding => &size[size.len() - 1..],
            ImageFeatures::Penultimate => &size[size.len() - 2..],
        };
        let features = features.to_device(self.vs.device()).to_kind(self.vs.kind());
        let tokens = self.image_proj.forward(&features.reshape([&[-1], each].concat()));
        Ok(tokens.reshape([size[0], -1, self.config.unet.cross_attention_dim]))
    }

    /// Checks that an encoder's features are as wide as those this adapter was trained for.
    ///
    /// # Errors
    /// [`AdapterError::EmbedDim`] or [`AdapterError::FeatureWidth`].
    pub fn check_width(&self, found: i64) -> Result<(), AdapterError> {
        let expected = self.config.projection.input();
        match self.features() {
            _ if found == expected => Ok(()),
            ImageFeatures::Embedding => Err(AdapterError::EmbedDim { found, expected }),
            ImageFeatures::Penultimate => Err(AdapterError::FeatureWidth { found, expected }),
        }
    }

    /// Projects image features into prompt tokens and prepares every cross-attention layer.
    ///
    /// Decoupled cross-attention (arXiv:2308.06721 §3.2): `Attn(Q, K, V) + scale · Attn(Q, K', V')`.
    /// `scale` 0 gives the plain UNet, 1 the trained strength; values above 1 are allowed.
    ///
    /// # Shapes
    /// - `features`: as for [`IpAdapter::ip_tokens`]; embeddings are not normalized
    ///
    /// # Errors
    /// As [`IpAdapter::ip_tokens`].
    pub fn prompt(&self, features: &Tensor, scale: f64) -> Result<ImagePrompt, AdapterError> {
        Ok(self.prepare(&self.ip_tokens(features)?, scale))
    }

    /// As [`IpAdapter::prompt`] for classifier-free guidance: batch `[unconditional; conditional]`.
    ///
    /// The unconditional half sees `unconditional` in place of every image, through the same projection at the same
    /// scale. The reference takes zeros in place of embeddings, and the features of a picture of zeros, after
    /// normalisation, in place of penultimate features.
    ///
    /// # Shapes
    /// - `unconditional`: as `features`, or sizes of one that stretch to it
    ///
    /// # Errors
    /// As [`IpAdapter::prompt`].
    pub fn guided_prompt(
        &self,
        features: &Tensor,
        unconditional: &Tensor,
        scale: f64,
    ) -> Result<ImagePrompt, AdapterError> {
        let unconditional = unconditional.to_device(features.device()).to_kind(features.kind());
        self.prompt(&Tensor::cat(&[unconditional.expand_as(features), features.shallow_clone()], 0), scale)
    }

    fn prepare(&self, ip_tokens: &Tensor, scale: f64) -> ImagePrompt {
        let keys_values = |site: &DecoupledSite| {
            let heads = |projection: &Linear| split_heads(&ip_tokens.apply(projection), site.heads);
            (heads(&site.to_k_ip), heads(&site.to_v_ip))
        };
        ImagePrompt { keys_values: self.sites.iter().map(keys_values).collect(), scale }
    }
}

fn check_base(path: &Path, info: &AdapterInfo, unet: &UnetConfig) -> Result<(), AdapterError> {
    let describe =
        |layers: usize, width: usize| format!("{layers} cross-attention layers reading tokens of width {width}");
    let (layers, width) = (unet.sites().len(), unet.cross_attention_dim as usize);
    if (info.num_layers, info.cross_attention_dim) != (layers, width) {
        let (theirs, ours) = (describe(info.num_layers, info.cross_attention_dim), describe(layers, width));
        return Err(AdapterError::Base { path: path.into(), theirs, ours });
    }
    Ok(())
}

fn published_name(name: &str) -> Option<String> {
    Some(match name.strip_prefix("adapter_modules.") {
        Some(rest) => format!("ip_adapter.{rest}"),
        None => name.to_owned(),
    })
}
