//! Several references, masks, weights, layers and adapters, against diffusers and by the laws that hold of them.
//! Reference values: tests/fixtures/composition.py
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use image::RgbImage;
use ipa_adapter::{AttentionMaps, RegionMask};
use ipa_clip::load_image;
use ipa_core::tch::Tensor;
use ipa_sample::{
    AdapterSource, Extras, GenerateRequest, Generated, ImagePromptSpec, Layers, Merge, Parts, Pictures, Pipeline,
    Preset, Reference, reference_maps,
};
use ipa_unet::{CrossAttentionHook, NoHook, SiteId};
use support::{F32, Fixture, assert_close, fixture_path, levels, relative_error, tiny_sd};

/// Rounding differs by 1e-6 in one call of the UNet and is guided, hence amplified, at every step.
const LATENTS_TOLERANCE: f64 = 1e-3;
/// Levels of 255.
const PICTURE_TOLERANCE: u8 = 2;

/// Those of which there is a picture too.
const PICTURED: [&str; 4] = ["two_masks", "soft_mask", "two_adapters", "blocks"];

/// Requests by the name of what diffusers made of them.
fn cases() -> Vec<(String, GenerateRequest)> {
    let text = std::fs::read(fixture_path("composition/cases.json")).unwrap();
    let cases: Vec<serde_json::Value> = serde_json::from_slice(&text).unwrap();
    let case = |case: &serde_json::Value| {
        let mut request: GenerateRequest = serde_json::from_value(case["request"].clone()).unwrap();
        request.relative_to(&fixture_path(""));
        (case["name"].as_str().unwrap().to_owned(), request)
    };
    cases.iter().map(case).collect()
}

/// The tiny model with both adapters.
struct Tiny {
    pipeline: Pipeline,
}

impl Tiny {
    fn load() -> Self {
        let pipeline = Pipeline::load(&tiny_sd(""), F32).unwrap();
        let adapters = [tiny_sd("ip_adapter.safetensors"), fixture_path("variants/plus.safetensors")];
        let add = |pipeline: Pipeline, file: PathBuf| pipeline.with_adapter(&file, None).unwrap();
        Self { pipeline: adapters.into_iter().fold(pipeline, add) }
    }

    fn generate(&self, request: &GenerateRequest, extras: Extras) -> Generated {
        let load = |path: &Path| (path.to_owned(), load_image(path).unwrap());
        let named: BTreeMap<PathBuf, RgbImage> = request.named_pictures().into_iter().map(load).collect();
        let pictures = Pictures { named: Some(&named), ..Pictures::default() };
        self.pipeline.generate_with(request, pictures, extras, |_| ControlFlow::Continue(())).unwrap()
    }

    fn latents(&self, specs: &[ImagePromptSpec]) -> Tensor {
        self.generate(&request(specs), Extras::default()).latents
    }
}

fn request(specs: &[ImagePromptSpec]) -> GenerateRequest {
    GenerateRequest {
        prompt: "a small red circle".to_owned(),
        num_steps: 4,
        seed: 42,
        width: Some(64),
        height: Some(64),
        image_prompts: specs.to_vec(),
        ..GenerateRequest::default()
    }
}

fn picture(name: &str) -> Reference {
    Reference::from(fixture_path("pictures").join(name))
}

fn masked(name: &str, mask: &str) -> Reference {
    Reference { mask: Some(fixture_path("composition").join(mask)), ..picture(name) }
}

/// References of the classic adapter at strength 0.8.
fn spec(images: &[Reference]) -> ImagePromptSpec {
    ImagePromptSpec { images: images.to_vec(), scale: 0.8, ..ImagePromptSpec::default() }
}

fn with_plus(spec: ImagePromptSpec) -> ImagePromptSpec {
    let file = fixture_path("variants/plus.safetensors");
    ImagePromptSpec { adapter: Some(AdapterSource { file, ..AdapterSource::default() }), ..spec }
}

#[test]
fn what_diffusers_defines_is_what_it_draws() {
    let (tiny, cases) = (Tiny::load(), cases());
    assert_eq!(cases.len(), 18);
    for (name, request) in cases {
        let generated = tiny.generate(&request, Extras::default());
        let expected = Fixture::open(&format!("composition/{name}"));
        let error = relative_error(&generated.latents, &expected["latents"]);
        assert!(error <= LATENTS_TOLERANCE, "{name}: {error:.2e}");
        if PICTURED.contains(&name.as_str()) {
            let expected = load_image(&fixture_path(&format!("composition/{name}.png"))).unwrap();
            let difference = levels(&generated.pictures[0], &expected);
            assert!(difference <= PICTURE_TOLERANCE, "{name}: {difference} levels");
        }
    }
}

