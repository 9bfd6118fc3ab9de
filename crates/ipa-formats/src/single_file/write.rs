//! From the tensors of a diffusers folder to those of a single file.

use super::info::ModelVersion;
use super::parts::Tensors;
use super::plan::{Plans, shaped};
use super::read::V2_CONTEXT;
use super::{Component, Operation, SingleFileError, TensorPlan, text, unet, vae};
use crate::TensorInfo;

const UNET: &str = "model.diffusion_model.";
const VAE: &str = "first_stage_model.";
const CLIP: &str = "cond_stage_model.transformer.";
const OPEN_CLIP: &str = "cond_stage_model.model.";

/// Tensors of a folder's components, by diffusers' names; absent ones are left out of the file.
#[derive(Clone, Copy, Debug, Default)]
pub struct FolderTensors<'a> {
    /// Of `unet/`.
    pub unet: Option<&'a Tensors>,
    /// Of `vae/`.
    pub vae: Option<&'a Tensors>,
    /// Of `text_encoder/`, with or without `text_model.` before their names.
    pub text_encoder: Option<&'a Tensors>,
    /// The generation, which decides the text tower's layout; `None` to tell it by the sizes.
    pub version: Option<ModelVersion>,
}

impl FolderTensors<'_> {
    /// By the UNet as [`super::read_single_file`] has it, without one by the text tower's width.
    fn version(&self) -> ModelVersion {
        let shape = |tensors: Option<&Tensors>, name: &str| Some(tensors?.get(name)?.shape.clone());
        let linear = shape(self.unet, "mid_block.attentions.0.proj_in.weight").is_some_and(|shape| shape.len() == 2);
        let tokens = "embeddings.token_embedding.weight";
        let width = match self.unet {
            Some(_) => shape(self.unet, "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"),
            None => {
                shape(self.text_encoder, &format!("text_model.{tokens}")).or_else(|| shape(self.text_encoder, tokens))
            }
        };
        let is_v2 = linear || width.and_then(|shape| shape.last().copied()) == Some(V2_CONTEXT);
        self.version.unwrap_or(if is_v2 { ModelVersion::V2 } else { ModelVersion::V1 })
    }
}

/// Plans the single file of a folder, sorted by component and name.
///
/// Reading the file again gives the folder's tensors, byte for byte. What is written in the usual way
/// whatever the folder has: `text_model.` before a text tower's names, the autoencoder's attention under its
/// newer names, and the UNet's projections as 1×1 convolutions in 1.x, as matrices in 2.x.
///
/// # Errors
/// [`SingleFileError::NoPlace`] for a tensor that single files cannot hold; `Missing`, `Shape` and
/// `Collision` as for reading.
pub fn plan_single_file(folder: &FolderTensors<'_>) -> Result<Vec<TensorPlan>, SingleFileError> {
    let mut plans = Plans::default();
    let version = folder.version();
    if let Some(tensors) = folder.unet {
        write_unet(tensors, version, &mut plans)?;
    }
    if let Some(tensors) = folder.vae {
        write_vae(tensors, &mut plans)?;
    }
    if let Some(tensors) = folder.text_encoder {
        write_text(tensors, version, &mut plans)?;
    }
    Ok(plans.into_vec())
}

fn write_unet(tensors: &Tensors, version: ModelVersion, plans: &mut Plans) -> Result<(), SingleFileError> {
    let has = |name: &str| tensors.contains_key(name);
    let layers = unet::diffusers_layers(tensors.len(), has)
        .ok_or_else(|| SingleFileError::Missing { name: "down_blocks.0.resnets.0.conv1.weight".to_owned() })?;
    let attends = |level| has(&format!("up_blocks.{level}.attentions.0.proj_in.weight"));
    for (name, info) in tensors {
        let target = unet::ldm_name(name, layers, attends).ok_or_else(|| no_place(Component::Unet, name))?;
        let matrix = unet::is_projection(name).then_some(version == ModelVersion::V2);
        plans.add(moved(Component::Unet, format!("{UNET}{target}"), name, info, matrix)?)?;
    }
    Ok(())
}

fn write_vae(tensors: &Tensors, plans: &mut Plans) -> Result<(), SingleFileError> {
    let levels = vae::diffusers_levels(tensors.len(), |name| tensors.contains_key(name));
    for (name, info) in tensors {
        let target = vae::ldm_name(name, levels).ok_or_else(|| no_place(Component::Vae, name))?;
        let matrix = vae::is_attention_weight(&target).then_some(false);
        plans.add(moved(Component::Vae, format!("{VAE}{target}"), name, info, matrix)?)?;
    }
    Ok(())
}

fn write_text(tensors: &Tensors, version: ModelVersion, plans: &mut Plans) -> Result<(), SingleFileError> {
    for name in tensors.keys() {
        let (prefix, written) = match version {
            ModelVersion::V1 => (CLIP, text::to_clip(name)),
            ModelVersion::V2 => (OPEN_CLIP, text::to_open_clip(name)),
        };
        match written {
            text::Written::As(target, sources, operation) => {
                let info = joined(tensors, &sources, operation)?;
                let name = format!("{prefix}{target}");
                plans.add(TensorPlan { component: Component::TextEncoder, name, info, sources, operation })?;
            }
            text::Written::Elsewhere => {
                let query = text::query_of(name);
                if !tensors.contains_key(&query) {
                    return Err(SingleFileError::Missing { name: query });
                }
            }
            text::Written::NoPlace => return Err(no_place(Component::TextEncoder, name)),
        }
    }
    Ok(())
}

/// A tensor under another name, as a matrix or a 1×1 convolution where `matrix` tells which.
fn moved(
    component: Component,
    target: String,
    name: &str,
    info: &TensorInfo,
    matrix: Option<bool>,
) -> Result<TensorPlan, SingleFileError> {
    let (shape, operation) = shaped(name, &info.shape, Operation::AsIs, matrix)?;
    let info = TensorInfo { dtype: info.dtype, shape };
    Ok(TensorPlan { component, name: target, info, sources: vec![name.to_owned()], operation })
}

/// Element type and sizes of what an operation makes of a text tower's tensors.
fn joined(tensors: &Tensors, sources: &[String], operation: Operation) -> Result<TensorInfo, SingleFileError> {
    let missing = |name: &String| SingleFileError::Missing { name: name.clone() };
    let infos: Vec<(&String, &TensorInfo)> = sources
        .iter()
        .map(|name| Ok((name, tensors.get(name).ok_or_else(|| missing(name))?)))
        .collect::<Result<_, _>>()?;
    let Some(((first, info), others)) = infos.split_first() else { return Err(SingleFileError::Unknown) };
    if let Some((name, other)) = others.iter().find(|(_, other)| other != info) {
        let expected = format!("{} {:?} like `{first}`", info.dtype, info.shape);
        return Err(SingleFileError::Shape { name: name.to_string(), shape: other.shape.clone(), expected });
    }
    let (shape, _) = shaped(first, &info.shape, operation, None)?;
    Ok(TensorInfo { dtype: info.dtype, shape })
}

fn no_place(component: Component, name: &str) -> SingleFileError {
    SingleFileError::NoPlace { component: component.folder(), name: name.to_owned() }
}
