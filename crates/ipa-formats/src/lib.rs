//! Model and adapter files: what lies where, what it is called, and whether it is whole.
//!
//! - [`SafetensorsFile`] maps a checked file, [`read_header`] reads the header alone,
//!   [`write_safetensors`] writes equal bytes for equal contents, [`write_atomically`] is how every
//!   output of the project reaches the disk;
//! - [`ModelFolder`], [`weights_file`] and [`read_json`] know the diffusers folder layout;
//! - [`published_number`] maps the UNet's cross-attention layers to the numbers in adapter files;
//! - [`inspect`] and [`recognise_adapter`] tell what a file or folder is from its headers.
//!
//! Files are taken to come from strangers. This crate computes with no tensor, executes nothing it
//! finds in a file, and knows neither libtorch nor a network; torch pickles are refused.
//!
//! ```
//! use ipa_formats::{Dtype, SafetensorsFile, TensorBytes, write_safetensors};
//!
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("one.safetensors");
//! let one = TensorBytes {
//!     name: "one".to_owned(),
//!     dtype: Dtype::F32,
//!     shape: vec![1],
//!     data: 1f32.to_le_bytes().to_vec().into(),
//! };
//! write_safetensors(&path, vec![one], Some(&serde_json::json!({"step": 5})))?;
//!
//! let file = SafetensorsFile::open(&path)?;
//! assert_eq!(file.data("one"), Some(&1f32.to_le_bytes()[..]));
//! assert_eq!(file.metadata()["ipa"], r#"{"step":5}"#);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod adapter;
mod atomic;
mod digest;
mod error;
mod inspect;
mod layout;
mod numbering;
mod safetensors;

pub use adapter::{AdapterError, AdapterInfo, AdapterKind, BaseModel, is_adapter, recognise_adapter};
pub use atomic::write_atomically;
pub use digest::sha256_file;
pub use error::{FormatError, HeaderError};
pub use inspect::{
    ComponentInspection, Content, DtypeTotal, FileInspection, Inspection, ModelInspection, TensorListing,
    WeightsSummary, inspect,
};
pub use layout::{ModelFolder, read_json, weights_file};
pub use numbering::{SiteCounts, published_number, site_of_published};
pub use safetensors::{
    Dtype, Header, METADATA_KEY, SafetensorsFile, TensorBytes, TensorInfo, read_header, write_safetensors,
};