#[test]
fn masks_come_to_a_layers_size_as_in_diffusers() {
    let expected = Fixture::open("composition/mask_sizes");
    let mut compared = 0;
    for name in expected.names().filter(|name| !name.ends_with("_mask")) {
        let (mask, queries) = name.split_once('.').unwrap();
        let found = RegionMask::new(&expected[&format!("{mask}_mask")]).at(queries.parse().unwrap());
        assert_close(&found, &expected[name].flatten(0, -1), 1e-5);
        compared += 1;
    }
    assert!(compared >= 10);
}

#[test]
fn an_image_prompt_at_scale_0_is_absent() {
    let tiny = Tiny::load();
    let without = tiny.latents(&[]);
    let off = |spec: ImagePromptSpec| ImagePromptSpec { scale: 0.0, ..spec };
    let (one, other) = (spec(&[picture("wide.png")]), with_plus(spec(&[picture("tall.jpg")])));
    assert!(tiny.latents(&[off(one.clone())]).equal(&without));
    assert!(tiny.latents(&[off(other.clone())]).equal(&without));
    assert!(tiny.latents(&[one.clone(), off(other)]).equal(&tiny.latents(&[one])));
}

/// One softmax over tokens that are there twice gives each half: equal but for rounding.
#[test]
fn the_same_picture_twice_is_the_picture() {
    let tiny = Tiny::load();
    for with in [|spec| spec, with_plus] {
        let (once, twice) =
            (with(spec(&[picture("wide.png")])), with(spec(&[picture("wide.png"), picture("wide.png")])));
        let error = relative_error(&tiny.latents(&[twice]), &tiny.latents(&[once]));
        assert!(error <= LATENTS_TOLERANCE, "{error:.2e}");
    }
}

#[test]
fn a_mask_of_all_is_no_mask_for_one_picture() {
    let tiny = Tiny::load();
    let (open, everywhere) = (spec(&[picture("wide.png")]), spec(&[masked("wide.png", "ones.png")]));
    assert!(tiny.latents(&[everywhere]).equal(&tiny.latents(&[open])));
}

/// The reference attends them one by one, without masks in one softmax.
#[test]
fn a_mask_of_all_is_something_else_for_several_pictures() {
    let tiny = Tiny::load();
    let open = spec(&[picture("wide.png"), picture("tall.jpg")]);
    let everywhere = spec(&[masked("wide.png", "ones.png"), masked("tall.jpg", "ones.png")]);
    assert!(relative_error(&tiny.latents(&[everywhere]), &tiny.latents(&[open])) > 0.01);
}

#[test]
fn the_order_of_two_adapters_does_not_matter() {
    let tiny = Tiny::load();
    let (one, other) = (spec(&[picture("wide.png")]), with_plus(spec(&[picture("tall.jpg")])));
    assert!(tiny.latents(&[one.clone(), other.clone()]).equal(&tiny.latents(&[other, one])));
}

#[test]
fn a_constant_curve_is_a_factor() {
    let tiny = Tiny::load();
    let scaled = |scale, curve: &[f64]| {
        tiny.latents(&[ImagePromptSpec { scale, curve: curve.to_vec(), ..spec(&[picture("wide.png")]) }])
    };
    assert!(scaled(0.8, &[1.0, 1.0, 1.0]).equal(&scaled(0.8, &[])));
    assert!(scaled(1.0, &[0.5]).equal(&scaled(0.5, &[])));
    assert!(!scaled(1.0, &[1.0, 0.0]).equal(&scaled(1.0, &[])));
}

#[test]
fn a_window_is_the_share_of_the_calls() {
    let tiny = Tiny::load();
    let window = |start, end| tiny.latents(&[ImagePromptSpec { start, end, ..spec(&[picture("wide.png")]) }]);
    assert!(window(0.0, 1.0).equal(&tiny.latents(&[spec(&[picture("wide.png")])])));
    assert!(window(0.3, 0.3).equal(&tiny.latents(&[])));
    let halves = [window(0.0, 0.5), window(0.5, 1.0)];
    assert!(!halves[0].equal(&halves[1]));
}

#[test]
fn layers_of_1_are_no_layers_and_layers_of_0_none() {
    let tiny = Tiny::load();
    let with = |layers| tiny.latents(&[ImagePromptSpec { layers: Some(layers), ..spec(&[picture("wide.png")]) }]);
    let open = tiny.latents(&[spec(&[picture("wide.png")])]);
    assert!(with(Layers::Preset(Preset::Linear)).equal(&open));
    assert!(with(Layers::List(vec![1.0; 16])).equal(&open));
    assert!(with(Layers::Parts(Parts::default())).equal(&tiny.latents(&[])));
}

