//! Every published kind of adapter against the reference: tokens, a layer, whole pictures, recognition, saving.
//! Reference values: tests/fixtures/variants.py and tests/fixtures/faces.py, from diffusers and the reference
//! repository's own modules
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use image::RgbImage;
use ipa_adapter::{AdapterError, AdapterFile, AdapterOptions, Features, ImageFeatures, IpAdapter};
use ipa_clip::load_image;
use ipa_core::save_tensors;
use ipa_core::tch::{Kind, Tensor};
use ipa_formats::{AdapterInfo, AdapterVariant};
use ipa_sample::{AdapterSource, GenerateRequest, Generated, ImagePromptSpec, Pictures, Pipeline, PipelineError};
use ipa_unet::{CrossAttentionHook, SiteId};
use support::{F32, Fixture, TOLERANCE, assert_close, fixture_path, levels, relative_error, tiny_sd};
use tempfile::TempDir;

/// Rounding differs by 1e-6 in one call of the UNet and is guided, hence amplified, at every step.
const LATENTS_TOLERANCE: f64 = 1e-3;
/// Levels of 255.
const PICTURE_TOLERANCE: u8 = 2;

/// One kind: its file, and the name of what the reference makes of it.
struct Case {
    file: PathBuf,
    expected: &'static str,
    variant: AdapterVariant,
}

impl Case {
    fn new(file: &str, expected: &'static str, variant: AdapterVariant) -> Self {
        Self { file: fixture_path(file), expected, variant }
    }

    fn all() -> Vec<Self> {
        vec![
            Self::new("tiny_sd/ip_adapter.safetensors", "variants/classic", AdapterVariant::Base),
            Self::new("variants/plus.safetensors", "variants/plus", AdapterVariant::Plus),
            Self::new("variants/full_face.safetensors", "variants/full_face", AdapterVariant::FullFace),
            Self::new("faces/face_id.safetensors", "faces/face_id", AdapterVariant::FaceId),
            Self::new("faces/face_id_plus.safetensors", "faces/face_id_plus", AdapterVariant::FaceIdPlus),
            Self::new("faces/face_id_plus.safetensors", "faces/face_id_plus_v2", AdapterVariant::FaceIdPlusV2),
            Self::new("faces/portrait.safetensors", "faces/portrait", AdapterVariant::Portrait),
            Self::new("faces/portrait_unnorm.safetensors", "faces/portrait_unnorm", AdapterVariant::PortraitUnnorm),
        ]
    }

    fn looking() -> Vec<Self> {
        Self::all().into_iter().filter(|case| case.expected.starts_with("variants/")).collect()
    }

    fn source(&self) -> AdapterSource {
        let variant = (self.variant == AdapterVariant::FaceIdPlusV2).then_some(self.variant);
        AdapterSource { file: self.file.clone(), variant, ..AdapterSource::default() }
    }

    fn load(&self) -> IpAdapter {
        let file = AdapterFile::open(&self.file, &self.source().options()).unwrap();
        IpAdapter::load_file(file, plain().unet().config(), F32).unwrap()
    }

    fn expected(&self) -> Fixture {
        Fixture::open(&format!("{}.expected", self.expected))
    }

    fn pipeline(&self) -> Pipeline {
        plain().with_source(&self.source()).unwrap()
    }

    /// The references as the adapter reads them, and what stands for none, one a row.
    fn features(&self) -> [Features; 2] {
        let (expected, adapter) = (self.expected(), self.load());
        let tensor = |name: &str| expected.names().any(|found| found == name).then(|| expected[name].shallow_clone());
        let image = |clip: &str, other: &str| tensor(clip).or_else(|| tensor(other));
        let face = adapter.config().projection.face_width().and_then(|_| tensor("faces"));
        let nothing = face.as_ref().map(Tensor::zeros_like);
        let features = |image, face| Features { image, face, structure: 1.0 };
        [
            features(image("clip_features", "features"), face),
            features(image("uncond_clip_features", "uncond_features"), nothing),
        ]
    }

