//! Whether an adapter, its encoder and its references belong together, from headers alone.

use std::path::Path;

use ipa_adapter::{AdapterCoupling, AdapterError, AdapterFile, Lora, check_base};
use ipa_clip::VisionConfig;
use ipa_core::read_config;
use ipa_core::tch::{Device, nn::VarStore};
use ipa_formats::{AdapterInfo, AdapterKind, Component, ModelFiles, Weights};
use ipa_unet::{Unet, UnetConfig};

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
    let has_one = matches!(info.kind, AdapterKind::FaceId | AdapterKind::FaceIdPlus | AdapterKind::FaceIdPlusV2);
    let path = || source.file.clone();
    match &source.lora {
        Some(lora) if info.has_lora => Err(PipelineError::DoubleLora { path: path(), lora: lora.clone() }),
        None if has_one && !info.has_lora && spec.lora_scale > 0.0 => Err(PipelineError::MissingLora { path: path() }),
        _ => Ok(()),
    }
}

fn check_references(info: &AdapterInfo, spec: &ImagePromptSpec) -> Result<(), PipelineError> {
    let refuse =
        |field, value: &str, allowed| Err(RequestError::Field { field, value: value.to_owned(), allowed }.into());
    if info.coupling == AdapterCoupling::Concatenated {
        check_concatenated(spec)?;
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

/// Stored embeddings have the adapter's widths and, where tokens are stored beside them, its number of tokens.
fn check_embeds(path: &Path, source: &AdapterSource, info: &AdapterInfo) -> Result<(), PipelineError> {
    let weights = Weights::open(path)?;
    let refuse = |tensor, found: String, expected: String| {
        let (path, adapter) = (path.to_owned(), source.file.clone());
        Err(PipelineError::Embeds { path, tensor, found, adapter, expected })
    };
    let widths = [("image_embeds", info.image_embed_dim), ("face_embeds", info.face_embed_dim)];
    for (tensor, width) in widths.into_iter().filter_map(|(tensor, width)| Some((tensor, width?))) {
        let rank = if tensor == "image_embeds" && info.kind != AdapterKind::Classic { 3 } else { 2 };
        match weights.info(tensor).map(|info| &info.shape[..]) {
            Some(shape) if shape.len() == rank && shape.last() == Some(&width) => {}
            Some(shape) => {
                return refuse(tensor, format!("shape {shape:?}"), format!("{rank} sizes, the last {width}"));
            }
            None => return refuse(tensor, "no such tensor".to_owned(), format!("{rank} sizes, the last {width}")),
        }
    }
    let tokens = weights.info("ip_tokens").and_then(|info| info.shape.get(1).copied());
    match tokens.filter(|&tokens| info.kind != AdapterKind::FullFace && tokens != info.num_tokens) {
        Some(tokens) => refuse("ip_tokens", format!("{tokens} tokens"), format!("{} tokens", info.num_tokens)),
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
