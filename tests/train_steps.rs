//! Ten steps of training beside the reference's own modules, for three kinds of adapter.
//!
//! Measured: losses within 2e-7, gradients 6e-6, also where four batches make a step; ten steps on their own end within
//! 1e-5. `--nocapture` prints the largest errors.
//! Reference values: tests/fixtures/train_steps.py
#![allow(clippy::unwrap_used)]

mod support;

use ipa_adapter::IpAdapter;
use ipa_core::Component;
use ipa_core::tch::{self, Tensor};
use ipa_sample::{NoiseSchedule, SchedulerConfig};
use ipa_train::{AdamW, AdamWConfig, Batch, LowRankUnet, training_loss};
use ipa_unet::{Unet, UnetConfig};
use support::{F32, Fixture, TOLERANCE, adapter_of, fixture_path, relative_error, tiny_sd};

/// With how many tensors it trains: of the projection, K' and V' of four layers, LoRA of eight.
const VARIANTS: [(&str, usize); 3] = [("classic", 4 + 8), ("plus", 51 + 8), ("faceid", 6 + 8 + 64)];
const STEPS: usize = 10;
const LEARNING_RATE: f64 = 1e-3;
/// Of ten free-running steps, whose roundings add up.
const FREE_TOLERANCE: f64 = 1e-3;

/// A training as it begins, and what the reference makes of it.
struct Run {
    variant: &'static str,
    fixture: Fixture,
    unet: Component<UnetConfig, Unet>,
    adapter: IpAdapter,
    low_rank: Option<LowRankUnet>,
    optimizer: AdamW,
    schedule: NoiseSchedule,
}

impl Run {
    fn start((variant, num_tensors): (&'static str, usize)) -> Self {
        let fixture = Fixture::open(&format!("train_steps/{variant}"));
        let unet = Unet::load_with_variables(fixture_path("tiny_sd2/unet").as_path(), F32).unwrap();
        let before = fixture.names().filter_map(|name| Some((name.strip_prefix("0.before.")?, &fixture[name])));
        let adapter = adapter_of(before.map(|(name, tensor)| (name.to_owned(), tensor.copy())), &unet.config);
        assert_eq!(adapter.variables().len(), num_tensors, "{variant}");
        let low_rank = LowRankUnet::new(&unet, &adapter);
        assert_eq!(low_rank.is_some(), variant == "faceid");
        let optimizer = AdamW::new(adapter.variables(), AdamWConfig::default());
        let schedule = NoiseSchedule::new(&SchedulerConfig::from_folder(&tiny_sd("scheduler")).unwrap());
        Self { variant, fixture, unet, adapter, low_rank, optimizer, schedule }
    }

    fn batch(&self, step: usize) -> Batch {
        let part = |name: &str| self.fixture[&format!("{step}.{name}")].copy();
        let reads_faces = self.variant == "faceid";
        Batch {
            latents: part("latents"),
            noise: part("noise"),
            perturbation: None,
            timesteps: part("timesteps"),
            text_embeds: part("text_embeds"),
            image_features: (!reads_faces).then(|| part("image_features")),
            face: reads_faces.then(|| part("face")),
            weights: None,
            mask: None,
        }
    }

    /// Takes over the reference's parameters of before a step.
    fn load(&mut self, step: usize) {
        let _no_grad = tch::no_grad_guard();
        for (name, variable) in self.adapter.variables() {
            variable.shallow_clone().copy_(&self.fixture[&format!("{step}.before.{name}")]);
        }
    }

    /// Leaves the gradients of a step, its rows `rows` at a time; gives its loss.
    fn learn(&mut self, step: usize, rows: i64) -> f64 {
        if let Some(low_rank) = &mut self.low_rank {
            low_rank.refresh();
        }
        let unet = self.low_rank.as_ref().map_or(&self.unet.model, LowRankUnet::unet);
        let learn = |(part, share): (Batch, f64)| {
            let loss = training_loss(unet, &self.adapter, &self.schedule, &part).unwrap() * share;
            loss.backward();
            loss.double_value(&[])
        };
        let loss = self.batch(step).parts(rows).into_iter().map(learn).sum();
        if let Some(low_rank) = &mut self.low_rank {
            low_rank.pass_gradients();
        }
        loss
    }

    /// The largest error of a step's gradients, and whose it is; clears them.
    fn gradient_error(&mut self, step: usize) -> (f64, String) {
        let error = |(name, variable): (String, Tensor)| {
            let error = error(&variable.grad(), &self.fixture[&format!("{step}.grad.{name}")]);
            (error, format!("{} {step}: {name}", self.variant))
        };
        let worst = worst(self.adapter.variables().into_iter().map(error));
        let _ = self.optimizer.gradient().zero_();
        worst
    }
}

/// A tensor of zeros is to be met exactly: at first no loss reaches LoRA's `down`.
fn error(found: &Tensor, expected: &Tensor) -> f64 {
    if found.equal(expected) { 0.0 } else { relative_error(found, expected) }
}

fn worst(errors: impl Iterator<Item = (f64, String)>) -> (f64, String) {
    errors.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
}

/// Largest errors of losses and of gradients when every step starts from the reference's parameters.
fn step_errors(variant: (&'static str, usize), rows: i64) -> ((f64, String), (f64, String)) {
    let mut run = Run::start(variant);
    let errors = (0..STEPS).map(|step| {
        run.load(step);
        let (loss, expected) = (run.learn(step, rows), run.fixture[&format!("{step}.loss")].double_value(&[]));
        (((loss / expected - 1.0).abs(), format!("{} {step}", variant.0)), run.gradient_error(step))
    });
    let (losses, gradients): (Vec<_>, Vec<_>) = errors.collect::<Vec<_>>().into_iter().unzip();
    (worst(losses.into_iter()), worst(gradients.into_iter()))
}

#[test]
fn losses_and_gradients_of_ten_steps_match() {
    for variant in VARIANTS {
        let (loss, gradient) = step_errors(variant, 4);
        println!("loss {:.1e} ({}), gradient {:.1e} ({})", loss.0, loss.1, gradient.0, gradient.1);
        assert!(loss.0 <= TOLERANCE && gradient.0 <= TOLERANCE, "loss {loss:?}, gradient {gradient:?}");
    }
}

#[test]
fn four_batches_of_one_are_the_references_batch_of_four() {
    for variant in VARIANTS {
        let (loss, gradient) = step_errors(variant, 1);
        println!("loss {:.1e} ({}), gradient {:.1e} ({})", loss.0, loss.1, gradient.0, gradient.1);
        assert!(loss.0 <= TOLERANCE && gradient.0 <= TOLERANCE, "loss {loss:?}, gradient {gradient:?}");
    }
}

#[test]
fn ten_steps_on_ones_own_end_where_the_reference_ends() {
    for variant in VARIANTS {
        let mut run = Run::start(variant);
        for step in 0..STEPS {
            run.learn(step, 4);
            run.optimizer.step(LEARNING_RATE);
        }
        let end = |(name, variable): (String, Tensor)| {
            (error(&variable, &run.fixture[&format!("after.{name}")]), format!("{}: {name}", variant.0))
        };
        let worst = worst(run.adapter.variables().into_iter().map(end));
        println!("{:.1e} ({})", worst.0, worst.1);
        assert!(worst.0 <= FREE_TOLERANCE, "{worst:?}");
    }
}
