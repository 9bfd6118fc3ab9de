//! The values that training begins with.

use std::collections::{BTreeMap, HashMap};

use ipa_core::noise::Draws;
use ipa_core::tch::{self, Device, Kind, Tensor};
use ipa_formats::published_number;

use crate::IpAdapter;

impl IpAdapter {
    /// Fills a new adapter as the reference trainer does: every K', V' a copy of the layer's K, V; matrices of the
    /// projection, and their biases, uniform in `±1/√fan_in`; norms the identity; a resampler's tokens normal with
    /// deviation `1/√width`; of low-rank changes the first matrix normal with deviation `1/rank`, the second zero, so that
    /// the UNet begins unchanged. What looks at the text before the UNet begins as the identity.
    ///
    /// `unet` are the UNet's variables by name.
    ///
    /// # Panics
    /// If they are not those of the configured UNet.
    pub fn initialize(&self, unet: &HashMap<String, Tensor>, seed: u64) {
        let _no_grad = tch::no_grad_guard();
        let (config, counts) = (&self.config().unet, self.config().unet.site_counts());
        let variables: BTreeMap<String, Tensor> = self.variables().into_iter().collect();
        for (index, site) in config.sites().iter().enumerate() {
            let number = published_number(index, counts);
            for (from, to) in [("to_k", "to_k_ip"), ("to_v", "to_v_ip")] {
                if let Some(variable) = variables.get(&format!("ip_adapter.{number}.{to}.weight")) {
                    set(variable, &unet[&format!("{}.{from}.weight", site.name)]);
                }
            }
        }
        for part in ["image_proj", "prefusion"] {
            let mut draws = Draws::counted(seed, part, 0);
            let own = variables.iter().filter(|(name, _)| name.starts_with(part));
            for (name, weight) in own.filter(|(name, _)| !name.ends_with(".bias")) {
                let bias = name.strip_suffix("weight").and_then(|module| variables.get(&format!("{module}bias")));
                match name.as_str() {
                    "prefusion.to_out.weight" => set(weight, &zeros(weight)),
                    _ => begin(weight, bias, &mut draws),
                }
            }
        }
        let mut draws = Draws::counted(seed, "lora", 0);
        for (name, weight) in variables.iter().filter(|(name, _)| name.contains("_lora.")) {
            match name.ends_with("down.weight") {
                true => set(weight, &(draws.normal(&weight.size()) / weight.size()[0] as f64)),
                false => set(weight, &zeros(weight)),
            }
        }
    }
}

fn begin(weight: &Tensor, bias: Option<&Tensor>, draws: &mut Draws) {
    let size = weight.size();
    match &size[..] {
        // a norm
        [_] => {
            set(weight, &Tensor::ones(&size, (Kind::Float, Device::Cpu)));
            bias.into_iter().for_each(|bias| set(bias, &zeros(bias)));
        }
        [_, fan_in] => {
            let bound = 1.0 / (*fan_in as f64).sqrt();
            for variable in [Some(weight), bias].into_iter().flatten() {
                set(variable, &((draws.uniform(&variable.size()) * 2.0 - 1.0) * bound));
            }
        }
        // a resampler's tokens
        _ => set(weight, &(draws.normal(&size) / (size[size.len() - 1] as f64).sqrt())),
    }
}

fn zeros(like: &Tensor) -> Tensor {
    Tensor::zeros(like.size(), (Kind::Float, Device::Cpu))
}

fn set(variable: &Tensor, value: &Tensor) {
    let mut variable = variable.shallow_clone();
    variable.set_data(&value.detach().copy().to_kind(variable.kind()).to_device(variable.device()));
}
