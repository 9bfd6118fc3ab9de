//! Decoupled cross-attention of Stable Diffusion 1.5 (512 px, batch 2, 4 image tokens): at each size of its sixteen sites in
//! several ways, and at all of them as the UNet and an adapter compute it.
//!
//! `cargo bench --bench decoupled_attention`

mod support;

use std::collections::HashMap;

use criterion::{Criterion, criterion_group, criterion_main};
use ipa_adapter::{AdapterConfig, IpAdapter};
use ipa_core::attention;
use ipa_core::tch::{self, Device, Kind, Tensor};
use ipa_unet::{CrossAttentionHook, NoHook, Site, SiteId, UnetConfig};

use support::{BATCH, IMPLEMENTATIONS, Inputs, assert_same, bench, devices, group};

const TEXT_TOKENS: i64 = 77;
const IMAGE_TOKENS: i64 = 4;
const EMBED_DIM: i64 = 1024;

fn sites(criterion: &mut Criterion) {
    let _no_grad = tch::no_grad_guard();
    let config = UnetConfig::sd15();
    for options in devices() {
        all_sites(criterion, &config, options);
        let mut done = Vec::new();
        for site in config.sites() {
            let shape = (queries(&site), site.heads, site.width / site.heads);
            if !done.contains(&shape) {
                done.push(shape);
                one_site(criterion, &config, &site, options);
            }
        }
    }
}

/// Positions of a site's level: the mid block is as wide as the widest blocks that have attention, at half their size.
fn queries(site: &Site) -> i64 {
    let side = if site.name.starts_with("mid") { 8 } else { 64 * 320 / site.width };
    side * side
}

fn text_inputs(site: &Site, options: (Kind, Device)) -> Inputs {
    Inputs::random((queries(site), TEXT_TOKENS), (site.heads, site.width / site.heads), options)
}

/// Text and image in two calls, however computed, and in one.
fn one_site(criterion: &mut Criterion, config: &UnetConfig, site: &Site, options: (Kind, Device)) {
    let alike =
        config.sites().iter().filter(|other| (queries(other), other.width) == (queries(site), site.width)).count();
    let (queries, heads, head_dim) = (queries(site), site.heads, site.width / site.heads);
    let text = text_inputs(site, options);
    let image =
        Inputs { query: text.query.shallow_clone(), ..Inputs::random((1, IMAGE_TOKENS), (heads, head_dim), options) };
    let expected = attention(&text.query, &text.key, &text.value) + attention(&text.query, &image.key, &image.value);
    let what = format!("cross-attention of {queries} tokens, {heads} heads of {head_dim}, as at {alike} of 16 sites");
    let mut group = group(criterion, &what, options);
    bench(&mut group, "text alone, fused", options.1, || attention(&text.query, &text.key, &text.value));
    for (name, attention) in IMPLEMENTATIONS {
        let decoupled =
            || attention(&text.query, &text.key, &text.value) + attention(&text.query, &image.key, &image.value);
        assert_same(&decoupled(), &expected);
        bench(&mut group, &format!("two calls, {name}"), options.1, decoupled);
    }
    let both = Batched::new(&text, &image);
    assert_same(&both.attend(&text.query), &expected);
    bench(&mut group, "one call, image tokens padded and masked", options.1, || both.attend(&text.query));
    // One softmax over both is another result: that of the `simple` adapter. Here for its time.
    let key = Tensor::cat(&[&text.key, &image.key], 2);
    let value = Tensor::cat(&[&text.value, &image.value], 2);
    bench(&mut group, "one call, one softmax", options.1, || attention(&text.query, &key, &value));
    group.finish();
}

/// Text and image tokens as one batch, the image's padded to the text's length; prepared once, as keys and values are.
struct Batched {
    key: Tensor,
    value: Tensor,
    mask: Tensor,
}

impl Batched {
    fn new(text: &Inputs, image: &Inputs) -> Self {
        let padding = [0, 0, 0, TEXT_TOKENS - IMAGE_TOKENS];
        let both =
            |text: &Tensor, image: &Tensor| Tensor::cat(&[text.shallow_clone(), image.constant_pad_nd(padding)], 0);
        let mask = Tensor::zeros([2 * BATCH, 1, 1, TEXT_TOKENS], (text.key.kind(), text.key.device()));
        let _ =
            mask.narrow(0, BATCH, BATCH).narrow(3, IMAGE_TOKENS, TEXT_TOKENS - IMAGE_TOKENS).fill_(f64::NEG_INFINITY);
        Self { key: both(&text.key, &image.key), value: both(&text.value, &image.value), mask }
    }

    fn attend(&self, query: &Tensor) -> Tensor {
        let query = query.repeat([2, 1, 1, 1]);
        let mask = Some(&self.mask);
        let both = Tensor::scaled_dot_product_attention(&query, &self.key, &self.value, mask, 0.0, false, None, false);
        both.narrow(0, 0, BATCH) + both.narrow(0, BATCH, BATCH)
    }
}

/// Through the seam: a hook that adds, or none.
fn all_sites(criterion: &mut Criterion, config: &UnetConfig, options: (Kind, Device)) {
    let texts: Vec<Inputs> = config.sites().iter().map(|site| text_inputs(site, options)).collect();
    let all = |hook: &dyn CrossAttentionHook| -> Vec<Tensor> {
        let attend = |(index, Inputs { query, key, value }): (usize, &Inputs)| {
            let attended = attention(query, key, value);
            match hook.attend(SiteId(index), query) {
                Some(extra) => attended + extra,
                None => attended,
            }
        };
        texts.iter().enumerate().map(attend).collect()
    };
    let embeds = Tensor::randn([BATCH, EMBED_DIM], options);
    let prompt = adapter(config, options).prompt(&embeds, 1.0).expect("the adapter's own width");
    let mut group = group(criterion, "cross-attention at all 16 sites", options);
    bench(&mut group, "text alone", options.1, || all(&NoHook));
    bench(&mut group, "text and 4 image tokens", options.1, || all(&prompt));
    group.finish();
}

fn adapter(config: &UnetConfig, options: (Kind, Device)) -> IpAdapter {
    let weights = |site: &Site| {
        let weight = |name: &str| {
            let random = Tensor::randn([site.width, config.cross_attention_dim], options) * 0.02;
            (format!("{}.{name}.weight", site.name), random)
        };
        [weight("to_k"), weight("to_v")]
    };
    let unet: HashMap<String, Tensor> = config.sites().iter().flat_map(weights).collect();
    let adapter = IpAdapter::new(&AdapterConfig::classic(EMBED_DIM, config), (options.1, options.0));
    adapter.initialize(&unet, 0);
    adapter
}

criterion_group!(benches, sites);
criterion_main!(benches);
