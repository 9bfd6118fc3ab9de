//! What libtorch's bindings leave out of CUDA: graphs, and kernels of our own.

mod compiled;
mod graph;
mod kernels;

pub use graph::{CudaGraph, CudaGraphError};
pub(crate) use kernels::{geglu, group_norm};
