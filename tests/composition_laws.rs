//! Laws of image prompts for any tokens, strengths, masks and times; each as exact as it truly is.
#![allow(clippy::unwrap_used)]

mod support;

use ipa_adapter::{Composition, ImagePrompt, IpAdapter, RegionMask, Timing};
use ipa_core::noise::Draws;
use ipa_core::tch::{Kind, Tensor};
use ipa_unet::{CrossAttentionHook, SiteId, UnetConfig};
use proptest::prelude::*;
use support::{F32, Fixture, TOLERANCE, fixture_path, relative_error, tiny_sd};

const BATCH: i64 = 2;

/// The tiny model's adapter with tokens and a query of a layer drawn from a seed.
struct World {
    adapter: IpAdapter,
    unet: UnetConfig,
    seed: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let unet: UnetConfig = ipa_core::read_config(tiny_sd("unet").as_path()).unwrap();
        let adapter = IpAdapter::load(&tiny_sd("ip_adapter.safetensors"), &unet, F32).unwrap();
        Self { adapter, unet, seed }
    }

    fn drawn(&self, purpose: &str, shape: &[i64]) -> Tensor {
        Draws::counted(self.seed, purpose, 0).normal(shape)
    }

    /// Tokens of one reference.
    fn tokens(&self, purpose: &str) -> Tensor {
        self.drawn(purpose, &[BATCH, 4, self.unet.cross_attention_dim])
    }

    fn prompt(&self, purpose: &str, scale: f64) -> ImagePrompt {
        self.adapter.prompt_of(&self.tokens(purpose), scale)
    }

    /// A query of `places` in a layer.
    fn query(&self, SiteId(site): SiteId, places: i64) -> Tensor {
        let site = &self.unet.sites()[site];
        self.drawn("query", &[BATCH, site.heads, places, site.width / site.heads])
    }
}

fn site() -> impl Strategy<Value = SiteId> {
    (0..16_usize).prop_map(SiteId)
}

