//! What libtorch's bindings leave out of CUDA: graphs, and kernels of our own.

mod compiled;
mod graph;
mod kernels;

pub use graph::{CudaGraph, CudaGraphError};
pub use kernels::what_slows_drawing;
pub(crate) use kernels::{geglu, group_norm, is_half_on_card};
