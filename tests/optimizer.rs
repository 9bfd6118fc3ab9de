//! AdamW against `torch.optim.AdamW`, and its saved state.
//! Reference values: tests/fixtures/training.py
#![allow(clippy::unwrap_used)]

mod support;

use std::path::PathBuf;

use ipa_core::tch::{Device, Kind, Tensor};
use ipa_core::{Checkpoint, WeightsError, save_tensors};
use ipa_train::{AdamW, AdamWConfig};
use support::{Fixture, TOLERANCE, assert_each_close, relative_error};
use tempfile::TempDir;

const LEARNING_RATE: f64 = 1e-4;
const NUM_STEPS: usize = 5;
/// A step moves a parameter by 1e-4, so [`TOLERANCE`] would hide a wrong one; this is four roundings.
const PARAMETER_TOLERANCE: f64 = 5e-7;

/// Parameters and the optimizer that has taken them over.
struct Run {
    fixture: Fixture,
    parameters: Vec<(String, Tensor)>,
    optimizer: AdamW,
}

impl Run {
    /// The fixture's parameters before any step: a matrix, a vector and a single number.
    fn start() -> Self {
        let fixture = Fixture::open("training/adamw");
        let before = fixture.names().filter_map(|name| name.strip_prefix("before."));
        let parameters = before.map(|name| (name.to_owned(), fixture[&format!("before.{name}")].copy())).collect();
        Self::with_parameters(parameters)
    }

    fn with_parameters(parameters: Vec<(String, Tensor)>) -> Self {
        let shared = parameters.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone()));
        let optimizer = AdamW::new(shared, AdamWConfig::default());
        Self { fixture: Fixture::open("training/adamw"), parameters, optimizer }
    }

    /// One step, counted from 1; the gradient of `Σ parameter · gradient` is that gradient exactly.
    fn step(&mut self, count: usize) {
        let product = |(name, parameter): &(String, Tensor)| {
            (parameter * &self.fixture[&format!("step_{count}.grad.{name}")]).sum(Kind::Float)
        };
        let products: Vec<Tensor> = self.parameters.iter().map(product).collect();
        Tensor::stack(&products, 0).sum(Kind::Float).backward();
        self.optimizer.step(LEARNING_RATE);
    }

    fn steps(mut self, counts: std::ops::RangeInclusive<usize>) -> Self {
        counts.for_each(|count| self.step(count));
        self
    }

    /// The optimizer's state in a file.
    fn saved_state(&self) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("optimizer.safetensors");
        save_tensors(&path, self.optimizer.state(), None).unwrap();
        (folder, path)
    }
}

#[test]
fn parameters_match_after_every_step() {
    let mut run = Run::start();
    assert_eq!(run.parameters.len(), 3);
    for count in 1..=NUM_STEPS {
        run.step(count);
        for (name, parameter) in &run.parameters {
            let error = relative_error(parameter, &run.fixture[&format!("step_{count}.after.{name}")]);
            assert!(error <= PARAMETER_TOLERANCE, "{name} after step {count}: {error:.2e}");
        }
    }
}

#[test]
fn both_moments_match_after_the_last_step() {
    let run = Run::start().steps(1..=NUM_STEPS);
    let (_folder, path) = run.saved_state();
    let state = Fixture::read(&path);
    for moment in ["exp_avg", "exp_avg_sq"] {
        for (name, _) in &run.parameters {
            let name = format!("{moment}.{name}");
            assert_each_close(&state[&name], &run.fixture[&name], TOLERANCE);
        }
    }
}

#[test]
fn parameters_without_a_gradient_only_decay() {
    let mut run = Run::start();
    run.optimizer.step(LEARNING_RATE);
    for (name, parameter) in &run.parameters {
        let decayed = &run.fixture[&format!("before.{name}")] * (1.0 - LEARNING_RATE * 1e-2);
        assert!(parameter.equal(&decayed), "{name}");
    }
}

#[test]
fn a_saved_and_loaded_state_goes_on_bit_for_bit() {
    let mut run = Run::start().steps(1..=3);
    let (_folder, path) = run.saved_state();
    let copies = run.parameters.iter().map(|(name, tensor)| (name.clone(), tensor.detach().copy())).collect();
    let mut resumed = Run::with_parameters(copies);
    resumed.optimizer.load_state(&Checkpoint::open(&path).unwrap()).unwrap();
    assert_eq!(resumed.optimizer.steps(), 3);
    for count in 4..=NUM_STEPS {
        run.step(count);
        resumed.step(count);
        assert!(resumed.optimizer.parameters().equal(run.optimizer.parameters()), "step {count}");
    }
}

#[test]
fn the_state_of_other_parameters_is_refused_by_name() {
    let (_folder, path) = Run::start().saved_state();
    let refusal = |parameter: &str, shape: &[i64]| {
        let parameter = (parameter.to_owned(), Tensor::zeros(shape, (Kind::Float, Device::Cpu)));
        Run::with_parameters(vec![parameter]).optimizer.load_state(&Checkpoint::open(&path).unwrap()).unwrap_err()
    };
    assert!(matches!(refusal("vector", &[8]), WeightsError::Shape { name, .. } if name == "exp_avg.vector"));
    assert!(matches!(refusal("other", &[7]), WeightsError::Missing { names, .. } if names == ["exp_avg.other"]));
}
