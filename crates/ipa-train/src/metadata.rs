//! What a finished adapter says of itself.

use ipa_adapter::{ImageFeatures, IpAdapter};
use ipa_formats::BaseModel;
use serde_json::{Value, json};

use crate::TrainConfig;
use crate::variant::num_tokens;

/// Variant, tokens, encoder, base model, training and licence; without clocks and paths, so that equal runs write equal
/// files.
pub(crate) fn of_run(adapter: &IpAdapter, config: &TrainConfig, steps: u64) -> Value {
    let sizes = adapter.config();
    let encoder = adapter.image_features().map(|features| {
        let features = match features {
            ImageFeatures::Embedding => "embedding",
            ImageFeatures::Penultimate => "penultimate",
        };
        json!({ "features": features, "width": sizes.projection.image_width() })
    });
    let num_tokens = num_tokens(&sizes.projection);
    let (layers, width) = (sizes.unet.sites().len(), sizes.unet.cross_attention_dim);
    let family = BaseModel::of(layers, width as usize);
    let mut metadata = json!({
        "variant": sizes.variant().name(),
        "encoder": encoder,
        "base": { "family": family, "layers": layers, "cross_attention_dim": width },
        "steps": steps,
        "config": config.recorded(),
        "licence": "its maker's to choose; what is drawn with it stays under the terms of the base model",
    });
    if let (Some(num_tokens), Some(fields)) = (num_tokens, metadata.as_object_mut()) {
        fields.insert("num_tokens".to_owned(), num_tokens.into());
    }
    metadata
}