/// One prompt throughout, times its curve.
fn composed(prompts: Vec<(ImagePrompt, Timing)>, done: f64, site: SiteId, query: &Tensor) -> Option<Tensor> {
    Composition::new(prompts).at(done).attend(site, query)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn at_scale_0_nothing_is_added(seed: u64, site in site(), weight in 0.0..3.0) {
        let world = World::new(seed);
        let query = world.query(site, 16);
        prop_assert!(world.prompt("a", 0.0).attend(site, &query).is_none());
        let masked = world.prompt("a", 0.0).within(Some(RegionMask::new(&world.drawn("mask", &[64, 64]))), weight);
        prop_assert!(masked.attend(site, &query).is_none());
    }

    /// The softmax over tokens that are there twice gives each half: equal but for rounding.
    #[test]
    fn the_same_reference_twice_is_the_reference(seed: u64, site in site(), scale in 0.1..2.0) {
        let world = World::new(seed);
        let (query, tokens) = (world.query(site, 16), world.tokens("a"));
        let once = world.adapter.prompt_of(&tokens, scale).attend(site, &query).unwrap();
        let twice = world.adapter.prompt_of(&Tensor::cat(&[&tokens, &tokens], 1), scale).attend(site, &query).unwrap();
        prop_assert!(relative_error(&twice, &once) <= TOLERANCE);
    }

    #[test]
    fn a_mask_of_all_is_no_mask_for_one_reference(seed: u64, site in site(), scale in 0.1..2.0, halvings in 0..3_u32) {
        let world = World::new(seed);
        let query = world.query(site, 64 >> (2 * halvings));
        let ones = RegionMask::new(&Tensor::ones([64, 64], (Kind::Float, F32.0)));
        let open = world.prompt("a", scale).attend(site, &query).unwrap();
        let masked = world.prompt("a", scale).within(Some(ones), 1.0).attend(site, &query).unwrap();
        prop_assert!(masked.equal(&open));
    }

    /// A sum of two has one result in either order; of more only to rounding.
    #[test]
    fn the_order_of_prompts_does_not_matter(seed: u64, site in site(), a in 0.1..2.0, b in 0.1..2.0, c in 0.1..2.0) {
        let world = World::new(seed);
        let query = world.query(site, 16);
        let prompts = |names: &[(&str, f64)]| {
            names.iter().map(|&(name, scale)| (world.prompt(name, scale), Timing::default())).collect::<Vec<_>>()
        };
        let sum = |names: &[(&str, f64)]| composed(prompts(names), 0.0, site, &query).unwrap();
        prop_assert!(sum(&[("a", a), ("b", b)]).equal(&sum(&[("b", b), ("a", a)])));
        let (forth, back) = (sum(&[("a", a), ("b", b), ("c", c)]), sum(&[("c", c), ("b", b), ("a", a)]));
        prop_assert!(relative_error(&forth, &back) <= TOLERANCE);
    }

    #[test]
    fn a_constant_curve_is_a_factor(seed: u64, site in site(), factor in 0.1..2.0, num in 1..5_usize, done in 0.0..0.999) {
        let world = World::new(seed);
        let query = world.query(site, 16);
        let timing = |curve| Timing { curve, ..Timing::default() };
        let curved = composed(vec![(world.prompt("a", 1.0), timing(vec![factor; num]))], done, site, &query).unwrap();
        let scaled = composed(vec![(world.prompt("a", factor), timing(Vec::new()))], done, site, &query).unwrap();
        prop_assert!(curved.equal(&scaled));
    }

    #[test]
    fn a_curve_stays_within_its_factors(curve in prop::collection::vec(0.0..2.0_f64, 1..6), done in 0.0..0.999) {
        let (low, high) = (curve.iter().copied().fold(f64::INFINITY, f64::min), curve.iter().copied().fold(0.0, f64::max));
        let factor = Timing { curve, ..Timing::default() }.factor(done);
        prop_assert!((low - 1e-12..=high + 1e-12).contains(&factor));
    }

    #[test]
    fn what_two_windows_share_out_is_the_whole(seed: u64, site in site(), at in 0.01..0.99, done in 0.0..0.999) {
        let world = World::new(seed);
        let query = world.query(site, 16);
        let window = |start, end| (world.prompt("a", 0.7), Timing { start, end, ..Timing::default() });
        let halves = composed(vec![window(0.0, at), window(at, 1.0)], done, site, &query).unwrap();
        prop_assert!(halves.equal(&composed(vec![window(0.0, 1.0)], done, site, &query).unwrap()));
    }

    /// Masks that share out the picture share out what one reference adds: bicubic resizing is linear.
    #[test]
    fn masks_that_share_out_the_picture_add_up(seed: u64, site in site(), halvings in 0..3_u32) {
        let world = World::new(seed);
        let query = world.query(site, 64 >> (2 * halvings));
        let mask = world.drawn("mask", &[64, 64]).sigmoid();
        let within = |mask: &Tensor| world.prompt("a", 0.8).within(Some(RegionMask::new(mask)), 1.0);
        let both = ImagePrompt::joined(vec![within(&mask), within(&(1.0 - &mask))]).unwrap();
        let error = relative_error(
            &both.attend(site, &query).unwrap(),
            &world.prompt("a", 0.8).attend(site, &query).unwrap(),
        );
        prop_assert!(error <= TOLERANCE, "{error:.2e}");
    }

    #[test]
    fn a_saved_adapter_adds_what_it_added(seed: u64, site in site()) {
        let world = World::new(seed);
        for file in ["tiny_sd/ip_adapter.safetensors", "variants/plus.safetensors", "faces/face_id.safetensors"] {
            let adapter = IpAdapter::load(&fixture_path(file), &world.unet, F32).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let saved = folder.path().join("saved.safetensors");
            adapter.save(&saved, Kind::Float, None).unwrap();
            let reloaded = IpAdapter::load(&saved, &world.unet, F32).unwrap();
            let added = |adapter: &IpAdapter| {
                adapter.prompt_of(&world.tokens("a"), 0.8).attend(site, &world.query(site, 16)).unwrap()
            };
            prop_assert!(added(&reloaded).equal(&added(&adapter)));
            prop_assert_eq!(Fixture::read(&saved).names().count(), Fixture::read(&fixture_path(file)).names().count());
        }
    }
}
