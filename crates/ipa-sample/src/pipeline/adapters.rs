//! The adapters of a pipeline: added one by one, found for each image prompt of a request.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use ipa_adapter::{AdapterFile, IpAdapter, Lora};
use ipa_unet::Unet;

use super::{Pipeline, PipelineError};
use crate::image_prompt::{Prepared, References, Seeing, Shown};
use crate::pictures::Pictures;
use crate::{AdapterSource, GenerateRequest, ImageEncoder, ImagePromptSpec};

/// An adapter with what it needs.
#[derive(Debug)]
pub(super) struct Added {
    source: AdapterSource,
    adapter: IpAdapter,
    /// Which of the encoders sees for it, if it sees.
    encoder: Option<usize>,
    /// Changes to the UNet from a file of their own.
    lora: Option<Lora>,
}

impl Pipeline {
    /// Adds an adapter file; its encoder lies in `image_encoder` or in the model's folder.
    ///
    /// # Errors
    /// As [`Pipeline::with_source`].
    pub fn with_adapter(self, adapter: &Path, image_encoder: Option<&Path>) -> Result<Self, PipelineError> {
        let image_encoder = image_encoder.map(Path::to_owned);
        self.with_source(&AdapterSource { file: adapter.to_owned(), image_encoder, ..AdapterSource::default() })
    }

    /// Adds an adapter with what belongs to it. The first one added is that of `images`, and of `image_prompts` that
    /// name none; one that is there already is not added again.
    ///
    /// An image encoder that is nowhere is missed only when a picture is to be seen.
    ///
    /// # Errors
    /// [`PipelineError`] if a file cannot be loaded or does not belong to the others.
    pub fn with_source(self, source: &AdapterSource) -> Result<Self, PipelineError> {
        self.add(source, true)
    }

    /// As [`Pipeline::with_source`], where only stored embeddings are read with it: its encoder is not looked for.
    ///
    /// # Errors
    /// As [`Pipeline::with_source`].
    pub fn with_source_for_embeds(self, source: &AdapterSource) -> Result<Self, PipelineError> {
        self.add(source, false)
    }

    fn add(mut self, source: &AdapterSource, sees: bool) -> Result<Self, PipelineError> {
        if self.adapters.iter().any(|added| added.source == *source) {
            return Ok(self);
        }
        let file = AdapterFile::open(&source.file, &source.options())?;
        let adapter = IpAdapter::load_file(file, self.unet.config(), self.options)?;
        if let (Some(_), Some(lora)) = (adapter.lora(), &source.lora) {
            return Err(PipelineError::DoubleLora { path: source.file.clone(), lora: lora.clone() });
        }
        let encoder = match adapter.image_features().filter(|_| sees) {
            Some(kind) => self.encoder_of(source)?.map(|index| (index, self.encoders[index].1.width(kind))),
            None => None,
        };
        if let Some((_, width)) = encoder {
            adapter.check_width(width)?;
        }
        let lora = source.lora.as_deref().map(|file| Lora::load(file, &self.unet_variables)).transpose()?;
        self.adapters.push(Added { source: source.clone(), adapter, encoder: encoder.map(|(index, _)| index), lora });
        Ok(self)
    }

    /// As [`Pipeline::with_adapter`] with parts that are loaded already.
    ///
    /// # Errors
    /// [`PipelineError::Adapter`] if they do not belong together.
    pub fn with_loaded_adapter(mut self, adapter: IpAdapter, encoder: ImageEncoder) -> Result<Self, PipelineError> {
        if let Some(kind) = adapter.image_features() {
            adapter.check_width(encoder.width(kind))?;
        }
        self.encoders.push((None, encoder));
        let encoder = Some(self.encoders.len() - 1);
        self.adapters.push(Added { source: AdapterSource::default(), adapter, encoder, lora: None });
        Ok(self)
    }

    /// The first adapter and its encoder, if one with an encoder was added.
    pub fn adapter(&self) -> Option<(&IpAdapter, &ImageEncoder)> {
        let added = self.adapters.first()?;
        Some((&added.adapter, &self.encoders[added.encoder?].1))
    }

