//! The text tower.

use ipa_core::layers::{Embedding, LayerNorm, Linear, embedding, layer_norm, linear_no_bias};
use ipa_core::tch::{Device, Kind, Tensor, nn::Path};
use ipa_core::{Component, WeightsError, load_component};

use ipa_formats::ComponentFiles;

use crate::TextConfig;
use crate::encoder::{Encoder, EncoderConfig};

/// A causal transformer over tokens (`CLIPTextModel`, with or without projection).
#[derive(Debug)]
pub struct TextTower {
    config: TextConfig,
    token_embedding: Embedding,
    position_embedding: Embedding,
    encoder: Encoder,
    final_layer_norm: LayerNorm,
    text_projection: Option<Linear>,
    device: Device,
}

/// What a text tower says of prompts.
#[derive(Debug)]
pub struct TextFeatures {
    /// Embeddings, then the output of every block, none normalised: `[batch, tokens, hidden_size]` each.
    pub hidden_states: Vec<Tensor>,
    /// The last of them after the final layer normalisation; Stable Diffusion 1.x reads this.
    pub last_hidden_state: Tensor,
    /// Its end-of-text token, `[batch, hidden_size]`.
    pub pooled: Tensor,
    /// `pooled` projected into the space shared with images, `[batch, projection_dim]`, not normalised; only from
    /// towers that have the projection.
    pub text_embeds: Option<Tensor>,
}

impl TextTower {
    /// Declares the tower's variables under `vs`.
    pub fn new(vs: &Path, config: &TextConfig) -> Self {
        let (width, text_model) = (config.hidden_size, vs / "text_model");
        let embeddings = &text_model / "embeddings";
        let encoder = EncoderConfig {
            width,
            feed_forward: config.intermediate_size,
            layers: config.num_hidden_layers,
            heads: config.num_attention_heads,
            activation: config.hidden_act,
            eps: config.layer_norm_eps,
            causal: true,
        };
        let projection = || linear_no_bias(&(vs / "text_projection"), width, config.projection_dim);
        Self {
            config: config.clone(),
            token_embedding: embedding(&(&embeddings / "token_embedding"), config.vocab_size, width),
            position_embedding: embedding(&(&embeddings / "position_embedding"), config.max_position_embeddings, width),
            encoder: Encoder::new(&(&text_model / "encoder"), encoder),
            final_layer_norm: layer_norm(&(&text_model / "final_layer_norm"), width, config.layer_norm_eps),
            text_projection: config.has_projection().then(projection),
            device: vs.device(),
        }
    }

    /// Loads a published `text_encoder` folder, or that part of a single file; tensor names may lack their `text_model.` prefix.
    ///
    /// # Errors
    /// [`WeightsError`] naming the file, and the field or tensor, at fault.
    pub fn load(files: impl Into<ComponentFiles>, options: (Device, Kind)) -> Result<Self, WeightsError> {
        Ok(Self::load_with_variables(files, options)?.model)
    }

    /// As [`TextTower::load`], with sizes and variables.
    ///
    /// # Errors
    /// As [`TextTower::load`].
    pub fn load_with_variables(
        files: impl Into<ComponentFiles>,
        options: (Device, Kind),
    ) -> Result<Component<TextConfig, Self>, WeightsError> {
        load_component(&files.into(), options, model_name, |vs, config| Self::new(&vs, config))
    }

    /// The sizes it was built with.
    pub fn config(&self) -> &TextConfig {
        &self.config
    }

    /// Features of token ids `[batch, tokens]`, at most `max_position_embeddings` of them.
    pub fn forward(&self, ids: &Tensor) -> TextFeatures {
        let ids = ids.to_device(self.device);
        let positions = self.position_embedding.first(ids.size()[1]);
        let hidden_states = self.encoder.forward(ids.apply(&self.token_embedding) + positions);
        let last_hidden_state = hidden_states[hidden_states.len() - 1].apply(&self.final_layer_norm);
        let pooled = self.pool(&ids, &last_hidden_state);
        let text_embeds = self.text_projection.as_ref().map(|projection| pooled.apply(projection));
        TextFeatures { hidden_states, last_hidden_state, pooled, text_embeds }
    }

    /// The output of the block that `num_skipped` blocks follow, after the final layer normalisation; without skipping,
    /// `last_hidden_state`.
    ///
    /// # Panics
    /// If there are not so many blocks.
    pub fn skipping(&self, features: &TextFeatures, num_skipped: usize) -> Tensor {
        let states = &features.hidden_states;
        states[states.len() - 1 - num_skipped].apply(&self.final_layer_norm)
    }

    /// The end-of-text token: its first position, or that of the largest id in files that name it wrongly.
    fn pool(&self, ids: &Tensor, last_hidden_state: &Tensor) -> Tensor {
        let end = match self.config.eos_token_id {
            2 => ids.to_kind(Kind::Int).argmax(-1, false), // Parity: configs from before mid-2023
            eos => ids.eq(eos).to_kind(Kind::Int).argmax(-1, false),
        };
        let width = self.config.hidden_size;
        let index = end.view([-1, 1, 1]).expand([-1, 1, width], false);
        last_hidden_state.gather(1, &index, false).squeeze_dim(1)
    }
}

/// Token ids as a tensor `[batch, tokens]`.
///
/// # Panics
/// If the rows differ in length; the tokenizer pads to one.
pub fn token_tensor(rows: &[Vec<i64>]) -> Tensor {
    let tensors: Vec<Tensor> = rows.iter().map(|row| Tensor::from_slice(row)).collect();
    Tensor::stack(&tensors, 0)
}

/// Newer files leave the prefix out; `position_ids` are no weights.
fn model_name(name: &str) -> Option<String> {
    if name.ends_with("position_ids") {
        return None;
    }
    let own = name.starts_with("text_model.") || name.starts_with("text_projection.");
    Some(if own { name.to_owned() } else { format!("text_model.{name}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipa_core::layers::num_parameters;
    use ipa_core::tch::nn::VarStore;

    #[test]
    fn clip_l_has_the_published_number_of_parameters() {
        let vs = VarStore::new(Device::Cpu);
        TextTower::new(&vs.root(), &TextConfig::clip_l());
        assert_eq!(num_parameters(&vs), 123_060_480);
    }

    #[test]
    fn names_are_read_with_and_without_their_prefix() {
        let expected = Some("text_model.final_layer_norm.weight".to_owned());
        assert_eq!(model_name("final_layer_norm.weight"), expected);
        assert_eq!(model_name("text_model.final_layer_norm.weight"), expected);
        assert_eq!(model_name("text_projection.weight").as_deref(), Some("text_projection.weight"));
        assert_eq!(model_name("text_model.embeddings.position_ids"), None);
    }
}
