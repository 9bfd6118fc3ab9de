//! Reading and writing safetensors files.
//!
//! Files come from strangers: a header is checked against limits and against the file's length
//! before anything is allocated for it, and every fault names the tensor it lies in.

mod dtype;
mod file;
mod header;
mod write;

pub use dtype::Dtype;
pub use file::SafetensorsFile;
pub use header::{Header, TensorInfo, read_header};
pub use write::{METADATA_KEY, TensorBytes, write_safetensors};

pub(crate) use write::{LazyTensor, texts, write_lazily};
