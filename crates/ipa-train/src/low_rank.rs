//! Training of the low-rank changes that FaceID adapters bring.

use ipa_adapter::{IpAdapter, LoraLayer};
use ipa_core::Component;
use ipa_core::tch::{self, Tensor, nn::VarStore};
use ipa_unet::{Unet, UnetConfig};

/// A frozen UNet with an adapter's own low-rank changes, which learn through it.
///
/// The changed weights `W' = W + up · down` have storage of their own and take gradients as if they were trained; the
/// rest is the frozen UNet's. So the UNet stays one without any low-rank layers, and what is trained is exactly what
/// generation computes with. A step is [`LowRankUnet::refresh`], any number of losses through [`LowRankUnet::unet`]
/// with their `backward`, then [`LowRankUnet::pass_gradients`], before the optimizer.
#[derive(Debug)]
pub struct LowRankUnet {
    unet: Unet,
    weights: Vec<ChangedWeight>,
}

#[derive(Debug)]
struct ChangedWeight {
    change: LoraLayer,
    own: Tensor,
    changed: Tensor, // requires a gradient
}

impl LowRankUnet {
    /// Of a UNet and an adapter for it, whose variables it follows; none if the adapter brings no changes.
    pub fn new(base: &Component<UnetConfig, Unet>, adapter: &IpAdapter) -> Option<Self> {
        let lora = adapter.lora()?;
        let mut vs = VarStore::new(base.vs.device());
        vs.set_kind(base.vs.kind());
        let unet = Unet::new(&vs.root(), &base.config);
        let (owns, variables) = (base.vs.variables(), vs.variables());
        for (name, variable) in &variables {
            variable.shallow_clone().set_data(&owns[name].detach());
        }
        let weight = |layer: &LoraLayer| {
            let own = owns[layer.weight()].detach();
            let mut changed = variables[layer.weight()].shallow_clone();
            changed.set_data(&own.copy());
            ChangedWeight { change: layer.shared(), own, changed: changed.set_requires_grad(true) }
        };
        let mut low_rank = Self { unet, weights: lora.layers().iter().map(weight).collect() };
        low_rank.refresh();
        Some(low_rank)
    }

    /// The UNet as it was when last refreshed.
    pub fn unet(&self) -> &Unet {
        &self.unet
    }

    /// Brings the changed weights up to date with the adapter; to be called after every step of the optimizer.
    pub fn refresh(&mut self) {
        let _no_grad = tch::no_grad_guard();
        for ChangedWeight { change, own, changed } in &mut self.weights {
            changed.copy_(&change.changed(own, 1.0));
        }
    }

