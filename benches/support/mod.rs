//! Attention in several ways, on whatever computes here.
#![allow(dead_code)] // each bench uses a part

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};
use ipa_core::attention;
use ipa_core::device::{kind_name, parse_device};
use ipa_core::tch::{Cuda, Device, Kind, Tensor};

/// Pictures at once: one under guidance.
pub(crate) const BATCH: i64 = 2;
/// Queries whose scores [`chunked`] has in memory at a time.
const CHUNK: i64 = 512;

/// The CPU in f32, and a card in bf16 where there is one.
pub(crate) fn devices() -> Vec<(Kind, Device)> {
    let card = parse_device("cuda").ok().map(|device| (Kind::BFloat16, device));
    [Some((Kind::Float, Device::Cpu)), card].into_iter().flatten().collect()
}

/// A group of benches of few milliseconds to a second each.
pub(crate) fn group<'c>(
    criterion: &'c mut Criterion,
    what: &str,
    (kind, device): (Kind, Device),
) -> BenchmarkGroup<'c, WallTime> {
    let mut group = criterion.benchmark_group(format!("{what}, batch {BATCH}, {}, {device:?}", kind_name(kind)));
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    group
}

/// Times a call until its results are there.
pub(crate) fn bench<T>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    device: Device,
    mut call: impl FnMut() -> T,
) {
    let mut finished = || {
        let result = call();
        if let Device::Cuda(index) = device {
            Cuda::synchronize(index as i64);
        }
        result
    };
    group.bench_function(name, |bencher| bencher.iter(&mut finished));
}

/// Query, key and value.
pub(crate) struct Inputs {
    pub(crate) query: Tensor,
    pub(crate) key: Tensor,
    pub(crate) value: Tensor,
}

impl Inputs {
    /// As layers make them: heads are a view of `[batch, tokens, width]`.
    pub(crate) fn random((queries, keys): (i64, i64), (heads, head_dim): (i64, i64), options: (Kind, Device)) -> Self {
        let draw = |tokens: i64| Tensor::randn([BATCH, tokens, heads, head_dim], options).transpose(1, 2);
        Self { query: draw(queries), key: draw(keys), value: draw(keys) }
    }
}

/// A way to compute attention, of `[batch, heads, tokens, head_dim]`.
pub(crate) type Attention = fn(&Tensor, &Tensor, &Tensor) -> Tensor;

pub(crate) const IMPLEMENTATIONS: [(&str, Attention); 3] =
    [("explicit softmax", explicit), ("fused", attention), ("chunked over queries", chunked)];

/// As the equation has it, all scores in memory.
fn explicit(query: &Tensor, key: &Tensor, value: &Tensor) -> Tensor {
    let scale = 1.0 / (query.size()[3] as f64).sqrt();
    (query * scale).matmul(&key.transpose(-2, -1)).softmax(-1, query.kind()).matmul(value)
}

/// The same for some of the queries at a time.
fn chunked(query: &Tensor, key: &Tensor, value: &Tensor) -> Tensor {
    let chunks = query.split(CHUNK, 2);
    Tensor::cat(&chunks.iter().map(|chunk| explicit(chunk, key, value)).collect::<Vec<_>>(), 2)
}

/// Panics if two ways differ by more than rounding.
pub(crate) fn assert_same(found: &Tensor, expected: &Tensor) {
    let double = |tensor: &Tensor| tensor.to_kind(Kind::Double);
    let error = (double(found) - double(expected)).abs().max().double_value(&[]);
    let allowed = if found.kind() == Kind::Float { 1e-4 } else { 5e-2 };
    assert!(error < allowed, "the results differ by {error:.1e}");
}