    fn generate(&self, change: impl Fn(GenerateRequest) -> GenerateRequest) -> Generated {
        let adapter = self.load();
        let folder = tempfile::tempdir().unwrap();
        let mut request = request();
        if adapter.config().projection.face_width().is_some() {
            let faces = folder.path().join("faces.safetensors");
            save_tensors(&faces, [("face_embeds".to_owned(), self.expected()["faces"].shallow_clone())], None).unwrap();
            request.faces = vec![faces];
        }
        let references = if adapter.image_features().is_some() { vec![reference()] } else { Vec::new() };
        self.pipeline().generate(&change(request), &references, |_| ControlFlow::Continue(())).unwrap()
    }
}

fn plain() -> Pipeline {
    Pipeline::load(&tiny_sd(""), F32).unwrap()
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
fn tokens_match_with_and_without_a_reference() {
    for case in Case::all() {
        let (adapter, expected, [features, nothing]) = (case.load(), case.expected(), case.features());
        // Several faces are one prompt.
        let row = |features: Features| adapter.ip_tokens(features.map(|rows| rows.unsqueeze(0))).unwrap();
        let (tokens, none) = (row(features), row(nothing));
        for (found, name) in [(tokens, "ip_tokens"), (none, "uncond_ip_tokens")] {
            let error = relative_error(&found, &expected[name]);
            assert!(error <= TOLERANCE, "{}: {name} {error:.2e}", case.expected);
        }
    }
}

#[test]
fn features_match_with_and_without_a_picture() {
    for case in Case::looking() {
        let (pipeline, expected) = (case.pipeline(), case.expected());
        let (adapter, encoder) = pipeline.adapter().unwrap();
        let kind = adapter.image_features().unwrap();
        assert_eq!(kind == ImageFeatures::Embedding, case.variant == AdapterVariant::Base);
        assert_close(&encoder.features(&[reference()], kind), &expected["features"], TOLERANCE);
        let none = encoder.unconditional(kind);
        match kind {
            ImageFeatures::Embedding => assert!(none.equal(&expected["uncond_features"])),
            ImageFeatures::Penultimate => assert_close(&none, &expected["uncond_features"], TOLERANCE),
        }
    }
}

#[test]
fn half_of_a_faces_structure_is_half_of_what_is_seen() {
    let case = Case::all().into_iter().find(|case| case.variant == AdapterVariant::FaceIdPlusV2).unwrap();
    let [features, nothing] = case.features();
    let half = |features: Features| case.load().ip_tokens(Features { structure: 0.5, ..features }).unwrap();
    assert_close(&half(features), &case.expected()["ip_tokens_half"], TOLERANCE);
    assert_close(&half(nothing), &case.expected()["uncond_ip_tokens_half"], TOLERANCE);
}

#[test]
fn a_layer_adds_what_the_references_layer_adds() {
    for case in Case::all() {
        let (adapter, expected) = (case.load(), case.expected());
        let tokens = Tensor::cat(&[&expected["uncond_ip_tokens"], &expected["ip_tokens"]], 0);
        let added = adapter.prompt_of(&tokens, 0.8).attend(SiteId(0), &expected["layer_query"]).unwrap();
        let error = relative_error(&added, &expected["layer_extra"]);
        assert!(error <= TOLERANCE, "{}: {error:.2e}", case.expected);
    }
}

#[test]
fn whole_pictures_match() {
    for case in Case::all() {
        let generated = case.generate(|request| request);
        let error = relative_error(&generated.latents, &case.expected()["latents"]);
        assert!(error <= LATENTS_TOLERANCE, "{}: {error:.2e}", case.expected);
        let expected = load_image(&fixture_path(&format!("{}.png", case.expected))).unwrap();
        let difference = levels(&generated.pictures[0], &expected);
        assert!(difference <= PICTURE_TOLERANCE, "{}: {difference} levels", case.expected);
    }
}

#[test]
fn a_lora_in_a_file_of_its_own_is_that_inside_the_adapter() {
    let inside = Case::new("faces/face_id.safetensors", "faces/face_id", AdapterVariant::FaceId);
    let lora = Some(fixture_path("faces/face_id_lora.safetensors"));
    let file = fixture_path("faces/face_id_bare.safetensors");
    let source = AdapterSource { file, lora, ..AdapterSource::default() };
    let (_folder, faces) = faces_of(&inside);
    let request = GenerateRequest { faces: vec![faces], ..request() };
    let pipeline = plain().with_source(&source).unwrap();
    let generated = pipeline.generate(&request, Pictures::default(), |_| ControlFlow::Continue(())).unwrap();
    let error = relative_error(&generated.latents, &inside.expected()["latents"]);
    assert!(error <= LATENTS_TOLERANCE, "{error:.2e}");
}

/// The identity vectors of a case, as a file in a folder that is to be kept.
fn faces_of(case: &Case) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("faces.safetensors");
    save_tensors(&path, [("face_embeds".to_owned(), case.expected()["faces"].shallow_clone())], None).unwrap();
    (folder, path)
}