    /// Adds to the gradients of the adapter's matrices what losses have left at the changed weights, and clears that.
    pub fn pass_gradients(&mut self) {
        for ChangedWeight { change, changed, .. } in &mut self.weights {
            let gradient = changed.grad();
            if gradient.defined() {
                change.pass_back(&gradient);
                changed.zero_grad();
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::{BTreeMap, HashMap};
    use std::path::Path;

    use ipa_adapter::{AdapterConfig, FaceConfig, ProjectionConfig};
    use ipa_core::noise::Draws;
    use ipa_core::tch::{Device, Kind};
    use ipa_unet::NoHook;

    use super::*;

    fn tiny(kind: Kind) -> (Component<UnetConfig, Unet>, IpAdapter) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tiny_sd2/unet");
        let unet = Unet::load_with_variables(folder.as_path(), (Device::Cpu, kind)).unwrap();
        let face = FaceConfig { input: 8, hidden: 16, num_tokens: 4 };
        let config =
            AdapterConfig { lora_rank: Some(4), ..AdapterConfig::new(ProjectionConfig::Face(face), &unet.config) };
        let adapter = IpAdapter::new(&config, (Device::Cpu, Kind::Float));
        adapter.initialize(&unet.vs.variables(), 3);
        for variable in adapter.variables().into_values() {
            let _ = variable.set_requires_grad(true);
        }
        (unet, adapter)
    }

    /// Changes about as large as half the UNet's own values.
    fn move_up(adapter: &IpAdapter) {
        let _no_grad = tch::no_grad_guard();
        let mut draws = Draws::seeded(5);
        for (name, mut variable) in BTreeMap::from_iter(adapter.variables()) {
            if name.ends_with("_lora.up.weight") {
                variable.copy_(&(draws.normal(&variable.size()) * 0.2));
            }
        }
    }

    fn prediction(unet: &Unet, kind: Kind) -> Tensor {
        let mut draws = Draws::seeded(7);
        let (latents, context) = (draws.normal(&[1, 4, 8, 8]), draws.normal(&[1, 5, 40]));
        unet.forward(&latents.to_kind(kind), &Tensor::from(300.0), &context.to_kind(kind), &NoHook)
    }

    /// As diffusers' `LoRALinearLayer`, which the reference takes.
    #[test]
    fn the_first_matrices_begin_with_a_deviation_of_one_by_the_rank() {
        let (_, adapter) = tiny(Kind::Float);
        let all = BTreeMap::from_iter(adapter.variables());
        let firsts = all.into_iter().filter(|(name, _)| name.ends_with("_lora.down.weight"));
        let values = Tensor::cat(&firsts.map(|(_, matrix)| matrix.flatten(0, -1)).collect::<Vec<_>>(), 0);
        let (deviation, mean) = values.std_mean(true);
        assert!((deviation.double_value(&[]) * 4.0 - 1.0).abs() < 0.05 && mean.double_value(&[]).abs() < 0.02);
    }

    #[test]
    fn a_new_adapter_leaves_the_unet_as_it_is_and_later_follows_generation() {
        let (unet, adapter) = tiny(Kind::Float);
        let mut low_rank = LowRankUnet::new(&unet, &adapter).unwrap();
        let plain = prediction(&unet.model, Kind::Float);
        assert!(prediction(low_rank.unet(), Kind::Float).equal(&plain));
        move_up(&adapter);
        low_rank.refresh();
        let mut patches = HashMap::new();
        adapter.lora().unwrap().patch(1.0, &unet.vs.variables(), &mut patches);
        let patched = prediction(&unet.model.patched(&unet.vs.variables(), &patches), Kind::Float);
        assert!(prediction(low_rank.unet(), Kind::Float).equal(&patched));
        assert!(prediction(&unet.model, Kind::Float).equal(&plain) && !patched.equal(&plain));
    }

    /// The matrices with their gradients by a loss in two parts through a UNet in `kind`, and that loss.
    fn learned(kind: Kind) -> (Vec<Tensor>, impl FnMut() -> f64) {
        let (unet, adapter) = tiny(kind);
        move_up(&adapter);
        let mut low_rank = LowRankUnet::new(&unet, &adapter).unwrap();
        let loss = move |unet: &Unet| prediction(unet, kind).to_kind(Kind::Float).square().mean(Kind::Float);
        for part in [0.25, 0.75] {
            (loss(low_rank.unet()) * part).backward();
        }
        low_rank.pass_gradients();
        let named = BTreeMap::from_iter(adapter.variables());
        let matrices =
            named.into_iter().filter(|(name, _)| name.contains("_lora.")).map(|(_, tensor)| tensor).collect();
        let value = move || {
            low_rank.refresh();
            tch::no_grad(|| loss(low_rank.unet()).double_value(&[]))
        };
        (matrices, value)
    }

    fn gradient(matrices: &[Tensor]) -> Tensor {
        Tensor::cat(&matrices.iter().map(|matrix| matrix.grad().flatten(0, -1)).collect::<Vec<_>>(), 0)
            .to_kind(Kind::Double)
    }

    /// By central differences along the gradient.
    #[test]
    fn the_gradient_of_the_matrices_is_the_slope_of_the_loss() {
        let (matrices, mut loss) = learned(Kind::Float);
        let norm = gradient(&matrices).norm().double_value(&[]);
        let mut moved = |length: f64| {
            tch::no_grad(|| {
                for matrix in &matrices {
                    let _ = matrix.shallow_clone().g_add_(&(matrix.grad() * (length / norm)));
                }
            });
            loss()
        };
        let length = 2e-3;
        let (ahead, behind) = (moved(length), moved(-2.0 * length));
        let slope = (ahead - behind) / (2.0 * length);
        assert!((slope / norm - 1.0).abs() < 2e-3, "{slope} {norm}");
    }

    /// bf16 has three digits.
    #[test]
    fn a_unet_in_bf16_teaches_an_adapter_in_f32() {
        let (exact, found) = (gradient(&learned(Kind::Float).0), gradient(&learned(Kind::BFloat16).0));
        let error = ((found - &exact).norm() / exact.norm()).double_value(&[]);
        assert!(error < 5e-2, "{error}");
    }

    #[test]
    fn gradients_are_passed_once_and_reach_nothing_else() {
        let (unet, adapter) = tiny(Kind::Float);
        move_up(&adapter);
        let mut low_rank = LowRankUnet::new(&unet, &adapter).unwrap();
        prediction(low_rank.unet(), Kind::Float).square().mean(Kind::Float).backward();
        low_rank.pass_gradients();
        let variables = adapter.variables();
        let (matrices, others): (Vec<_>, Vec<_>) = variables.iter().partition(|(name, _)| name.contains("_lora."));
        let before: Vec<Tensor> = matrices.iter().map(|(_, tensor)| tensor.grad().copy()).collect();
        low_rank.pass_gradients();
        assert!(matrices.iter().zip(&before).all(|((_, tensor), before)| tensor.grad().equal(before)));
        assert!(others.iter().all(|(_, tensor)| !tensor.grad().defined()));
        assert!(unet.vs.variables().values().all(|tensor| !tensor.grad().defined()));
    }

    #[test]
    fn an_adapter_without_changes_needs_none() {
        let (unet, _) = tiny(Kind::Float);
        let adapter = IpAdapter::new(&AdapterConfig::classic(24, &unet.config), (Device::Cpu, Kind::Float));
        assert!(LowRankUnet::new(&unet, &adapter).is_none());
    }
}
