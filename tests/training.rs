//! The reference's training recipe.
//! Reference values: tests/fixtures/training.py
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;

use ipa_adapter::{AdapterConfig, IpAdapter};
use ipa_clip::load_image;
use ipa_core::Component;
use ipa_core::tch::{Kind, Tensor};
use ipa_sample::{NoiseSchedule, SchedulerConfig};
use ipa_train::{AdamW, AdamWConfig, Batch, Drops, drops, training_loss, training_pixels};
use ipa_unet::{Unet, UnetConfig};
use serde_json::Value;
use support::{F32, Fixture, TOLERANCE, adapter_of, assert_close, fixture_path, relative_error, tiny_sd};

/// Four of the projection, K' and V' of 16 layers.
const NUM_TENSORS: usize = 4 + 2 * 16;
const LEARNING_RATE: f64 = 1e-4;
/// A step moves a parameter by 1e-4, so [`TOLERANCE`] would hide a wrong one; this is four roundings.
const PARAMETER_TOLERANCE: f64 = 5e-7;

/// Draws, some of them the number beside a bound, with what the reference drops at them.
fn expected_drops() -> Vec<(f64, Drops)> {
    let text = fs::read_to_string(fixture_path("training/dropout.json")).unwrap();
    let rows: Vec<Value> = serde_json::from_str(&text).unwrap();
    let flag = |row: &Value, name: &str| row[name].as_bool().unwrap();
    let drops = |row: &Value| Drops { image: flag(row, "drop_image"), text: flag(row, "drop_text") };
    rows.iter().map(|row| (row["draw"].as_f64().unwrap(), drops(row))).collect()
}

#[test]
fn every_draw_drops_what_the_reference_drops() {
    let expected = expected_drops();
    assert_eq!(expected.len(), 16);
    for (draw, expected) in expected {
        assert_eq!(drops(draw, [0.05; 3]), expected, "{draw:?}");
    }
}

#[test]
fn training_pictures_are_resized_and_cropped_as_the_reference_does() {
    let fixture = Fixture::open("training/transform");
    let sizes: Vec<&str> = fixture.names().filter_map(|name| name.strip_suffix(".pixels")).collect();
    assert_eq!(sizes.len(), 8);
    for size in sizes {
        let picture = load_image(&fixture_path(&format!("training/transform_{size}.png"))).unwrap();
        let pixels = training_pixels(&picture, 32).squeeze_dim(0);
        // One level of 255 would be 8e-3.
        let error = relative_error(&pixels, &fixture[&format!("{size}.pixels")]);
        assert!(error <= 1e-6, "{size}: {error:.2e}");
    }
}

fn schedule() -> NoiseSchedule {
    NoiseSchedule::new(&SchedulerConfig::from_folder(&tiny_sd("scheduler")).unwrap())
}

/// A batch of the reference, whose second image is dropped, and the models before it.
struct Step {
    fixture: Fixture,
    unet: Component<UnetConfig, Unet>,
    adapter: IpAdapter,
    optimizer: AdamW,
}

impl Step {
    fn start() -> Self {
        let fixture = Fixture::open("training/step");
        let unet = Unet::load_with_variables(&tiny_sd("unet"), F32).unwrap();
        let before = published_names(&fixture).map(|name| (name.to_owned(), fixture[&format!("before.{name}")].copy()));
        let adapter = adapter_of(before, &unet.config);
        let optimizer = AdamW::new(adapter.variables(), AdamWConfig::default());
        Self { fixture, unet, adapter, optimizer }
    }

    fn loss(&self) -> Tensor {
        let part = |name: &str| self.fixture[name].copy();
        let batch = Batch {
            latents: part("latents"),
            noise: part("noise"),
            perturbation: None,
            timesteps: part("timesteps"),
            text_embeds: part("text_embeds"),
            image_features: Some(part("image_embeds")),
            face: None,
            weights: None,
            mask: None,
        };
        training_loss(&self.unet.model, &self.adapter, &schedule(), &batch).unwrap()
    }
}

