//! The pocket CLIP: a text and a vision tower that learn which caption belongs to which picture.

use std::path::Path;

use ipa_clip::{Activation, ClipTokenizer, ImageProcessor, TextConfig, TextTower, VisionConfig, VisionTower};
use ipa_core::layers;
use ipa_core::noise::Draws;
use ipa_core::tch::{Kind, Tensor, nn::VarStore};
use ipa_pocket::scene::is_held_out;
use ipa_pocket::{Color, Scene, Split, caption, render_many};

use super::attributes::Attributes;
use super::captions::token_ids;
use super::kept::world;
use super::{Recipe, Stage, StageError, initialize, vocabulary};

const FIRST_LOGIT_SCALE: f64 = 2.659_26; // ln(1 / 0.07), as arXiv:2103.00020 §2.5
const PIXEL_NOISE: f64 = 0.04;
const IMAGE_SIZE: i64 = 64;
const GROUP: usize = 8;

fn text_config(vocab_size: i64, num_layers: i64) -> TextConfig {
    TextConfig {
        architectures: Some(vec!["CLIPTextModelWithProjection".to_owned()]),
        vocab_size,
        hidden_size: 128,
        intermediate_size: 512,
        num_hidden_layers: num_layers,
        num_attention_heads: 4,
        max_position_embeddings: vocabulary::MAX_LENGTH,
        hidden_act: Activation::QuickGelu,
        projection_dim: 128,
        layer_norm_eps: 1e-5,
        eos_token_id: vocab_size - 1,
    }
}

fn vision_config(num_layers: i64) -> VisionConfig {
    VisionConfig {
        hidden_size: 128,
        intermediate_size: 512,
        num_hidden_layers: num_layers,
        num_attention_heads: 4,
        image_size: IMAGE_SIZE,
        patch_size: 8,
        projection_dim: 128,
        ..VisionConfig::vit_h()
    }
}

/// Both towers and the variables they share a store for: `text.…`, `vision.…`, `logit_scale.weight`.
#[derive(Debug)]
pub struct Towers {
    /// Variables.
    pub vs: VarStore,
    /// Text tower, with projection.
    pub text: TextTower,
    /// Vision tower.
    pub vision: VisionTower,
    logit_scale: Tensor,
}

impl Towers {
    fn new(vocab_size: i64, num_layers: i64, recipe: &Recipe) -> Self {
        let vs = VarStore::new(recipe.device);
        let text = TextTower::new(&(vs.root() / "text"), &text_config(vocab_size, num_layers));
        let vision = VisionTower::new(&(vs.root() / "vision"), &vision_config(num_layers));
        let logit_scale = layers::declare(&(vs.root() / "logit_scale"), "weight", &[1]);
        initialize(&vs, recipe.seed, &[]);
        logit_scale.shallow_clone().set_data(&Tensor::from_slice(&[FIRST_LOGIT_SCALE as f32]).to_device(recipe.device));
        Self { vs, text, vision, logit_scale }
    }

    /// Symmetric cross-entropy over the batch's cosines (arXiv:2103.00020 Fig. 3), and what the attributes add.
    fn loss(&self, batch: &Batch, attributes: &Attributes) -> Tensor {
        let text = unit(&self.text.forward(&batch.ids).text_embeds.expect("the pocket text tower has a projection"));
        let image = unit(&self.vision.forward(&batch.pixel_values).image_embeds);
        let logits = image.matmul(&text.transpose(0, 1)) * self.logit_scale.clamp(0.0, 4.6).exp();
        let targets = Tensor::arange(logits.size()[0], (Kind::Int64, logits.device()));
        let across = logits.cross_entropy_for_logits(&targets);
        let contrast = (across + logits.transpose(0, 1).cross_entropy_for_logits(&targets)) * 0.5;
        contrast + attributes.loss(&image, &batch.scenes)
    }
}

fn unit(embeds: &Tensor) -> Tensor {
    embeds / embeds.norm_scalaropt_dim(2.0, [-1], true)
}

/// Trains towers of `num_layers` in `folder`, calling `progress` after every step; the variables end as their average.
///
/// # Errors
/// [`StageError`].
pub fn train(
    folder: &Path,
    recipe: &Recipe,
    tokenizer: &ClipTokenizer,
    num_layers: i64,
    progress: impl FnMut(&Stage),
) -> Result<Towers, StageError> {
    let towers = Towers::new(tokenizer.eos_id() + 1, num_layers, recipe);
    let attributes = Attributes::new(VarStore::new(recipe.device), towers.vision.config().projection_dim);
    initialize(&attributes.vs, recipe.seed, &[]);
    let variables = towers.vs.variables().into_iter().chain(attributes.vs.variables()).collect();
    let mut stage = Stage::resume(folder, variables, recipe.clip, world(recipe))?;
    let make = |step| batch(recipe, tokenizer, step);
    let learn = |stage: &mut Stage, batch: Batch| stage.learn(&towers.loss(&batch, &attributes));
    stage.run(make, learn, progress)?;
    Ok(towers)
}

/// What a step learns from.
struct Batch {
    ids: Tensor,
    pixel_values: Tensor,
    scenes: Vec<Scene>,
}

/// Captions and pictures, these with a little noise so that decoded pictures look alike to the tower.
fn batch(recipe: &Recipe, tokenizer: &ClipTokenizer, step: u64) -> Batch {
    let (first, num) = (step * recipe.clip.batch, recipe.clip.batch);
    let mut scenes: Vec<Scene> = (first..first + num).map(|i| Scene::draw_at(recipe.seed, i, Split::Train)).collect();
    let num_alike = scenes.len() / 2;
    scenes[..num_alike].chunks_mut(GROUP).for_each(make_alike);
    let captions = scenes.iter().zip(first..).map(|(scene, index)| caption(scene, recipe.seed, index)).collect();
    let pixels = ipa_clip::pixel_tensor(&processor(), &render_many(&scenes, recipe.size));
    let noise = Draws::counted(recipe.seed, "clip.noise", step).normal(&pixels.size());
    Batch { ids: token_ids(tokenizer, captions), pixel_values: pixels + noise * PIXEL_NOISE, scenes }
}

/// Leaves the scenes of a group shape, size and place to differ in, and colour or fill where a shape cannot have the
/// group's.
///
/// Colours tell most pictures of a batch apart, so towers learn little else; half a batch of such groups teaches
/// shapes.
fn make_alike(group: &mut [Scene]) {
    let Some(first) = group.first().cloned() else { return };
    for scene in group {
        (scene.background, scene.style) = (first.background, first.style);
        scene.objects.truncate(1);
        let (main, like) = (&mut scene.objects[0], first.main());
        if !is_held_out(main.shape, Color::nearest(like.rgb())) {
            (main.color, main.tint) = (like.color, like.tint);
        }
        if main.shape.fills().contains(&like.fill) {
            main.fill = like.fill;
        }
    }
}

/// CLIP's preprocessing at the pocket tower's size.
pub fn processor() -> ImageProcessor {
    ImageProcessor::for_size(IMAGE_SIZE as u32)
}
