//! Low-rank changes of a UNet's attention weights, as FaceID adapters bring them.

use std::collections::HashMap;
use std::path::Path;

use ipa_core::layers::declare;
use ipa_core::tch::{self, Kind, Tensor, nn};
use ipa_core::{Checkpoint, WeightsError};
use ipa_formats::{Weights, published_number};
use ipa_unet::UnetConfig;

use crate::AdapterError;

/// `W + strength · factor · up · down` for some of a UNet's matrices and convolutions (arXiv:2106.09685).
#[derive(Debug)]
pub struct Lora {
    layers: Vec<LoraLayer>,
}

/// The change of one weight.
#[derive(Debug)]
pub struct LoraLayer {
    weight: String, // name of the UNet's variable
    down: Tensor,   // [rank, inputs, ..]
    up: Tensor,     // [outputs, rank, ..]
    factor: f64,    // alpha / rank
}

impl Lora {
    /// Loads a file of its own, in the names of kohya's trainer, of diffusers or of PEFT.
    ///
    /// `variables` are those of the UNet that it is for.
    ///
    /// # Errors
    /// [`AdapterError`] naming the file and the tensor that does not fit.
    pub fn load(path: &Path, variables: &HashMap<String, Tensor>) -> Result<Self, AdapterError> {
        let weights = Weights::open(path).map_err(WeightsError::from)?;
        let modules: Vec<String> =
            variables.keys().filter_map(|name| Some(name.strip_suffix(".weight")?.to_owned())).collect();
        let found = ipa_formats::lora_layers(&weights, &modules).map_err(WeightsError::from)?;
        let checkpoint = Checkpoint::of(weights);
        let layer = |found: ipa_formats::LoraLayer| {
            let (down, up) = (checkpoint.tensor(&found.down)?, checkpoint.tensor(&found.up)?);
            let weight = format!("{}.weight", found.module);
            let expected = variables[&weight].size();
            let shape = [&up.size()[..1], &down.size()[1..]].concat();
            if shape != expected {
                return Err(WeightsError::Shape { path: path.into(), name: found.up, found: shape, expected });
            }
            let rank = down.size()[0] as f64;
            let factor = found.alpha.map_or(1.0, |alpha| alpha / rank);
            Ok(LoraLayer { weight, down, up, factor })
        };
        Ok(Self { layers: found.into_iter().map(layer).collect::<Result<_, _>>()? })
    }

    /// Declares those inside an adapter file: of queries, keys, values and outputs of every attention layer,
    /// self-attention too.
    pub(crate) fn declared(vs: &nn::Path, unet: &UnetConfig, rank: i64) -> Self {
        let (sites, counts) = (unet.sites(), unet.site_counts());
        let mut layers = Vec::new();
        for (index, site) in sites.iter().enumerate() {
            let number = published_number(index, counts);
            let own = site.name.replace("attn2", "attn1");
            for (number, module, context) in
                [(number - 1, own, site.width), (number, site.name.clone(), unet.cross_attention_dim)]
            {
                for (part, target, inputs) in [
                    ("to_q", "to_q", site.width),
                    ("to_k", "to_k", context),
                    ("to_v", "to_v", context),
                    ("to_out", "to_out.0", site.width),
                ] {
                    let vs = vs / number / format!("{part}_lora");
                    layers.push(LoraLayer {
                        weight: format!("{module}.{target}.weight"),
                        down: declare(&(&vs / "down"), "weight", &[rank, inputs]),
                        up: declare(&(&vs / "up"), "weight", &[site.width, rank]),
                        factor: 1.0, // Parity: no alpha
                    });
                }
            }
        }
        Self { layers }
    }

    /// Adds it to `patches`, which hold replacements of `variables`, a UNet's, by name; computed in f32.
    pub fn patch(&self, strength: f64, variables: &HashMap<String, Tensor>, patches: &mut HashMap<String, Tensor>) {
        let _no_grad = tch::no_grad_guard();
        if strength == 0.0 {
            return;
        }
        for layer in &self.layers {
            let own = patches.get(&layer.weight).unwrap_or_else(|| &variables[&layer.weight]);
            let changed = layer.changed(own, strength);
            patches.insert(layer.weight.clone(), changed);
        }
    }

    /// The changes one by one.
    pub fn layers(&self) -> &[LoraLayer] {
        &self.layers
    }
}

impl LoraLayer {
    /// The name of the UNet's variable that it changes.
    pub fn weight(&self) -> &str {
        &self.weight
    }

    /// `own + strength · factor · up · down`, computed in f32, in the kind of `own`.
    pub fn changed(&self, own: &Tensor, strength: f64) -> Tensor {
        let Self { down, up, factor, .. } = self;
        // Of convolutions, the second is one of 1 × 1: one matrix after the other all the same.
        let [down, up] = [down, up].map(|part| part.to_device(own.device()).to_kind(Kind::Float).flatten(1, -1));
        let change = up.matmul(&down).reshape(own.size()) * (strength * factor);
        let changed = own.to_kind(Kind::Float) + change;
        changed.to_kind(own.kind())
    }

    /// Adds to the gradients of `down` and `up` what follows, at strength 1, from the `gradient` of the changed weight.
    ///
    /// # Panics
    /// If neither requires a gradient.
    pub fn pass_back(&self, gradient: &Tensor) {
        let Self { down, up, factor, .. } = self;
        let gradient = gradient.to_device(up.device()).to_kind(up.kind()).flatten(1, -1) * *factor;
        let matrix = |part: &Tensor| part.detach().flatten(1, -1);
        let of_up = gradient.matmul(&matrix(down).transpose(0, 1)).reshape(up.size());
        let of_down = matrix(up).transpose(0, 1).matmul(&gradient).reshape(down.size());
        // The gradients of these products are the other factors exactly; autograd adds them where it keeps gradients.
        ((up * of_up).sum(Kind::Float) + (down * of_down).sum(Kind::Float)).backward();
    }

    /// The same matrices once more, not copied.
    pub fn shared(&self) -> Self {
        let (down, up) = (self.down.shallow_clone(), self.up.shallow_clone());
        Self { weight: self.weight.clone(), down, up, factor: self.factor }
    }
}
