//! Cross-attention at the sixteen sites of Stable Diffusion 1.5 (512 px, batch 2), with and without image tokens.
//!
//! `cargo bench --bench decoupled_attention`

use std::collections::HashMap;

use criterion::{Criterion, criterion_group, criterion_main};
use ipa_adapter::{AdapterConfig, IpAdapter};
use ipa_core::attention;
use ipa_core::tch::{self, Device, Kind, Tensor};
use ipa_unet::{CrossAttentionHook, NoHook, Site, SiteId, UnetConfig};

const OPTIONS: (Kind, Device) = (Kind::Float, Device::Cpu);
const BATCH: i64 = 2;
const TEXT_TOKENS: i64 = 77;

/// Queries, keys and values of one site's text attention.
struct TextAttention {
    query: Tensor,
    key: Tensor,
    value: Tensor,
}

impl TextAttention {
    fn new(site: &Site) -> Self {
        // The mid block is as wide as the widest blocks that have attention, at half their size.
        let side = if site.name.starts_with("mid") { 8 } else { 64 * 320 / site.width };
        let shape = |tokens: i64| [BATCH, site.heads, tokens, site.width / site.heads];
        Self {
            query: Tensor::randn(shape(side * side), OPTIONS),
            key: Tensor::randn(shape(TEXT_TOKENS), OPTIONS),
            value: Tensor::randn(shape(TEXT_TOKENS), OPTIONS),
        }
    }

    fn attend(&self, site: SiteId, hook: &dyn CrossAttentionHook) -> Tensor {
        let attended = attention(&self.query, &self.key, &self.value);
        match hook.attend(site, &self.query) {
            Some(extra) => attended + extra,
            None => attended,
        }
    }
}

fn sites(criterion: &mut Criterion) {
    let _no_grad = tch::no_grad_guard();
    let config = UnetConfig::sd15();
    let texts: Vec<TextAttention> = config.sites().iter().map(TextAttention::new).collect();
    let all = |hook: &dyn CrossAttentionHook| -> Vec<Tensor> {
        texts.iter().enumerate().map(|(index, text)| text.attend(SiteId(index), hook)).collect()
    };
    let prompt = adapter(&config).prompt(&Tensor::randn([BATCH, 1024], OPTIONS), 1.0).expect("the adapter's own width");
    let mut group = criterion.benchmark_group("cross-attention of SD1.5, 16 sites, 512 px, batch 2, f32, CPU");
    group.sample_size(20);
    group.bench_function("text alone", |bencher| bencher.iter(|| all(&NoHook)));
    group.bench_function("text and 4 image tokens", |bencher| bencher.iter(|| all(&prompt)));
    group.finish();
}

fn adapter(config: &UnetConfig) -> IpAdapter {
    let weights = |site: &Site| {
        let weight = |name: &str| {
            let random = Tensor::randn([site.width, config.cross_attention_dim], OPTIONS) * 0.02;
            (format!("{}.{name}.weight", site.name), random)
        };
        [weight("to_k"), weight("to_v")]
    };
    let unet: HashMap<String, Tensor> = config.sites().iter().flat_map(weights).collect();
    let adapter = IpAdapter::new(&AdapterConfig::classic(1024, config), (OPTIONS.1, OPTIONS.0));
    adapter.initialize(&unet, 0);
    adapter
}

criterion_group!(benches, sites);
criterion_main!(benches);
