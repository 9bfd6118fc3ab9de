//! Self-attention at the four sizes of Stable Diffusion 1.5's layers (512 px, batch 2), in several ways.
//!
//! `cargo bench --bench self_attention`

mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use ipa_core::tch::{self, Device, Kind};

use support::{IMPLEMENTATIONS, Inputs, assert_same, bench, devices, group};

const HEADS: i64 = 8;
/// Tokens, and the size of a head.
const LEVELS: [(i64, i64); 4] = [(4096, 40), (1024, 80), (256, 160), (64, 160)];

fn levels(criterion: &mut Criterion) {
    let _no_grad = tch::no_grad_guard();
    for options in devices() {
        LEVELS.into_iter().for_each(|level| implementations(criterion, level, options));
    }
}

fn implementations(criterion: &mut Criterion, (tokens, head_dim): (i64, i64), options: (Kind, Device)) {
    let Inputs { query, key, value } = Inputs::random((tokens, tokens), (HEADS, head_dim), options);
    let fused = ipa_core::attention(&query, &key, &value);
    let what = format!("self-attention of {tokens} tokens, {HEADS} heads of {head_dim}");
    let mut group = group(criterion, &what, options);
    for (name, attention) in IMPLEMENTATIONS {
        assert_same(&attention(&query, &key, &value), &fused);
        bench(&mut group, name, options.1, || attention(&query, &key, &value));
    }
    group.finish();
}

criterion_group!(benches, levels);
criterion_main!(benches);
