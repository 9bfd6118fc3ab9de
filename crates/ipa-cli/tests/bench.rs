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
fn number(told: &Value, name: &str) -> f64 {
    told[name].as_f64().unwrap_or_else(|| panic!("no number `{name}` in {told}"))
}

#[track_caller]
fn assert_timed(told: &Value) {
    assert!(0.0 < number(told, "best_s") && number(told, "best_s") <= number(told, "median_s"), "{told}");
    assert!(number(told, "tflop") > 0.0 && number(told, "share_of_matmul") > 0.0, "{told}");
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
#[cfg(feature = "pocket")]
fn a_series_is_every_combination_with_the_least_work_first() {
    let series = bench("unet").with("--size", "128,64").with("--adapters", "0,2").with("--references", "1,3");
    let lines = series.and("--json").run().done().json_lines();
    let sizes: Vec<_> =
        lines.iter().map(|line| ["size", "adapters", "image_tokens"].map(|name| number(line, name))).collect();
    let of_one = |size: f64| [[size, 0.0, 0.0], [size, 2.0, 8.0], [size, 2.0, 24.0]];
    assert_eq!(sizes, [of_one(64.0), of_one(128.0)].concat());
    assert!(lines.is_sorted_by_key(|line| number(line, "tflop")));
    lines.iter().for_each(assert_timed);
}

#[test]
#[cfg(feature = "pocket")]
fn the_autoencoder_is_timed_both_ways() {
    let (decode, encode) = (told(bench("vae-decode").with("--batch", "2")), told(bench("vae-decode").and("--encode")));
    assert_timed(&decode);
    assert_timed(&encode);
    // A level of the decoder has one residual block more, and there are two pictures.
    assert!(number(&decode, "tflop") > 2.0 * number(&encode, "tflop"));
}

#[test]
fn a_tower_is_timed() {
    let command = Ipa::new("bench").and("clip").with("--tower", "text").with("--runs", "2");
    let told = told(command.with("--device", "cpu").with("--dtype", "f32"));
    assert_timed(&told);
    assert_eq!((&told["tower"], number(&told, "tflop")), (&json!("text"), 0.013298503680));
}

#[test]
#[cfg(feature = "pocket")]
fn loading_is_timed_beside_a_plain_read() {
    let told = told(bench("load"));
    let ratio = number(&told, "median_s") / number(&told["read"], "median_s");
    assert!((number(&told, "ratio") / ratio - 1.0).abs() < 1e-9, "{told}");
    assert!(told.get("tflop").is_none(), "reading is no arithmetic: {told}");
    bench("load").with("--file", "nowhere.safetensors").run().refused(1, &["nowhere.safetensors"]);
}

#[test]
#[cfg(feature = "pocket")]
fn whole_pictures_are_timed() {
    let told = told(bench("generate").with("--steps", "3").with("--adapters", "2").with("--num-images", "2"));
    assert_timed(&told);
    assert_eq!(number(&told, "picture_s"), number(&told, "median_s") / 2.0);
    // Three steps, and what comes before and after them.
    assert!(2.0 * number(&told, "step_s") < number(&told, "median_s"), "{told}");
    bench("generate").with("--config", "sdxl").run().refused(2, &["sdxl", "--config"]);
}

#[test]
#[cfg(all(feature = "pocket", target_os = "linux"))]
fn a_training_step_is_timed_and_its_memory_told() {
    for variant in ["classic", "plus"] {
        let told = told(bench("train-step").with("--variant", variant).and("--recompute"));
        assert_timed(&told);
        assert_eq!([&told["variant"], &told["recompute"]], [&json!(variant), &json!(true)]);
        let [peak, weights, above] = ["peak_gib", "weights_gib", "above_weights_gib"].map(|name| number(&told, name));
        assert!((peak - weights - above).abs() < 1e-9 && above > 0.0, "{told}");
    }
}

#[test]
fn a_size_that_no_latent_has_is_refused() {
    bench("unet").with("--size", "64,100").run().refused(2, &["--size", "multiple of 8"]);
}