#[test]
fn a_lora_that_is_missing_or_there_twice_is_refused() {
    let inside = Case::new("faces/face_id.safetensors", "faces/face_id", AdapterVariant::FaceId);
    let lora = Some(fixture_path("faces/face_id_lora.safetensors"));
    let twice = plain().with_source(&AdapterSource { lora, ..inside.source() }).unwrap_err();
    assert!(matches!(twice, PipelineError::DoubleLora { .. }), "{twice}");
    let bare = plain().with_adapter(&fixture_path("faces/face_id_bare.safetensors"), None).unwrap();
    let (_folder, faces) = faces_of(&inside);
    let request = GenerateRequest { faces: vec![faces], ..request() };
    let missing = bare.generate(&request, Pictures::default(), |_| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(missing, PipelineError::MissingLora { .. }), "{missing}");
}

#[test]
fn a_lora_leaves_the_model_as_it_is() {
    let case = Case::new("faces/face_id.safetensors", "faces/face_id", AdapterVariant::FaceId);
    let pipeline = case.pipeline();
    let latents = |request: &GenerateRequest| {
        pipeline.generate(request, Pictures::default(), |_| ControlFlow::Continue(())).unwrap().latents
    };
    let before = latents(&request());
    let (_folder, faces) = faces_of(&case);
    let patched = latents(&GenerateRequest { faces: vec![faces], ..request() });
    assert!(latents(&request()).equal(&before) && !patched.equal(&before));
}

/// FaceID: with its changes to the model off too, which have a strength of their own.
#[test]
fn at_scale_0_they_are_not_there() {
    let without = plain().generate(&request(), Pictures::default(), |_| ControlFlow::Continue(())).unwrap().latents;
    for case in Case::all() {
        let off = |request: GenerateRequest| {
            let faces = request.faces.clone();
            let spec = ImagePromptSpec { scale: 0.0, lora_scale: 0.0, ..request.own_prompt().unwrap_or_default() };
            match faces.is_empty() {
                true => GenerateRequest { scale: 0.0, ..request },
                false => GenerateRequest { faces: Vec::new(), image_prompts: vec![spec], ..request },
            }
        };
        let latents = match case.load().config().projection.face_width() {
            Some(_) if case.load().image_features().is_some() => continue, // below, with a picture by name
            _ => case.generate(off).latents,
        };
        assert!(latents.equal(&without), "{}", case.expected);
    }
}

