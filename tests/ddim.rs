//! Schedule and sampler against diffusers' `DDIMScheduler`, over every spacing, prediction type, end and length.
//! Reference values: tests/fixtures/models.py
#![allow(clippy::unwrap_used)]

mod support;

use ipa_core::tch::Tensor;
use ipa_sample::{Ddim, NoiseSchedule, SchedulerConfig};
use support::{Fixture, TOLERANCE, assert_each_close, relative_error, tiny_sd};

fn config() -> SchedulerConfig {
    SchedulerConfig::from_folder(&tiny_sd("scheduler")).unwrap()
}

/// The number in `steps_25`.
fn num_steps(name: &str) -> usize {
    name.strip_prefix("steps_").unwrap().parse().unwrap()
}

fn sampler(config: &SchedulerConfig, num_steps: usize) -> Ddim {
    Ddim::new(&NoiseSchedule::new(config), config, num_steps)
}

#[test]
fn every_noise_level_matches() {
    let schedule = NoiseSchedule::new(&config());
    assert_each_close(schedule.alphas_cumprod(), &Fixture::open("models/ddim")["alphas_cumprod"], 1e-6);
}

#[test]
fn timesteps_match_for_every_spacing_and_number_of_steps() {
    let fixture = Fixture::open("models/ddim");
    let tables: Vec<&str> = fixture.names().filter(|name| name.ends_with(".timesteps")).collect();
    assert_eq!(tables.len(), 15);
    for table in tables {
        let [spacing, steps, _] = table.split('.').collect::<Vec<_>>()[..] else { panic!("{table}") };
        let config = SchedulerConfig { timestep_spacing: serde_json::from_value(spacing.into()).unwrap(), ..config() };
        let timesteps: Vec<i64> = sampler(&config, num_steps(steps)).timesteps().collect();
        assert_eq!(timesteps, Vec::<i64>::try_from(&fixture[table]).unwrap(), "{table}");
    }
}

/// Latents after every step, given what the model would have predicted at each.
fn sampled(sampler: &Ddim, start: &Tensor, predictions: &Tensor) -> Tensor {
    let steps = 0..sampler.timesteps().count();
    steps.fold(start.copy(), |latents, index| sampler.step(index, &predictions.get(index as i64), &latents))
}

#[test]
fn final_latents_match_for_every_setting() {
    let fixture = Fixture::open("models/ddim");
    let runs: Vec<&str> = fixture.names().filter(|name| name.ends_with(".latents")).collect();
    assert_eq!(runs.len(), 60);
    for run in runs {
        let [spacing, prediction, end, steps, _] = run.split('.').collect::<Vec<_>>()[..] else { panic!("{run}") };
        let config = SchedulerConfig {
            timestep_spacing: serde_json::from_value(spacing.into()).unwrap(),
            prediction_type: serde_json::from_value(prediction.into()).unwrap(),
            set_alpha_to_one: end == "to_one",
            ..config()
        };
        let latents = sampled(&sampler(&config, num_steps(steps)), &fixture["start"], &fixture["predictions"]);
        let error = relative_error(&latents, &fixture[run]);
        assert!(error <= TOLERANCE, "{run}: {error:.2e}");
    }
}
