//! The loops that make the pocket model from nothing: autoencoder, CLIP towers, UNet, base adapter.
//!
//! Every stage keeps its state in a folder of its own and goes on where it was interrupted; its draws depend on
//! (seed, purpose, step) alone.

pub mod adapter;
mod attributes;
pub mod captions;
pub mod clip;
pub mod export;
mod halves;
mod init;
mod kept;
mod recipe;
pub mod scores;
mod stage;
pub mod unet;
pub mod vae;
pub mod vocabulary;

pub use init::initialize;
pub use recipe::Recipe;
pub use stage::{Stage, StageConfig, StageError};
