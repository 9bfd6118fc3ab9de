//! Gradients with recomputation are those without.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;

use ipa_adapter::{AdapterConfig, AdapterCoupling, IpAdapter, ProjectionConfig, ResamplerConfig};
use ipa_core::Component;
use ipa_core::noise::Draws;
use ipa_core::tch::{Kind, Reduction, Tensor};
use ipa_sample::{NoiseSchedule, SchedulerConfig};
use ipa_train::{AdamW, AdamWConfig, Batch, backward_by_segments, training_loss};
use ipa_unet::{NoHook, Unet, UnetConfig};
use support::{F32, relative_error, tiny_sd};

/// Sums in another order: 4e-7 at most.
const ROUNDING: f64 = 1e-6;
const IMAGE_WIDTH: i64 = 24;
const SIDE: i64 = 16;

type TinyUnet = Component<UnetConfig, Unet>;

fn tiny_unet() -> TinyUnet {
    Unet::load_with_variables(&tiny_sd("unet"), F32).unwrap()
}

fn schedule() -> NoiseSchedule {
    NoiseSchedule::new(&SchedulerConfig::from_folder(&tiny_sd("scheduler")).unwrap())
}

fn global(unet: &UnetConfig) -> AdapterConfig {
    AdapterConfig::classic(IMAGE_WIDTH, unet)
}

fn fine(unet: &UnetConfig) -> AdapterConfig {
    let width = unet.cross_attention_dim;
    let sizes =
        ResamplerConfig { input: IMAGE_WIDTH, width, attention_width: 64, feed_forward: 48, depth: 2, num_tokens: 5 };
    AdapterConfig::new(ProjectionConfig::Plus(sizes), unet)
}

/// An adapter in training, all of whose weights give and take something.
fn adapter(unet: &TinyUnet, config: &AdapterConfig) -> (IpAdapter, AdamW) {
    let adapter = IpAdapter::new(config, F32);
    adapter.initialize(&unet.vs.variables(), 3);
    if let Some(mut gate) = adapter.variables().remove("prefusion.to_out.weight") {
        let random = Draws::seeded(8).normal(&gate.size()) * 0.1;
        gate.set_data(&random);
    }
    let optimizer = AdamW::new(adapter.variables(), AdamWConfig::default());
    (adapter, optimizer)
}

fn batch(unet: &UnetConfig, config: &AdapterConfig, seed: u64) -> Batch {
    let mut draws = Draws::seeded(seed);
    let image_size: &[i64] = match config.projection {
        ProjectionConfig::Plus(_) => &[2, 7, IMAGE_WIDTH],
        _ => &[2, IMAGE_WIDTH],
    };
    Batch {
        latents: draws.normal(&[2, 4, SIDE, SIDE]),
        noise: draws.normal(&[2, 4, SIDE, SIDE]),
        perturbation: None,
        timesteps: draws.integers(1000, &[2]),
        text_embeds: draws.normal(&[2, 9, unet.cross_attention_dim]),
        image_features: Some(draws.normal(image_size)),
        face: None,
        weights: None,
        mask: None,
    }
}

fn gradients(adapter: &IpAdapter) -> BTreeMap<String, Tensor> {
    adapter.variables().into_iter().map(|(name, variable)| (name, variable.grad().copy())).collect()
}

/// Two batches' losses, and their gradients added.
fn plain(unet: &TinyUnet, config: &AdapterConfig) -> (Vec<f64>, BTreeMap<String, Tensor>) {
    let (adapter, mut optimizer) = adapter(unet, config);
    let learn = |seed| {
        let loss = training_loss(&unet.model, &adapter, &schedule(), &batch(&unet.config, config, seed)).unwrap();
        loss.backward();
        loss.double_value(&[])
    };
    let losses = [1, 2].map(learn).to_vec();
    optimizer.gradient();
    (losses, gradients(&adapter))
}

fn recomputed(unet: &TinyUnet, config: &AdapterConfig) -> (Vec<f64>, BTreeMap<String, Tensor>) {
    let (adapter, mut optimizer) = adapter(unet, config);
    let mut learn = |seed| {
        let batch = batch(&unet.config, config, seed);
        let loss_of = |prediction: &Tensor| prediction.mse_loss(&batch.noise, Reduction::Mean);
        let loss = backward_by_segments(&unet.model, &adapter, &schedule(), &batch, loss_of).unwrap();
        optimizer.gradient(); // into the flat buffer, to which the second batch adds
        loss
    };
    let losses = [1, 2].map(&mut learn).to_vec();
    let sum: f64 = gradients(&adapter).values().map(|gradient| gradient.sum(Kind::Double).double_value(&[])).sum();
    let flat = optimizer.gradient().sum(Kind::Double).double_value(&[]);
    assert!((sum - flat).abs() <= 1e-6 * flat.abs(), "the gradients are not in the optimizer's buffer");
    (losses, gradients(&adapter))
}