/// The names of the adapter's tensors.
fn published_names(fixture: &Fixture) -> impl Iterator<Item = &str> {
    fixture.names().filter_map(|name| name.strip_prefix("before."))
}

#[test]
fn noise_is_added_at_every_samples_own_timestep() {
    let fixture = Fixture::open("training/step");
    let noisy = schedule().add_noise(&fixture["latents"], &fixture["noise"], &fixture["timesteps"]);
    assert_close(&noisy, &fixture["noisy_latents"], TOLERANCE);
}

#[test]
fn the_loss_matches() {
    let step = Step::start();
    assert_close(&step.loss(), &step.fixture["loss"], TOLERANCE);
}

/// The reference's own gradients lie up to 3.1e-6 from what it computes in f64.
#[test]
fn the_gradient_of_every_adapter_tensor_matches() {
    let step = Step::start();
    step.loss().backward();
    let variables = step.adapter.variables();
    assert_eq!(variables.len(), NUM_TENSORS);
    for (name, variable) in &variables {
        let error = relative_error(&variable.grad(), &step.fixture[&format!("grad.{name}")]);
        assert!(error <= TOLERANCE, "{name}: {error:.2e}");
    }
}

#[test]
fn the_loss_reaches_no_tensor_of_the_unet() {
    let step = Step::start();
    step.loss().backward();
    for (name, variable) in step.unet.vs.variables() {
        assert!(!variable.requires_grad() && !variable.grad().defined(), "{name}");
    }
}

/// The gradient of `Σ parameter · gradient` is that gradient exactly.
#[test]
fn one_step_from_the_references_gradients_gives_its_adapter() {
    let mut step = Step::start();
    let variables = step.adapter.variables();
    let product =
        |(name, variable): (&String, &Tensor)| (variable * &step.fixture[&format!("grad.{name}")]).sum(Kind::Float);
    let products: Vec<Tensor> = variables.iter().map(product).collect();
    Tensor::stack(&products, 0).sum(Kind::Float).backward();
    step.optimizer.step(LEARNING_RATE);
    for (name, variable) in step.adapter.variables() {
        let error = relative_error(&variable, &step.fixture[&format!("after.{name}")]);
        assert!(error <= PARAMETER_TOLERANCE, "{name}: {error:.2e}");
    }
}

#[test]
fn a_new_adapters_keys_and_values_are_the_unets_own() {
    let (fixture, unet) = (Fixture::open("training/step"), Unet::load_with_variables(&tiny_sd("unet"), F32).unwrap());
    let adapter = IpAdapter::new(&AdapterConfig::classic(24, &unet.config), F32);
    adapter.initialize(&unet.vs.variables(), 0);
    let variables = adapter.variables();
    assert!(published_names(&fixture).all(|name| variables.contains_key(name)));
    let copied: Vec<_> = variables.iter().filter(|(name, _)| name.starts_with("ip_adapter.")).collect();
    assert_eq!(copied.len(), 2 * 16);
    for (name, variable) in copied {
        assert!(variable.equal(&fixture[&format!("before.{name}")]), "{name}");
    }
}

/// From velocity and noisy latents the clean ones follow: `x₀ = √ᾱ z − √(1 − ᾱ) v` (arXiv:2202.00512).
#[test]
fn the_velocity_is_that_of_its_paper() {
    let fixture = Fixture::open("training/step");
    let (latents, noise, timesteps) = (&fixture["latents"], &fixture["noise"], &fixture["timesteps"]);
    let schedule = schedule();
    let velocity = schedule.velocity(latents, noise, timesteps);
    let noisy = schedule.add_noise(latents, noise, timesteps);
    let acp = schedule.alphas_cumprod().index_select(0, timesteps).view([-1, 1, 1, 1]);
    let level: Tensor = 1.0 - &acp;
    assert_close(&(acp.sqrt() * noisy - level.sqrt() * velocity), latents, TOLERANCE);
}