    /// Which of the encoders an adapter's source names, loaded if need be; none if there is none to load.
    fn encoder_of(&mut self, source: &AdapterSource) -> Result<Option<usize>, PipelineError> {
        if let Some(known) = self.encoders.iter().position(|(folder, _)| *folder == source.image_encoder) {
            return Ok(Some(known));
        }
        match ImageEncoder::of_model(&self.files, source.image_encoder.as_deref(), self.options) {
            Ok(encoder) => self.encoders.push((source.image_encoder.clone(), encoder)),
            Err(PipelineError::NoImageEncoder { .. }) => return Ok(None),
            Err(error) => return Err(error),
        }
        Ok(Some(self.encoders.len() - 1))
    }

    /// Every image prompt of a request as tokens.
    pub(super) fn prepared(
        &self,
        request: &GenerateRequest,
        pictures: Pictures,
    ) -> Result<Vec<Prepared<'_>>, PipelineError> {
        let size = self.size(request, pictures)?;
        let own = own_prompt(request, pictures).map(|spec| {
            let shown = pictures.references.iter().map(Shown::unnamed).collect();
            Prepared::new(&spec, self.seeing(&spec)?, References { shown, negative: None }, size)
        });
        let named = request
            .image_prompts
            .iter()
            .map(|spec| Prepared::new(spec, self.seeing(spec)?, References::named(spec, pictures)?, size));
        own.into_iter().chain(named).collect()
    }

    fn added(&self, spec: &ImagePromptSpec) -> Result<&Added, PipelineError> {
        match &spec.adapter {
            None => self.adapters.first().ok_or(PipelineError::NoAdapter),
            Some(source) => self
                .adapters
                .iter()
                .find(|added| added.source == *source)
                .ok_or_else(|| PipelineError::UnknownAdapter { path: source.file.clone() }),
        }
    }

    fn seeing(&self, spec: &ImagePromptSpec) -> Result<Seeing<'_>, PipelineError> {
        let added = self.added(spec)?;
        let encoder = added.encoder.map(|index| &self.encoders[index].1);
        Ok(Seeing { adapter: &added.adapter, encoder, model: self.files.path() })
    }

    /// The UNet with the changes that the request's adapters bring, each file's once and as strongly as any of its
    /// prompts wants it; `None` if they bring none.
    pub(super) fn patched(&self, request: &GenerateRequest, pictures: Pictures) -> Result<Option<Unet>, PipelineError> {
        let mut strongest: BTreeMap<PathBuf, (f64, &Added)> = BTreeMap::new();
        for spec in own_prompt(request, pictures).iter().chain(&request.image_prompts) {
            let added = self.added(spec)?;
            // One file may have been added twice, under two names or with other options.
            let file = added.source.lora.as_ref().unwrap_or(&added.source.file);
            let file = file.canonicalize().unwrap_or_else(|_| file.clone());
            let (strength, _) = strongest.entry(file).or_insert((0.0, added));
            *strength = strength.max(spec.lora_scale);
        }
        let mut patches = HashMap::new();
        for (strength, added) in strongest.into_values() {
            let has_lora = added.adapter.lora().is_some() || added.lora.is_some();
            if strength > 0.0 && !has_lora && added.adapter.config().variant().has_lora() {
                return Err(PipelineError::MissingLora { path: added.source.file.clone() });
            }
            for lora in added.adapter.lora().into_iter().chain(&added.lora) {
                lora.patch(strength, &self.unet_variables, &mut patches);
            }
        }
        Ok((!patches.is_empty()).then(|| self.unet.patched(&self.unet_variables, &patches)))
    }
}

/// The references that have no entry in `image_prompts`: pictures handed over, named or not, and faces.
fn own_prompt(request: &GenerateRequest, pictures: Pictures) -> Option<ImagePromptSpec> {
    let has_any = !pictures.references.is_empty() || !request.faces.is_empty();
    let (faces, scale) = (request.faces.clone(), request.scale);
    has_any.then(|| ImagePromptSpec { faces, scale, ..ImagePromptSpec::default() })
}
