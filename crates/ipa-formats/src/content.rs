//! What the tensors of a file are, by their names.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::adapter::{inspect_adapter, is_adapter};
use crate::lora::is_lora;
use crate::{
    AdapterDialect, AdapterInfo, AdapterOptions, AdapterVariant, FormatError, SingleFileError, SingleFileInfo,
    SingleFileOptions, TensorInfo, Weights, read_single_file,
};

/// What the tensors of a file are, by their names.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Content {
    /// An image-prompt adapter.
    Adapter {
        /// Its name, as on the command line and in metadata.
        variant: AdapterVariant,
        /// Its kind and sizes.
        adapter: AdapterInfo,
        /// The names it uses.
        dialect: AdapterDialect,
    },
    /// A single-file checkpoint, or a model in such a file's names.
    SingleFile {
        /// What it was recognised as.
        #[serde(rename = "checkpoint")]
        info: SingleFileInfo,
    },
    /// A denoising UNet.
    Unet,
    /// An image autoencoder.
    Vae,
    /// A CLIP text tower.
    TextEncoder,
    /// A CLIP vision tower.
    ImageEncoder,
    /// Both CLIP towers.
    Clip,
    /// Low-rank changes of a model's weights.
    Lora,
    /// What an adapter made of references: stored embeddings and tokens.
    Embeddings,
    /// Something that is known and that this project does not read.
    Other {
        /// What it is, with its article.
        what: String,
    },
    /// Something else.
    Unknown,
}

/// Tells what the tensors of a file are.
pub(crate) fn content_of(
    weights: &Weights,
    tensors: &BTreeMap<String, TensorInfo>,
    options: &AdapterOptions,
) -> Result<Content, FormatError> {
    if is_adapter(tensors) {
        let (adapter, dialect) = inspect_adapter(weights, options)?;
        return Ok(Content::Adapter { variant: adapter.variant(), adapter, dialect });
    }
    let has = |start: &str| tensors.keys().any(|name| name.starts_with(start));
    let text = has("text_model.") || has("embeddings.token_embedding.");
    let vision = has("vision_model.") || has("embeddings.patch_embedding.");
    Ok(match () {
        () if has("down_blocks.") && has("time_embedding.") => Content::Unet,
        () if has("decoder.") && has("post_quant_conv.") => Content::Vae,
        () if text && vision => Content::Clip,
        () if text => Content::TextEncoder,
        () if vision => Content::ImageEncoder,
        () if ["ip_tokens", "uncond_ip_tokens"].iter().all(|name| tensors.contains_key(*name)) => Content::Embeddings,
        () if is_lora(tensors) => Content::Lora,
        () => return single_file(weights, tensors),
    })
}

/// A checkpoint in a single file's names, of this family or another.
fn single_file(weights: &Weights, tensors: &BTreeMap<String, TensorInfo>) -> Result<Content, FormatError> {
    let options = SingleFileOptions { global_step: weights.global_step(), ..SingleFileOptions::default() };
    match read_single_file(tensors, &options) {
        Ok(single) => Ok(Content::SingleFile { info: single.info }),
        Err(SingleFileError::Other { what }) => Ok(Content::Other { what }),
        Err(SingleFileError::Unknown) => Ok(Content::Unknown),
        Err(source) => Err(FormatError::SingleFile { path: weights.path().to_owned(), source: Box::new(source) }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{Dtype, TensorBytes, write_safetensors};

    #[test]
    fn models_are_told_apart_by_their_names() {
        let content = |names: &[&'static str]| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("weights.safetensors");
            let tensor = |&name: &&str| TensorBytes {
                name: name.to_owned(),
                dtype: Dtype::U8,
                shape: vec![1],
                data: vec![0].into(),
            };
            write_safetensors(&path, names.iter().map(tensor).collect(), None).unwrap();
            let weights = Weights::open(&path).unwrap();
            content_of(&weights, &weights.tensors(), &AdapterOptions::default()).unwrap()
        };
        let unet = ["time_embedding.linear_1.weight", "down_blocks.0.resnets.0.conv1.weight"];
        assert_eq!(content(&unet), Content::Unet);
        assert_eq!(content(&["decoder.conv_in.weight", "post_quant_conv.weight"]), Content::Vae);
        assert_eq!(content(&["text_model.final_layer_norm.bias"]), Content::TextEncoder);
        assert_eq!(content(&["embeddings.token_embedding.weight"]), Content::TextEncoder);
        assert_eq!(content(&["vision_model.pre_layrnorm.bias"]), Content::ImageEncoder);
        assert_eq!(content(&["vision_model.a", "text_model.b", "logit_scale"]), Content::Clip);
        assert_eq!(content(&["lora_unet_conv_in.alpha", "lora_te_text_projection.lora_up.weight"]), Content::Lora);
        assert_eq!(content(&["latents"]), Content::Unknown);
    }
}
