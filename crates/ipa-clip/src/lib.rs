//! CLIP (arXiv:2103.00020) as Stable Diffusion and its image prompts use it: tokenizer, text towers, vision towers
//! and the preprocessing of pictures.
//!
//! Knows nothing of UNets or adapters. Embeddings are returned as the towers give them, *not* normalised to
//! unit length.
//!
//! ```no_run
//! use ipa_clip::{ClipTokenizer, TextTower, ImageProcessor, VisionTower, load_image};
//! use ipa_core::tch::{Device, Kind};
//!
//! let options = (Device::Cpu, Kind::Float);
//! let tokenizer = ClipTokenizer::from_folder("model/tokenizer".as_ref())?;
//! let text = TextTower::load("model/text_encoder", options)?;
//! let text_embeds = text.forward(&ipa_clip::token_tensor(&[tokenizer.encode("a cat")?])).last_hidden_state;
//!
//! let vision = VisionTower::load("model/image_encoder".as_ref(), options)?;
//! let picture = load_image("cat.png".as_ref())?;
//! let pixel_values = ipa_clip::pixel_tensor(&ImageProcessor::default(), &[picture]);
//! let image_embeds = vision.forward(&pixel_values).image_embeds;
//! # let _ = (text_embeds, image_embeds);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod config;
mod encoder;
mod model;
pub mod preprocess;
mod text;
mod tokenizer;
mod vision;
mod work;

pub use config::{Activation, TextConfig, VisionConfig};
pub use model::{ClipConfig, ClipError, ClipModel};
pub use preprocess::{ImageProcessor, PreprocessError, load_image};
pub use text::{TextFeatures, TextTower, token_tensor};
pub use tokenizer::{ClipTokenizer, TokenizerError};
pub use vision::{VisionFeatures, VisionTower, pixel_tensor};
