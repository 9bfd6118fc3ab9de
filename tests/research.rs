//! The research variants against PyTorch's own functions and diffusers.
//! Reference values: tests/fixtures/research.py
#![allow(clippy::unwrap_used)]

mod support;

use std::ops::ControlFlow;
use std::path::PathBuf;

use ipa_adapter::{AdapterError, AdapterFile, AdapterOptions, AdapterVariant, IpAdapter};
use ipa_clip::load_image;
use ipa_core::tch::{Kind, Tensor};
use ipa_sample::{GenerateRequest, ImagePromptSpec, Layers, Pictures, Pipeline, PipelineError, Preset};
use support::{F32, Fixture, TOLERANCE, assert_close, fixture_path, levels, relative_error, tiny_sd};

/// Rounding differs by 1e-6 in one call of the UNet and is guided, hence amplified, at every step.
const LATENTS_TOLERANCE: f64 = 1e-3;
/// Levels of 255.
const PICTURE_TOLERANCE: u8 = 2;

fn file(variant: &str) -> PathBuf {
    fixture_path("research").join(format!("{variant}.safetensors"))
}

fn expected(variant: &str) -> Fixture {
    Fixture::open(&format!("research/{variant}.expected"))
}

fn pipeline(variant: &str) -> Pipeline {
    Pipeline::load(&tiny_sd(""), F32).unwrap().with_adapter(&file(variant), None).unwrap()
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
fn prefused_tokens_are_those_of_the_formula() {
    let (pipeline, expected) = (pipeline("prefusion"), expected("prefusion"));
    let (adapter, encoder) = pipeline.adapter().unwrap();
    let kind = adapter.image_features().unwrap();
    let reference = load_image(&fixture_path("pictures/wide.png")).unwrap();
    let tokens = adapter.ip_tokens(&encoder.features(&[reference], kind)).unwrap();
    let none = adapter.ip_tokens(&encoder.unconditional(kind)).unwrap();
    assert_close(&tokens, &expected["ip_tokens"], TOLERANCE);
    assert_close(&none, &expected["uncond_ip_tokens"], TOLERANCE);
    assert_close(&adapter.fused(&tokens, &expected["text"]), &expected["fused"], TOLERANCE);
    assert_close(&adapter.fused(&none, &expected["uncond_text"]), &expected["uncond_fused"], TOLERANCE);
}

#[test]
fn simple_tokens_stand_after_the_text() {
    let (pipeline, expected) = (pipeline("simple"), expected("simple"));
    let (adapter, encoder) = pipeline.adapter().unwrap();
    let kind = adapter.image_features().unwrap();
    let reference = load_image(&fixture_path("pictures/wide.png")).unwrap();
    let features = encoder.features(&[reference], kind);
    let prompt = adapter.guided_prompt(&features, &encoder.unconditional(kind), 0.8).unwrap();
    let text = expected["context"].narrow(1, 0, 77);
    assert_close(&prompt.context(&text, 1.0), &expected["context"], TOLERANCE);
    assert!(prompt.context(&text, 0.0).equal(&text));
}

#[test]
fn whole_pictures_match() {
    for variant in ["prefusion", "simple"] {
        let reference = load_image(&fixture_path("pictures/wide.png")).unwrap();
        let generated = pipeline(variant).generate(&request(), &[reference], |_| ControlFlow::Continue(())).unwrap();
        let error = relative_error(&generated.latents, &expected(variant)["latents"]);
        assert!(error <= LATENTS_TOLERANCE, "{variant}: {error:.2e}");
        let expected = load_image(&fixture_path(&format!("research/{variant}.png"))).unwrap();
        let difference = levels(&generated.pictures[0], &expected);
        assert!(difference <= PICTURE_TOLERANCE, "{variant}: {difference} levels");
    }
}

#[test]
fn they_are_saved_as_what_they_are() {
    let unet = Pipeline::load(&tiny_sd(""), F32).unwrap().unet().config().clone();
    for (variant, name) in [("prefusion", AdapterVariant::Prefusion), ("simple", AdapterVariant::Simple)] {
        let adapter = IpAdapter::load(&file(variant), &unet, F32).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let saved = folder.path().join("saved.safetensors");
        adapter.save(&saved, Kind::Float, None).unwrap();
        let reopened = AdapterFile::open(&saved, &AdapterOptions::default()).unwrap();
        assert_eq!(reopened.info().variant(), name);
        let reloaded = IpAdapter::load_file(reopened, &unet, F32).unwrap();
        let (before, after) = (adapter.variables(), reloaded.variables());
        assert_eq!(before.len(), after.len());
        assert!(before.iter().all(|(name, tensor)| tensor.equal(&after[name])));
    }
}

/// The UNet's own attention reads the tokens: there is nothing that could act in some layers or places alone.
#[test]
fn simple_adapters_have_no_layers() {
    let spec = ImagePromptSpec {
        images: vec![PathBuf::from("a.png").into()],
        layers: Some(Layers::Preset(Preset::Linear)),
        ..ImagePromptSpec::default()
    };
    let request = GenerateRequest { image_prompts: vec![spec], ..request() };
    let named = [(PathBuf::from("a.png"), image::RgbImage::new(8, 8))].into();
    let pictures = Pictures { named: Some(&named), ..Pictures::default() };
    let error = pipeline("simple").generate(&request, pictures, |_| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(error, PipelineError::Request(_)) && error.to_string().contains("layers or masks"), "{error}");
}

#[test]
fn other_widths_are_refused() {
    let pipeline = pipeline("prefusion");
    let (adapter, _) = pipeline.adapter().unwrap();
    let error = adapter.ip_tokens(&Tensor::zeros([1, 17, 33], (F32.1, F32.0))).unwrap_err();
    assert!(matches!(error, AdapterError::FeatureWidth { found: 33, expected: 32 }), "{error}");
}
