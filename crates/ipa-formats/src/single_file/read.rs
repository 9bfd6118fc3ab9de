//! From a single file's names and sizes to the tensors of a folder.

use super::configs::{self, ComponentConfigs};
use super::info::{ModelTask, ModelVersion, SingleFileInfo};
use super::others::{is_leftover, refuse_others};
use super::parts::{Parts, Prefix, Tensors, Tower, UNET_ANCHOR};
use super::plan::{Plans, shaped};
use super::{Component, Operation, SingleFileError, SingleFileOptions, TensorPlan, text, unet, vae};
use crate::TensorInfo;

/// Width of the text features of every published Stable Diffusion 2.x.
pub(super) const V2_CONTEXT: usize = 1024;
/// How the names of averages begin; the dots of the rest are left out.
const EMA: &str = "model_ema.";
const MIDDLE_PROJECTION: &str = "middle_block.1.proj_in.weight";

/// A single-file checkpoint, recognised, and how it becomes a diffusers folder.
#[derive(Clone, Debug)]
pub struct SingleFile {
    /// What it is.
    pub info: SingleFileInfo,
    /// The folder's tensors, sorted by component and name; text towers have `text_model.` before their names.
    pub plans: Vec<TensorPlan>,
    /// The folder's configurations.
    pub configs: ComponentConfigs,
}

/// Whether tensors are named as in a single-file checkpoint that [`read_single_file`] may take.
pub fn is_single_file(tensors: &Tensors) -> bool {
    match Parts::find(tensors) {
        Ok(parts) => !parts.is_empty(),
        Err(_) => true, // several of them: reading says which
    }
}

/// Recognises a single file by its tensors' names and sizes and plans its folder.
///
/// UNet, autoencoder and text tower may be there in any combination, the first two also alone without
/// prefixes. The UNet's own weights are taken unless `options` ask for their averages.
///
/// # Errors
/// [`SingleFileError::Other`] names files of other families; the other variants name the tensor that is
/// missing, contradictory or there twice.
pub fn read_single_file(tensors: &Tensors, options: &SingleFileOptions) -> Result<SingleFile, SingleFileError> {
    let reader = Reader::new(tensors, options)?;
    let mut plans = Plans::default();
    let (mut num_unread, mut unknown) = (0, Vec::new());
    for (name, info) in tensors {
        match reader.destination(name) {
            Destination::Tensors(component, targets) => {
                for (target, operation) in targets {
                    plans.add(reader.plan(component, target, operation, name, info)?)?;
                }
            }
            Destination::Unread => num_unread += 1,
            Destination::Unknown => unknown.push(name.clone()),
        }
    }
    let (plans, version, task) = (plans.into_vec(), reader.version(), reader.task());
    let (prediction_type, assumed) = options.prediction(version, task);
    let has_unet = reader.parts.unet.is_some();
    let info = SingleFileInfo {
        version,
        task,
        components: reader.components(),
        prediction_type: has_unet.then_some(prediction_type),
        prediction_assumed: has_unet && assumed,
        has_ema: reader.has_ema(),
        uses_ema: has_unet && options.ema,
        num_unread,
        unknown,
    };
    let configs = configs::infer(&plans, &info)?;
    Ok(SingleFile { info, plans, configs })
}

/// What becomes of a tensor.
enum Destination {
    Tensors(Component, Vec<(String, Operation)>),
    Unread,
    Unknown,
}

/// A file's layout, found before its tensors are gone through.
struct Reader<'a> {
    tensors: &'a Tensors,
    options: &'a SingleFileOptions,
    parts: Parts,
    /// Residual blocks in a level of the UNet.
    layers: usize,
    /// Whether the UNet's attention layers project by matrices.
    linear: bool,
    /// Levels of the autoencoder.
    levels: usize,
}

impl<'a> Reader<'a> {
    fn new(tensors: &'a Tensors, options: &'a SingleFileOptions) -> Result<Self, SingleFileError> {
        let parts = Parts::find(tensors)?;
        refuse_others(tensors, &parts)?;
        let has = |prefix: &Prefix, name: &str| tensors.contains_key(&format!("{}{name}", prefix.full));
        let (mut layers, mut linear, mut levels) = (0, false, 0);
        if let Some(prefix) = &parts.unet {
            let missing = |name| SingleFileError::Missing { name: format!("{}{name}", prefix.full) };
            layers = unet::ldm_layers(tensors.len(), |name| has(prefix, name))
                .ok_or_else(|| missing("input_blocks.1.0.in_layers.2.weight"))?;
            let projection = tensors.get(&format!("{}{MIDDLE_PROJECTION}", prefix.full));
            linear = projection.ok_or_else(|| missing(MIDDLE_PROJECTION))?.shape.len() == 2;
        }
        if let Some(prefix) = &parts.vae {
            levels = vae::ldm_levels(tensors.len(), |name| has(prefix, name));
        }
        if parts.unet.is_none() && tensors.keys().any(|name| name.contains("model_ema.diffusion_model")) {
            return Err(SingleFileError::EmaOnly);
        }
        if parts.is_empty() {
            return Err(SingleFileError::Unknown);
        }
        let reader = Self { tensors, options, parts, layers, linear, levels };
        match options.ema && reader.parts.unet.is_some() && !reader.has_ema() {
            true => Err(SingleFileError::NoEma),
            false => Ok(reader),
        }
    }

