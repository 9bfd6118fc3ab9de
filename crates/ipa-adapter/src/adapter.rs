//! The adapter: projection and decoupled keys and values.

use std::collections::HashMap;
use std::path::Path;

use ipa_core::layers::{Linear, linear_no_bias};
use ipa_core::noise::Draws;
use ipa_core::tch::{self, Device, Kind, Tensor, nn::VarStore};
use ipa_core::{Checkpoint, WeightsError, save_variables, split_heads};
use ipa_formats::{AdapterInfo, AdapterKind, Weights, published_number};
use ipa_unet::UnetConfig;
use serde_json::Value;

use crate::{AdapterError, ImageProjection, ImagePrompt};

/// Sizes of the classic adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterConfig {
    /// Width of the image embeddings: 1024 for the published SD1.5 adapters.
    pub embed_dim: i64,
    /// Tokens an image becomes.
    pub num_tokens: i64,
    /// The UNet it belongs to.
    pub unet: UnetConfig,
}

impl AdapterConfig {
    /// The published size: four tokens an image.
    pub fn classic(embed_dim: i64, unet: &UnetConfig) -> Self {
        Self { embed_dim, num_tokens: 4, unet: unet.clone() }
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
    image_proj: ImageProjection,
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
        let image_proj = ImageProjection::new(&(vs.root() / "image_proj"), config.embed_dim, config.num_tokens, width);
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
        check_base(path, &info, unet)?;
        let config = AdapterConfig {
            embed_dim: info.image_embed_dim.unwrap_or_default() as i64,
            num_tokens: info.num_tokens as i64,
            unet: unet.clone(),
        };
        let adapter = Self::new(&config, options);
        Checkpoint::open(path)?.renamed(published_name).load_into(&adapter.vs)?;
        Ok(adapter)
    }

    /// Fills a new adapter as the reference trainer does: every K', V' a copy of the layer's K, V; the projection
    /// uniform in `±1/√fan_in`.
    ///
    /// `unet` are the UNet's variables by name.
    ///
    /// # Panics
    /// If they are not those of the configured UNet.
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
        let (width, bound) = (self.config.unet.cross_attention_dim, 1.0 / (self.config.embed_dim as f64).sqrt());
        let outputs = self.config.num_tokens * width;
        let mut draws = Draws::counted(seed, "image_proj", 0);
        for (name, shape) in [("weight", vec![outputs, self.config.embed_dim]), ("bias", vec![outputs])] {
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

    /// Image embeddings as prompt tokens.
    ///
    /// # Shapes
    /// - `image_embeds`: `[batch, embed_dim]`, or `[batch, images, embed_dim]` for several images in one prompt
    /// - result: `[batch, images · num_tokens, cross_attention_dim]`
    ///
    /// # Errors
    /// [`AdapterError::EmbedDim`] if `embed_dim` is not the one this adapter was trained for.
    pub fn ip_tokens(&self, image_embeds: &Tensor) -> Result<Tensor, AdapterError> {
        let (batch, found) = (image_embeds.size()[0], image_embeds.size()[image_embeds.dim() - 1]);
        let expected = self.config.embed_dim;
        if found != expected {
            return Err(AdapterError::EmbedDim { found, expected });
        }
        let image_embeds = image_embeds.to_device(self.vs.device()).to_kind(self.vs.kind());
        let tokens = self.image_proj.forward(&image_embeds.reshape([-1, expected]));
        Ok(tokens.view([batch, -1, self.config.unet.cross_attention_dim]))
    }

    /// Projects CLIP image embeddings into prompt tokens and prepares every cross-attention layer.
    ///
    /// Decoupled cross-attention (arXiv:2308.06721 §3.2): `Attn(Q, K, V) + scale · Attn(Q, K', V')`.
    /// `scale` 0 gives the plain UNet, 1 the trained strength; values above 1 are allowed.
    ///
    /// # Shapes
    /// - `image_embeds`: as for [`IpAdapter::ip_tokens`]; pooled and projected, not normalized
    ///
    /// # Errors
    /// [`AdapterError::EmbedDim`] if `embed_dim` is not the one this adapter was trained for.
    pub fn prompt(&self, image_embeds: &Tensor, scale: f64) -> Result<ImagePrompt, AdapterError> {
        Ok(self.prepare(&self.ip_tokens(image_embeds)?, scale))
    }

    /// As [`IpAdapter::prompt`] for classifier-free guidance: batch `[unconditional; conditional]`.
    ///
    /// The unconditional half sees zeros in place of the embeddings, through the same projection at the same scale.
    ///
    /// # Errors
    /// As [`IpAdapter::prompt`].
    pub fn guided_prompt(&self, image_embeds: &Tensor, scale: f64) -> Result<ImagePrompt, AdapterError> {
        self.prompt(&Tensor::cat(&[image_embeds.zeros_like(), image_embeds.shallow_clone()], 0), scale)
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
    if info.kind != AdapterKind::Classic {
        return Err(AdapterError::Kind { path: path.into(), kind: format!("{:?}", info.kind) });
    }
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