/// Without guidance there is no half that could get the reference: the precise presets are silent where they hold back.
#[test]
fn precise_presets_hold_back_by_the_unconditional_half() {
    let tiny = Tiny::load();
    let drawn = |preset, guidance_scale| {
        let spec = ImagePromptSpec { layers: Some(Layers::Preset(preset)), ..spec(&[picture("wide.png")]) };
        tiny.generate(&GenerateRequest { guidance_scale, ..request(&[spec]) }, Extras::default()).latents
    };
    assert!(drawn(Preset::StylePrecise, 1.0).equal(&drawn(Preset::Style, 1.0)));
    assert!(!drawn(Preset::StylePrecise, 7.5).equal(&drawn(Preset::Style, 7.5)));
}

#[test]
fn merging_a_picture_with_itself_is_the_picture() {
    let tiny = Tiny::load();
    let twice = [picture("wide.png"), picture("wide.png")];
    let once = tiny.latents(&[spec(&twice[..1])]);
    for merge in [Merge::Average, Merge::Max, Merge::Min] {
        let error = relative_error(&tiny.latents(&[ImagePromptSpec { merge, ..spec(&twice) }]), &once);
        assert!(error <= LATENTS_TOLERANCE, "{merge}: {error:.2e}");
    }
    // Weights are factors on what is merged.
    let half = Reference { weight: 0.5, ..picture("wide.png") };
    let halves = ImagePromptSpec { merge: Merge::Add, ..spec(&[half.clone(), half]) };
    assert!(relative_error(&tiny.latents(&[halves]), &once) <= LATENTS_TOLERANCE);
}

#[test]
fn a_weight_is_a_factor_on_what_a_reference_adds() {
    let tiny = Tiny::load();
    let weighted = |weight| Reference { weight, ..picture("wide.png") };
    let scaled = |scale, images: &[Reference]| tiny.latents(&[ImagePromptSpec { scale, ..spec(images) }]);
    for weight in [0.25, 0.5, 2.0] {
        // Powers of two round nothing.
        assert!(scaled(0.5, &[weighted(weight)]).equal(&scaled(0.5 * weight, &[picture("wide.png")])), "{weight}");
    }
    let both = [weighted(0.5), Reference { weight: 0.5, ..picture("tall.jpg") }];
    let open = [picture("wide.png"), picture("tall.jpg")];
    assert!(scaled(1.0, &both).equal(&scaled(0.5, &open)));
    let one = scaled(1.0, &[picture("wide.png"), Reference { weight: 0.0, ..picture("tall.jpg") }]);
    assert!(!one.equal(&scaled(1.0, &open)) && !one.equal(&scaled(1.0, &open[..1])));
}

#[test]
fn stored_embeddings_of_other_shapes_are_refused() {
    let tiny = Tiny::load();
    let folder = tempfile::tempdir().unwrap();
    let refused = |tensors: &[(&str, &[i64])], words: &str| {
        let embeds = folder.path().join("embeds.safetensors");
        let zeros = |&(name, shape): &(&str, &[i64])| {
            (name.to_owned(), Tensor::zeros(shape, (ipa_core::tch::Kind::Float, F32.0)))
        };
        ipa_core::save_tensors(&embeds, tensors.iter().map(zeros), None).unwrap();
        let stored = with_plus(ImagePromptSpec { embeds: Some(embeds), ..ImagePromptSpec::default() });
        let drawn = tiny.pipeline.generate(&request(&[stored]), Pictures::default(), |_| ControlFlow::Continue(()));
        let error = drawn.unwrap_err().to_string();
        assert!(error.contains("embeds.safetensors") && error.contains(words), "{error}");
    };
    refused(&[("image_embeds", &[2, 17, 33])], "`image_embeds` is [2, 17, 33], the adapter reads [n, patches, 32]");
    refused(&[("image_embeds", &[0, 17, 32])], "`image_embeds` is [0, 17, 32]");
    refused(&[("other", &[1])], "`image_embeds` is missing");
    let none: [(&str, &[i64]); 2] = [("image_embeds", &[2, 17, 32]), ("uncond_image_embeds", &[3, 17, 32])];
    refused(&none, "`uncond_image_embeds` is [3, 17, 32]");
}

