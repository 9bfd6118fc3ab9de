//! Whether an adapter, its encoder and its references belong together, from headers alone.

use std::path::Path;

use ipa_adapter::{AdapterCoupling, AdapterError, AdapterFile, ImageFeatures, Lora, check_base};
use ipa_clip::VisionConfig;
use ipa_core::read_config;
use ipa_core::tch::{Device, nn::VarStore};
use ipa_formats::{AdapterInfo, AdapterKind, Component, METADATA_KEY, ModelFiles, Weights};
use ipa_unet::{Unet, UnetConfig};
use serde_json::Value;

use crate::image_prompt::embeds_problem;
use crate::{AdapterSource, ImagePromptSpec, PipelineError, RequestError, read_faces};

/// Checks an adapter for a model and what a request wants of it, before anything heavy is loaded.
///
/// # Errors
/// [`PipelineError`] if the adapter is for another base model or encoder, lacks its LoRA or brings it twice, or reads
/// something else than the request gives it.
pub fn check_adapter(
    model: &ModelFiles,
    source: &AdapterSource,
    spec: &ImagePromptSpec,
) -> Result<AdapterInfo, PipelineError> {
    let file = AdapterFile::open(&source.file, &source.options())?;
    let info = file.info().clone();
    let unet: UnetConfig = read_config(&model.component(Component::Unet)?)?;
    check_base(&source.file, &info, &unet)?;
    if let Some(layers) = &spec.layers {
        layers.scales(&unet)?;
    }
    check_lora(source, &info, spec)?;
    if let Some(lora) = &source.lora {
        let vs = VarStore::new(Device::Cpu); // declared variables have shapes and no values
        Unet::new(&vs.root(), &unet);
        Lora::load(lora, &vs.variables())?;
    }
    check_references(&info, spec)?;
    if info.image_embed_dim.is_some() && (!spec.images.is_empty() || spec.negative.is_some()) {
        check_encoder(model, source, &info)?;
    }
    if let Some(embeds) = &spec.embeds {
        check_embeds(embeds, source, &info)?;
    }
    Ok(info)
}

fn check_lora(source: &AdapterSource, info: &AdapterInfo, spec: &ImagePromptSpec) -> Result<(), PipelineError> {
    let path = || source.file.clone();
    match &source.lora {
        Some(lora) if info.has_lora => Err(PipelineError::DoubleLora { path: path(), lora: lora.clone() }),
        None if info.variant().has_lora() && !info.has_lora && spec.lora_scale > 0.0 => {
            Err(PipelineError::MissingLora { path: path() })
        }
        _ => Ok(()),
    }
}

fn check_references(info: &AdapterInfo, spec: &ImagePromptSpec) -> Result<(), PipelineError> {
    let refuse =
        |field, value: &str, allowed| Err(RequestError::Field { field, value: value.to_owned(), allowed }.into());
    if info.coupling == AdapterCoupling::Concatenated {
        check_concatenated(spec)?;
    }
    if spec.negative.is_some() && info.image_embed_dim.is_none() {
        return refuse("negative", "given", "the adapter reads faces alone, which have none: leave it out");
    }
    if spec.embeds.is_some() {
        return Ok(());
    }
    match (info.image_embed_dim, info.face_embed_dim) {
        (_, None) if !spec.faces.is_empty() => {
            refuse("faces", "given", "the adapter reads pictures, not faces: name pictures as images (`--image`)")
        }
        (_, Some(width)) if spec.faces.is_empty() => Err(AdapterError::NeedsFace { width: width as i64 }.into()),
        (None, _) if !spec.images.is_empty() => {
            refuse("images", "given", "the adapter reads faces alone: leave out the pictures")
        }
        (Some(_), _) if spec.images.is_empty() => Err(AdapterError::NeedsPicture.into()),
        (_, Some(expected)) => check_faces(spec, info, expected as i64),
        _ => Ok(()),
    }
}

