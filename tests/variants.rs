//! Adapters of the kinds that look at a picture's details, against diffusers' IP-Adapter.
//! Reference values: tests/fixtures/variants.py
#![allow(clippy::unwrap_used)]

mod support;

use std::ops::ControlFlow;
use std::path::PathBuf;

use image::RgbImage;
use ipa_adapter::{AdapterError, ImageFeatures, IpAdapter};
use ipa_clip::load_image;
use ipa_core::save_tensors;
use ipa_core::tch::{Kind, Tensor};
use ipa_sample::{GenerateRequest, ImageEncoder, Pipeline, PipelineError};
use support::{F32, Fixture, TOLERANCE, assert_close, fixture_path, relative_error, tiny_sd};

const KINDS: [&str; 2] = ["plus", "full_face"];
/// Rounding differs by 1e-6 in one call of the UNet and is guided, hence amplified, at every step.
const LATENTS_TOLERANCE: f64 = 1e-3;

fn file(kind: &str) -> PathBuf {
    fixture_path("variants").join(format!("{kind}.safetensors"))
}

fn expected(kind: &str) -> Fixture {
    Fixture::open(&format!("variants/{kind}.expected"))
}

fn pipeline(kind: &str) -> Pipeline {
    Pipeline::load(&tiny_sd(""), F32).unwrap().with_adapter(&file(kind), None).unwrap()
}

fn reference() -> RgbImage {
    load_image(&fixture_path("pictures/wide.png")).unwrap()
}

fn request() -> GenerateRequest {
    GenerateRequest {
        prompt: "a small red circle".to_owned(),
        scale: 0.8,
        num_steps: 5,
        seed: 42,
        width: Some(64),
        height: Some(64),
        ..GenerateRequest::default()
    }
}

#[test]
fn features_and_tokens_match_with_and_without_a_picture() {
    for kind in KINDS {
        let (pipeline, expected) = (pipeline(kind), expected(kind));
        let (adapter, encoder): (&IpAdapter, &ImageEncoder) = pipeline.adapter().unwrap();
        assert_eq!(adapter.features(), ImageFeatures::Penultimate);
        let (features, none) =
            (encoder.features(&[reference()], adapter.features()), encoder.unconditional(adapter.features()));
        assert_close(&features, &expected["features"], TOLERANCE);
        assert_close(&none, &expected["uncond_features"], TOLERANCE);
        assert_close(&adapter.ip_tokens(&features).unwrap(), &expected["ip_tokens"], TOLERANCE);
        assert_close(&adapter.ip_tokens(&none).unwrap(), &expected["uncond_ip_tokens"], TOLERANCE);
    }
}

#[test]
fn latents_of_a_whole_run_match() {
    for kind in KINDS {
        let generated = pipeline(kind).generate(&request(), &[reference()][..], |_| ControlFlow::Continue(()));
        let error = relative_error(&generated.unwrap().latents, &expected(kind)["latents"]);
        assert!(error <= LATENTS_TOLERANCE, "{kind}: {error:.2e}");
    }
}

#[test]
fn at_scale_0_they_are_not_there() {
    for kind in KINDS {
        let generate = |pipeline: &Pipeline, scale, references: &[RgbImage]| {
            let request = GenerateRequest { scale, ..request() };
            pipeline.generate(&request, references, |_| ControlFlow::Continue(())).unwrap().latents
        };
        let adapted = generate(&pipeline(kind), 0.0, &[reference()]);
        let plain = generate(&Pipeline::load(&tiny_sd(""), F32).unwrap(), 1.0, &[]);
        assert!(adapted.equal(&plain), "{kind}");
    }
}

#[test]
fn several_pictures_become_the_tokens_of_each_in_order() {
    for kind in KINDS {
        let pipeline = pipeline(kind);
        let (adapter, encoder) = pipeline.adapter().unwrap();
        let features = encoder.features(&[reference(), RgbImage::new(40, 30)], adapter.features());
        let each = adapter.ip_tokens(&features).unwrap();
        let together = adapter.ip_tokens(&features.unsqueeze(0)).unwrap();
        assert_eq!(together.size()[..2], [1, 2 * each.size()[1]], "{kind}");
        assert_close(&together, &each.reshape(together.size().as_slice()), TOLERANCE);
    }
}

#[test]
fn a_saved_adapter_is_the_one_that_was_loaded() {
    for kind in KINDS {
        let unet = pipeline(kind).unet().config().clone();
        let adapter = IpAdapter::load(&file(kind), &unet, F32).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let saved = folder.path().join("saved.safetensors");
        adapter.save(&saved, Kind::Float, None).unwrap();
        let (before, after) = (Fixture::read(&file(kind)), Fixture::read(&saved));
        assert!(before.names().eq(after.names()), "{kind}");
        assert!(before.names().all(|name| before[name].equal(&after[name])), "{kind}");
    }
}

#[test]
fn a_missing_tensor_is_named() {
    let unet = pipeline("plus").unet().config().clone();
    for missing in ["image_proj.latents", "image_proj.layers.2.1.3.weight", "image_proj.norm_out.bias"] {
        let tensors = Fixture::read(&file("plus")).into_iter().filter(|(name, _)| name != missing);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broken.safetensors");
        save_tensors(&path, tensors, None).unwrap();
        let error = anyhow::Error::from(IpAdapter::load(&path, &unet, F32).unwrap_err());
        let told = error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ");
        assert!(told.contains(missing), "{told}");
    }
}

#[test]
fn an_encoder_of_another_width_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.safetensors");
    let widened = |(name, tensor): (String, Tensor)| match name.as_str() {
        "image_proj.proj_in.weight" => (name, Tensor::cat(&[&tensor, &tensor], 1)),
        _ => (name, tensor),
    };
    save_tensors(&path, Fixture::read(&file("plus")).into_iter().map(widened), None).unwrap();
    let refused = Pipeline::load(&tiny_sd(""), F32).unwrap().with_adapter(&path, None).unwrap_err();
    let PipelineError::Adapter(AdapterError::FeatureWidth { found, expected }) = refused else {
        panic!("{refused}");
    };
    assert_eq!((found, expected), (32, 64));
}
