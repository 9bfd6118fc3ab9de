//! Noise against torch's own generator. Reference values: tests/fixtures/models.py
#![allow(clippy::unwrap_used)]

mod support;

use ipa_core::noise::Draws;
use ipa_core::tch::Kind;
use support::{Fixture, assert_close};

#[test]
fn every_precision_draws_what_torch_draws_in_it() {
    let fixture = Fixture::open("models/noise");
    for (name, kind) in [("f32", Kind::Float), ("f16", Kind::Half), ("bf16", Kind::BFloat16)] {
        for shape in [&[1, 4, 5, 7][..], &[2, 3]] {
            let size: Vec<String> = shape.iter().map(i64::to_string).collect();
            let expected = &fixture[&format!("{name}.{}", size.join("x"))];
            let drawn = Draws::seeded(7).in_kind(kind).normal(shape);
            assert_eq!(drawn.kind(), kind);
            // f32 has a vectorised logarithm and cosine, whose last bits depend on the processor.
            assert_close(&drawn, expected, if kind == Kind::Float { 1e-6 } else { 0.0 });
        }
    }
}

#[test]
fn half_precision_is_not_f32_rounded() {
    let fixture = Fixture::open("models/noise");
    let error = support::relative_error(&fixture["f16.1x4x5x7"], &fixture["f32.1x4x5x7"]);
    assert!(error > 0.1, "{error}");
}
