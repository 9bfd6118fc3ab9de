//! The foundation every model stands on: strict weight loading, layers that cost nothing to declare,
//! attention, devices and kinds, the one owner of randomness, and the way between images and tensors.
//!
//! Knows nothing of diffusion, image prompts or command lines.
//!
//! ```no_run
//! use ipa_core::{Checkpoint, layers, tch::{Device, nn}};
//!
//! let vs = nn::VarStore::new(Device::Cpu);
//! let proj = layers::linear(&(&vs.root() / "proj"), 1024, 3072);
//! Checkpoint::open("proj.safetensors".as_ref())?.load_into(&vs)?;
//! # let _ = proj;
//! # Ok::<(), ipa_core::WeightsError>(())
//! ```

#[cfg(feature = "allocator")]
pub mod allocator;
mod attention;
mod autograd;
mod checkpoint;
mod component;
mod cuda;
pub mod device;
#[cfg(target_arch = "x86_64")]
mod kernel;
pub mod layers;
pub mod noise;
mod parallel;
pub mod picture;
mod threads;
mod winograd;
mod work;

pub use attention::{attention, causal_attention, merge_heads, split_heads};
pub use checkpoint::{Checkpoint, WeightsError, save_tensors, save_variables};
pub use component::{Component, Config, load_component, read_config, read_config_file, same_name};
pub use cuda::{CudaGraph, CudaGraphError, what_slows_drawing};
pub use tch;
pub use threads::ThreadLimit;
pub use winograd::FewerProducts;
pub use work::Work;
