//! What a finished adapter says of itself.

use ipa_adapter::{ImageFeatures, IpAdapter, ProjectionConfig};
use ipa_formats::BaseModel;
use serde_json::{Value, json};

use crate::TrainConfig;

/// Variant, tokens, encoder, base model, training and licence; without clocks and paths, so that equal runs write equal
/// files.
pub(crate) fn of_run(adapter: &IpAdapter, config: &TrainConfig, steps: u64) -> Value {
    let sizes = adapter.config();
    let features = match adapter.image_features() {
        Some(ImageFeatures::Embedding) => "embedding",
        _ => "penultimate",
    };
    let num_tokens = match sizes.projection {
        ProjectionConfig::Classic { num_tokens, .. } => Some(num_tokens),
        ProjectionConfig::Plus(resampler) => Some(resampler.num_tokens),
        _ => None,
    };
    let (layers, width) = (sizes.unet.sites().len(), sizes.unet.cross_attention_dim);
    let family = BaseModel::of(layers, width as usize);
    let mut metadata = json!({
        "variant": sizes.variant().name(),
        "encoder": { "features": features, "width": sizes.projection.image_width() },
        "base": { "family": family, "layers": layers, "cross_attention_dim": width },
        "steps": steps,
        "config": config,
        "licence": "its maker's to choose; what is drawn with it stays under the terms of the base model",
    });
    if let (Some(num_tokens), Some(fields)) = (num_tokens, metadata.as_object_mut()) {
        fields.insert("num_tokens".to_owned(), num_tokens.into());
    }
    metadata
}