#[test]
fn stored_embeddings_are_the_pictures() {
    let tiny = Tiny::load();
    for with in [|spec| spec, with_plus] {
        let spec = with(spec(&[picture("wide.png"), picture("tall.jpg")]));
        let adapter = match &spec.adapter {
            Some(source) => source.file.clone(),
            None => tiny_sd("ip_adapter.safetensors"),
        };
        let pipeline = Pipeline::load(&tiny_sd(""), F32).unwrap().with_adapter(&adapter, None).unwrap();
        let (adapter, encoder) = pipeline.adapter().unwrap();
        let kind = adapter.image_features().unwrap();
        let pictures: Vec<RgbImage> = spec.images.iter().map(|image| load_image(&image.file).unwrap()).collect();
        let folder = tempfile::tempdir().unwrap();
        let embeds = folder.path().join("embeds.safetensors");
        let tensors = [
            ("image_embeds".to_owned(), encoder.features(&pictures, kind)),
            ("uncond_image_embeds".to_owned(), encoder.unconditional(kind)),
        ];
        ipa_core::save_tensors(&embeds, tensors, None).unwrap();
        let stored = ImagePromptSpec { images: Vec::new(), embeds: Some(embeds), ..spec.clone() };
        assert!(tiny.latents(&[stored]).equal(&tiny.latents(&[spec])));
    }
}

#[test]
fn a_negative_picture_stands_where_nothing_stood() {
    let tiny = Tiny::load();
    let away = |name| ImagePromptSpec { negative: Some(picture(name)), ..spec(&[picture("wide.png")]) };
    assert!(!tiny.latents(&[away("tall.jpg")]).equal(&tiny.latents(&[spec(&[picture("wide.png")])])));
    // Away from the picture itself there is no way to go: both halves see the same.
    let same =
        tiny.generate(&GenerateRequest { prompt: String::new(), ..request(&[away("wide.png")]) }, Extras::default());
    let unguided =
        GenerateRequest { prompt: String::new(), guidance_scale: 1.0, ..request(&[spec(&[picture("wide.png")])]) };
    let error = relative_error(&same.latents, &tiny.generate(&unguided, Extras::default()).latents);
    assert!(error <= LATENTS_TOLERANCE, "{error:.2e}");
}

#[test]
fn calls_of_a_few_pictures_are_those_of_all() {
    let tiny = Tiny::load();
    let spec = spec(&[masked("wide.png", "left.png"), masked("tall.jpg", "right.png")]);
    let together = GenerateRequest { num_images: 3, ..request(&[spec]) };
    let parts = GenerateRequest { batch_size: Some(2), ..together.clone() };
    let latents = |request| tiny.generate(request, Extras::default()).latents;
    assert!(relative_error(&latents(&parts), &latents(&together)) <= LATENTS_TOLERANCE);
}

/// Adds a tenth of the query wherever it is asked.
struct Echo;

impl CrossAttentionHook for Echo {
    fn attend(&self, _site: SiteId, query: &Tensor) -> Option<Tensor> {
        Some(query * 0.1)
    }
}

#[test]
fn a_hook_of_ones_own_adds_to_the_image_prompts() {
    let tiny = Tiny::load();
    let drawn = |specs: &[ImagePromptSpec], hook| {
        tiny.generate(&request(specs), Extras { hook: Some(hook), ..Extras::default() }).latents
    };
    let one = [spec(&[picture("wide.png")])];
    assert!(drawn(&one, &NoHook).equal(&tiny.latents(&one)));
    assert!(!drawn(&one, &Echo).equal(&tiny.latents(&one)));
    assert!(!drawn(&[], &Echo).equal(&drawn(&one, &Echo)));
}

#[test]
fn attention_is_gathered_without_a_change_to_the_picture() {
    let tiny = Tiny::load();
    let open = with_plus(spec(&[picture("wide.png"), picture("tall.jpg")]));
    let masks = spec(&[masked("wide.png", "left.png"), masked("tall.jpg", "right.png")]);
    let request = GenerateRequest { num_images: 3, batch_size: Some(2), ..request(&[open, masks]) };
    let maps = AttentionMaps::default();
    let watched = tiny.generate(&request, Extras { maps: Some(&maps), ..Extras::default() });
    assert!(watched.latents.equal(&tiny.generate(&request, Extras::default()).latents));
    let maps = reference_maps(maps, &watched);
    let places: Vec<(usize, usize, Vec<i64>)> =
        maps.iter().map(|map| (map.prompt, map.reference, map.shares.size())).collect();
    let size = |tokens| vec![3, tokens, 8, 8];
    assert_eq!(places, [(0, 0, size(6)), (0, 1, size(6)), (1, 0, size(4)), (1, 1, size(4))]);
    let all = |map: usize| maps[map].shares.sum_dim_intlist(1, false, None::<ipa_core::tch::Kind>);
    let shared = all(0) + all(1);
    assert!((shared - 1.0).abs().max().double_value(&[]) < 1e-5); // one softmax over both
    let left = all(2).narrow(2, 0, 2).mean(None::<ipa_core::tch::Kind>).double_value(&[]);
    let right = all(2).narrow(2, 6, 2).mean(None::<ipa_core::tch::Kind>).double_value(&[]);
    assert!(left > 0.9 && right < 0.1, "{left} {right}"); // its half of the picture
}
