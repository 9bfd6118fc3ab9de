//! `ipa bench` on the pocket model's sizes.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use support::Ipa;

fn bench(what: &str) -> Ipa {
    let command = Ipa::new("bench").and(what).with("--config", "pocket").with("--runs", "2");
    command.with("--device", "cpu").with("--dtype", "f32")
}

#[track_caller]
fn told(command: Ipa) -> Value {
    let mut lines = command.and("--json").run().done().json_lines();
    assert_eq!(lines.len(), 1);
    lines.remove(0)
}

#[track_caller]
fn assert_timed(told: &Value) {
    let number = |name: &str| told[name].as_f64().unwrap_or_else(|| panic!("no number `{name}` in {told}"));
    assert!(0.0 < number("best_s") && number("best_s") <= number("median_s"), "{told}");
    assert!(number("tflop") > 0.0 && number("share_of_matmul") > 0.0, "{told}");
    assert_eq!(told["runs_s"].as_array().unwrap().len(), 2);
}

#[test]
#[cfg(feature = "pocket")]
fn a_call_of_the_unet_is_timed_and_its_arithmetic_counted() {
    let with_adapter = told(bench("unet"));
    assert_timed(&with_adapter);
    assert_eq!(
        [&with_adapter["batch"], &with_adapter["size"], &with_adapter["image_tokens"]],
        [&json!(2), &json!(64), &json!(4)]
    );
    let plain = told(bench("unet").and("--no-adapter"));
    assert!(plain["tflop"].as_f64() < with_adapter["tflop"].as_f64());
}

#[test]
#[cfg(all(feature = "pocket", target_os = "linux"))]
fn a_training_step_is_timed_and_its_memory_told() {
    for variant in ["classic", "plus"] {
        let told = told(bench("train-step").with("--variant", variant).and("--recompute"));
        assert_timed(&told);
        assert_eq!([&told["variant"], &told["recompute"]], [&json!(variant), &json!(true)]);
        let memory = |name: &str| told[name].as_f64().unwrap();
        let difference = memory("peak_gib") - memory("weights_gib") - memory("above_weights_gib");
        assert!(difference.abs() < 1e-9 && memory("above_weights_gib") > 0.0, "{told}");
    }
}

#[test]
fn a_size_that_no_latent_has_is_refused() {
    bench("unet").with("--size", "100").run().refused(2, &["--size", "multiple of 8"]);
}