fn check_faces(spec: &ImagePromptSpec, info: &AdapterInfo, expected: i64) -> Result<(), PipelineError> {
    let faces = read_faces(&spec.faces)?.size();
    if faces[1] != expected {
        return Err(AdapterError::FaceWidth { found: faces[1], expected }.into());
    }
    match info.image_embed_dim.is_some() && faces[0] != spec.images.len() as i64 {
        true => Err(unpaired_faces(faces[0], spec.images.len() as i64).into()),
        false => Ok(()),
    }
}

/// The UNet's own attention reads the tokens of such an adapter.
pub(crate) fn check_concatenated(spec: &ImagePromptSpec) -> Result<(), RequestError> {
    match spec.layers.is_some() || spec.is_masked() {
        true => Err(RequestError::Field {
            field: "image_prompts",
            value: "given layers or masks".to_owned(),
            allowed: "an adapter of the variant simple acts everywhere alike: leave them out",
        }),
        false => Ok(()),
    }
}

/// Each face of FaceID-Plus has a vector and a picture.
pub(crate) fn unpaired_faces(vectors: i64, pictures: i64) -> RequestError {
    RequestError::Field {
        field: "faces",
        value: format!("{vectors} identity vectors for {pictures} pictures"),
        allowed: "give each face one vector and one picture, in the same order",
    }
}

fn check_encoder(model: &ModelFiles, source: &AdapterSource, info: &AdapterInfo) -> Result<(), PipelineError> {
    let own = || model.folder("image_encoder");
    let folder = source.image_encoder.clone().or_else(own);
    let folder = folder.ok_or_else(|| PipelineError::NoImageEncoder { model: model.path().to_owned() })?;
    let config: VisionConfig = read_config(&folder)?;
    let expected = info.image_embed_dim.unwrap_or_default() as i64;
    let is_embedding = info.kind == AdapterKind::Classic;
    let found = if is_embedding { config.projection_dim } else { config.hidden_size };
    match (found == expected, is_embedding) {
        (true, _) => Ok(()),
        (false, true) => Err(AdapterError::EmbedDim { found, expected }.into()),
        (false, false) => Err(AdapterError::FeatureWidth { found, expected }.into()),
    }
}

/// Stored embeddings have the adapter's widths and, where it is noted, were made by one of its variant; where tokens are
/// stored beside them, there are as many as it makes.
fn check_embeds(path: &Path, source: &AdapterSource, info: &AdapterInfo) -> Result<(), PipelineError> {
    let weights = Weights::open(path)?;
    let shape = |name: &str| Some(weights.info(name)?.shape.iter().map(|&size| size as i64).collect::<Vec<i64>>());
    let is_embedding = info.kind == AdapterKind::Classic;
    let kind = if is_embedding { ImageFeatures::Embedding } else { ImageFeatures::Penultimate };
    let image = info.image_embed_dim.map(|width| (width as i64, kind));
    let face = info.face_embed_dim.map(|width| width as i64);
    let metadata: Value =
        serde_json::from_str(weights.metadata().get(METADATA_KEY).map_or("", String::as_str)).unwrap_or_default();
    let other_variant = || {
        let (found, expected) = (metadata["variant"].as_str()?, info.variant().name());
        (found != expected).then(|| format!("it was made by an adapter of the variant {found}, this is {expected}"))
    };
    let other_tokens = || {
        let (found, expected) = (*shape("ip_tokens")?.get(1)?, info.num_tokens as i64);
        let differs = info.kind != AdapterKind::FullFace && found != expected;
        differs.then(|| format!("`ip_tokens` has {found} tokens, {} makes {expected}", source.file.display()))
    };
    match embeds_problem(image, face, shape).or_else(other_variant).or_else(other_tokens) {
        Some(problem) => Err(PipelineError::Embeds { path: path.to_owned(), problem }),
        None => Ok(()),
    }
}

/// The published file with the changes to the model that belong to an adapter.
pub(crate) fn lora_of(adapter: &Path) -> String {
    let stem = adapter.file_stem().unwrap_or_default().to_string_lossy();
    match stem.contains("faceid") {
        true => format!("{stem}_lora.safetensors"),
        false => "ip-adapter-faceid_sd15_lora.safetensors and its like".to_owned(),
    }
}