    fn destination(&self, name: &str) -> Destination {
        if let Some(local) = local(name, self.parts.unet.as_ref())
            && let Some(target) = unet::diffusers_name(local, self.layers)
        {
            return Destination::Tensors(Component::Unet, vec![(target, Operation::AsIs)]);
        }
        if let Some(local) = local(name, self.parts.vae.as_ref())
            && let Some(target) = vae::diffusers_name(local, self.levels)
        {
            return Destination::Tensors(Component::Vae, vec![(target, Operation::AsIs)]);
        }
        if is_leftover(name, &self.parts) {
            return Destination::Unread;
        }
        match self.text(name) {
            text::Found::Makes(targets) => Destination::Tensors(Component::TextEncoder, targets),
            text::Found::Unread => Destination::Unread,
            text::Found::Unknown => Destination::Unknown,
        }
    }

    fn text(&self, name: &str) -> text::Found {
        let Some((prefix, tower)) = &self.parts.text else { return text::Found::Unknown };
        let whole = self.options.whole_text_tower;
        // A projection stands beside the tower, not within `text_model.`.
        let (outside, nested) = match prefix.full.strip_suffix("text_model.") {
            Some(outside) => (outside, true),
            None => (prefix.full.as_str(), false),
        };
        match (name.strip_prefix(outside), tower) {
            (Some(local), Tower::OpenClip) => text::from_open_clip(local, whole),
            (Some(local), Tower::Clip) => text::from_clip(local, nested, whole),
            (None, _) => text::Found::Unknown,
        }
    }

    fn plan(
        &self,
        component: Component,
        target: String,
        operation: Operation,
        name: &str,
        info: &TensorInfo,
    ) -> Result<TensorPlan, SingleFileError> {
        let (source, info) = match component {
            Component::Unet if self.options.ema => self.average_of(name, info)?,
            _ => (name.to_owned(), info),
        };
        let matrix = match component {
            Component::Unet if unet::is_projection(&target) => Some(self.linear),
            Component::Vae if vae::is_attention_weight(name) => Some(true),
            _ => None,
        };
        let (shape, operation) = shaped(&source, &info.shape, operation, matrix)?;
        let info = TensorInfo { dtype: info.dtype, shape };
        Ok(TensorPlan { component, name: target, info, sources: vec![source], operation })
    }

    /// The average of one of the UNet's weights.
    fn average_of(&self, name: &str, own: &TensorInfo) -> Result<(String, &'a TensorInfo), SingleFileError> {
        let prefix = self.parts.unet.as_ref();
        let (outer, inner) = (prefix.map_or("", |prefix| &prefix.outer), local(name, prefix).unwrap_or(name));
        let average = format!("{outer}{EMA}diffusion_model{}", inner.replace('.', ""));
        match self.tensors.get(&average) {
            Some(info) if info.shape == own.shape => Ok((average, info)),
            Some(info) => {
                let expected = format!("{:?} like `{name}`", own.shape);
                Err(SingleFileError::Shape { name: average, shape: info.shape.clone(), expected })
            }
            None => Err(SingleFileError::Missing { name: average }),
        }
    }

    fn has_ema(&self) -> bool {
        let start = format!("{}{EMA}diffusion_model", self.parts.unet.as_ref().map_or("", |prefix| &prefix.outer));
        self.tensors.range(start.clone()..).next().is_some_and(|(name, _)| name.starts_with(&start))
    }

    fn unet_shape(&self, name: &str) -> Option<&[usize]> {
        let name = format!("{}{name}", self.parts.unet.as_ref()?.full);
        self.tensors.get(&name).map(|info| info.shape.as_slice())
    }

    /// 2.x by its text tower, its linear projections or, as diffusers has it, the width of its text features.
    fn version(&self) -> Option<ModelVersion> {
        let context = self.unet_shape("middle_block.1.transformer_blocks.0.attn2.to_k.weight");
        match &self.parts {
            Parts { unet: None, text: None, .. } => None,
            Parts { text: Some((_, Tower::OpenClip)), .. } => Some(ModelVersion::V2),
            _ if self.linear || context.and_then(<[usize]>::last) == Some(&V2_CONTEXT) => Some(ModelVersion::V2),
            _ => Some(ModelVersion::V1),
        }
    }

    fn task(&self) -> Option<ModelTask> {
        match self.unet_shape(UNET_ANCHOR)?.get(1)? {
            9 => Some(ModelTask::Inpainting),
            8 => Some(ModelTask::InstructPix2Pix),
            _ => Some(ModelTask::TextToImage),
        }
    }

    fn components(&self) -> Vec<Component> {
        let there = [
            (Component::Unet, self.parts.unet.is_some()),
            (Component::Vae, self.parts.vae.is_some()),
            (Component::TextEncoder, self.parts.text.is_some()),
        ];
        there.into_iter().filter_map(|(component, there)| there.then_some(component)).collect()
    }
}

fn local<'n>(name: &'n str, prefix: Option<&Prefix>) -> Option<&'n str> {
    name.strip_prefix(&prefix?.full)
}