#[test]
fn at_scale_0_with_its_lora_off_a_face_with_its_picture_is_not_there() {
    let case = Case::new("faces/face_id_plus.safetensors", "faces/face_id_plus", AdapterVariant::FaceIdPlus);
    let name = PathBuf::from("face.png");
    let (_folder, faces) = faces_of(&case);
    let spec = |scale, lora_scale| ImagePromptSpec {
        images: vec![name.clone().into()],
        faces: vec![faces.clone()],
        scale,
        lora_scale,
        ..ImagePromptSpec::default()
    };
    let named = BTreeMap::from([(name.clone(), reference())]);
    let pictures = Pictures { named: Some(&named), ..Pictures::default() };
    let pipeline = case.pipeline();
    let latents = |image_prompts| {
        let request = GenerateRequest { image_prompts, ..request() };
        pipeline.generate(&request, pictures, |_| ControlFlow::Continue(())).unwrap().latents
    };
    let without = latents(Vec::new());
    assert!(latents(vec![spec(0.0, 0.0)]).equal(&without));
    // The reference's `scale` has no part in the LoRA.
    assert!(!latents(vec![spec(0.0, 1.0)]).equal(&without));
}

#[test]
fn several_pictures_become_the_tokens_of_each_in_order() {
    for case in Case::looking() {
        let pipeline = case.pipeline();
        let (adapter, encoder) = pipeline.adapter().unwrap();
        let kind = adapter.image_features().unwrap();
        let features = encoder.features(&[reference(), RgbImage::new(40, 30)], kind);
        let each = adapter.ip_tokens(&features).unwrap();
        let together = adapter.ip_tokens(&features.unsqueeze(0)).unwrap();
        assert_eq!(together.size()[..2], [1, 2 * each.size()[1]], "{}", case.expected);
        assert_close(&together, &each.reshape(together.size().as_slice()), TOLERANCE);
    }
}

#[test]
fn a_saved_adapter_is_the_one_that_was_loaded() {
    for case in Case::all() {
        let folder = tempfile::tempdir().unwrap();
        let saved = folder.path().join("saved.safetensors");
        case.load().save(&saved, Kind::Float, None).unwrap();
        let (before, after) = (Fixture::read(&case.file), Fixture::read(&saved));
        assert!(before.names().eq(after.names()), "{}", case.expected);
        assert!(before.names().all(|name| before[name].equal(&after[name])), "{}", case.expected);
        let [features, _] = case.features();
        let reloaded = IpAdapter::load_file(open(&saved, &case), plain().unet().config(), F32).unwrap();
        let tokens = |adapter: &IpAdapter, features: &Features| adapter.ip_tokens(features.map(Tensor::copy)).unwrap();
        assert!(tokens(&reloaded, &features).equal(&tokens(&case.load(), &features)), "{}", case.expected);
    }
}

fn open(path: &Path, case: &Case) -> AdapterFile {
    AdapterFile::open(path, &case.source().options()).unwrap()
}

#[test]
fn every_kind_is_recognised() {
    for case in Case::all() {
        let info: AdapterInfo = open(&case.file, &case).info().clone();
        assert_eq!(info.variant(), case.variant, "{}", case.expected);
    }
}

#[test]
fn a_missing_tensor_is_named() {
    let case = Case::new("variants/plus.safetensors", "variants/plus", AdapterVariant::Plus);
    for missing in ["image_proj.latents", "image_proj.layers.2.1.3.weight", "image_proj.norm_out.bias"] {
        let tensors = Fixture::read(&case.file).into_iter().filter(|(name, _)| name != missing);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broken.safetensors");
        save_tensors(&path, tensors, None).unwrap();
        let error = anyhow::Error::from(AdapterFile::open(&path, &AdapterOptions::default()).unwrap_err());
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
    let plus = Fixture::read(&fixture_path("variants/plus.safetensors"));
    save_tensors(&path, plus.into_iter().map(widened), None).unwrap();
    let refused = plain().with_adapter(&path, None).unwrap_err();
    let PipelineError::Adapter(AdapterError::FeatureWidth { found, expected }) = refused else {
        panic!("{refused}");
    };
    assert_eq!((found, expected), (32, 64));
}