#[track_caller]
fn assert_same(config: impl Fn(&UnetConfig) -> AdapterConfig) {
    let unet = tiny_unet();
    let config = config(&unet.config);
    let ((losses, expected), (found_losses, found)) = (plain(&unet, &config), recomputed(&unet, &config));
    assert_eq!(losses, found_losses);
    assert_eq!(expected.len(), found.len());
    for (name, expected) in &expected {
        assert!(expected.abs().max().double_value(&[]) > 0.0, "{name} has nothing to learn");
        let error = relative_error(&found[name], expected);
        assert!(error <= ROUNDING, "{name}: {error:.2e}");
    }
}

#[test]
fn a_classic_adapters_gradients_are_the_same() {
    assert_same(global);
}

#[test]
fn a_plus_adapters_gradients_are_the_same() {
    assert_same(fine);
}

#[test]
fn the_gradients_of_tokens_among_the_text_are_the_same() {
    assert_same(|unet| AdapterConfig { coupling: AdapterCoupling::Concatenated, ..global(unet) });
}

#[test]
fn the_gradients_of_tokens_that_look_at_the_text_are_the_same() {
    assert_same(|unet| AdapterConfig { coupling: AdapterCoupling::Prefused, ..fine(unet) });
}

/// As where an adapter changes the UNet's own weights: before and after the sites, and what all segments share.
#[test]
fn weights_of_the_unet_that_learn_get_their_gradients_too() {
    const LEARNING: [&str; 4] = [
        "conv_in.weight",
        "time_embedding.linear_1.weight",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight",
        "up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_v.weight",
    ];
    let learnt = |backward: &dyn Fn(&TinyUnet, &IpAdapter, &Batch)| -> Vec<Tensor> {
        let unet = tiny_unet();
        let variables = unet.vs.variables();
        let learning = LEARNING.map(|name| variables[name].set_requires_grad(true));
        let config = global(&unet.config);
        let (adapter, _optimizer) = adapter(&unet, &config);
        backward(&unet, &adapter, &batch(&unet.config, &config, 1));
        let frozen = variables.iter().filter(|(name, _)| !LEARNING.contains(&name.as_str()));
        assert!(frozen.into_iter().all(|(_, variable)| !variable.grad().defined()));
        learning.iter().map(|variable| variable.grad().copy()).collect()
    };
    let expected = learnt(&|unet, adapter, batch| {
        training_loss(&unet.model, adapter, &schedule(), batch).unwrap().backward();
    });
    let found = learnt(&|unet, adapter, batch| {
        let loss_of = |prediction: &Tensor| prediction.mse_loss(&batch.noise, Reduction::Mean);
        backward_by_segments(&unet.model, adapter, &schedule(), batch, loss_of).unwrap();
    });
    for ((name, expected), found) in LEARNING.iter().zip(&expected).zip(&found) {
        let error = relative_error(found, expected);
        assert!(error <= ROUNDING, "{name}: {error:.2e}");
    }
}

#[test]
fn a_forward_call_is_its_segments_in_order() {
    let unet = tiny_unet();
    let mut draws = Draws::seeded(5);
    // An odd size, which the way up must come back to.
    let (latents, context) = (draws.normal(&[1, 4, 13, 10]), draws.normal(&[1, 9, unet.config.cross_attention_dim]));
    let (unet, timestep) = (&unet.model, Tensor::from(500.0));
    let time_embeds = unet.time_embeds(&timestep, &latents);
    let conditions = ipa_unet::Conditions { time_embeds: &time_embeds, context: &context, hook: &NoHook };
    let mut flow = unet.begin(&latents);
    assert_eq!(unet.num_segments(), 22);
    for index in 0..unet.num_segments() {
        flow = unet.segment(index, flow, &conditions);
    }
    assert!(flow.skips.is_empty());
    assert!(unet.finish(flow).equal(&unet.forward(&latents, &timestep, &context, &NoHook)));
}
