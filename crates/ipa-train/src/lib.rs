//! Adapter training with exact resume, and the loops that make the pocket model.

mod adamw;
pub mod pretrain;

pub use adamw::{AdamW, AdamWConfig, Ema};
