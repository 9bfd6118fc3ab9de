//! Initial weights of a model that is trained from nothing.

use std::collections::BTreeMap;

use ipa_core::noise::Draws;
use ipa_core::tch::{Tensor, nn::VarStore};

/// Fills every variable by its name and shape, from one seed.
///
/// PyTorch's defaults: linear and convolution weights and biases uniform in `±1/√fan_in`, normalisations one
/// and zero, tables normal with deviation 0.02. Layers whose name ends with one of `zeroed` start at zero, so that
/// residual branches begin as the identity (LDM's `zero_module`).
pub fn initialize(vs: &VarStore, seed: u64, zeroed: &[&str]) {
    let variables: BTreeMap<String, Tensor> = vs.variables().into_iter().collect();
    let fan_in = |name: &str| -> Option<f64> {
        let size = variables.get(name)?.size();
        (size.len() >= 2).then(|| size[1..].iter().product::<i64>() as f64)
    };
    let _no_grad = ipa_core::tch::no_grad_guard();
    for (index, (name, variable)) in variables.iter().enumerate() {
        let size = variable.size();
        let (layer, part) = name.rsplit_once('.').unwrap_or(("", name));
        let mut draws = Draws::counted(seed, "initialize", index as u64);
        let value = if zeroed.iter().any(|suffix| layer.ends_with(suffix)) {
            Tensor::zeros(size.as_slice(), (vs.kind(), vs.device()))
        } else if layer.contains("embedding") && size.len() <= 2 && !layer.contains("time_embedding") {
            draws.normal(&size) * 0.02
        } else if let Some(fan_in) = fan_in(&format!("{layer}.weight")) {
            (draws.uniform(&size) * 2.0 - 1.0) / fan_in.sqrt()
        } else if part == "bias" {
            Tensor::zeros(size.as_slice(), (vs.kind(), vs.device()))
        } else {
            Tensor::ones(size.as_slice(), (vs.kind(), vs.device()))
        };
        variable.shallow_clone().set_data(&value.to_kind(vs.kind()).to_device(vs.device()));
    }
}
