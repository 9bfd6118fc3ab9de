//! Model and adapter files: what lies where, what it is called, and whether it is whole.
//!
//! - [`SafetensorsFile`] maps a checked file, [`read_header`] reads the header alone,
//!   [`write_safetensors`] writes equal bytes for equal contents, [`write_atomically`] is how every
//!   output of the project reaches the disk;
//! - [`TorchFile`] reads what `torch.save` wrote (`.bin`, `.ckpt`, `.pt`, `.pth`) without running it,
//!   and [`TensorFile`] is a file of either kind, told apart by its first bytes;
//! - [`ModelFolder`], [`weights_file`] and [`read_json`] know the diffusers folder layout, and [`Weights`] are the
//!   tensors of a component in whichever files of it they lie;
//! - [`published_number`] maps the UNet's cross-attention layers to the numbers in adapter files;
//! - [`ModelFiles`] is a model in either form, whose parts are loaded in one way;
//! - [`read_single_file`] and [`plan_single_file`] map single-file checkpoints to diffusers folders and back;
//! - [`ModelConversion`] writes a model in another form or with other element types, [`Conversion`] tensors under other
//!   names;
//! - [`AdapterFile`] reads an adapter of any published kind in any dialect, [`recognise_adapter`] its header alone;
//! - [`lora_layers`] finds the modules that a LoRA file changes, [`convert_lora`] renames it, [`read_vectors`] reads face
//!   embeddings;
//! - [`convert_adapter`] decides how an adapter becomes one in another dialect, [`Conversion`] writes what was decided;
//! - [`inspect`] tells what a file or folder is from its headers, [`Manifest`] whether files are still what they were,
//!   [`Licence`] what their authors allow.
//!
//! Files are taken to come from strangers. This crate computes with no tensor, executes nothing it
//! finds in a file, and knows neither libtorch nor a network; torch pickles are read for their tensors and
//! plain values, and refused if they ask for anything else.
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
mod content;
mod convert;
mod digest;
mod error;
mod floats;
mod inspect;
mod layout;
mod licence;
mod lora;
mod manifest;
mod mapped;
mod model_files;
mod numbering;
mod pickle;
mod safetensors;
mod single_file;
mod tensor_file;
mod unet_modules;
mod vectors;
mod weights;

pub use adapter::{
    AdapterConversion, AdapterCoupling, AdapterDialect, AdapterError, AdapterFile, AdapterInfo, AdapterKind,
    AdapterLora, AdapterOptions, AdapterVariant, BaseModel, ConvertedAdapter, Numbering, ResamplerSizes, UnetLayers,
    UnetLayersError, UnknownVariant, adapter_file, convert_adapter, is_adapter, recognise_adapter,
};
pub use atomic::{remove_unfinished, write_atomically};
pub use content::Content;
pub use convert::{
    Conversion, ConversionReport, Dropped, LoraDialect, ModelConversion, ModelConversionOptions, ModelForm,
    ModelReport, Moved, convert_lora,
};
pub use digest::{sha256_bytes, sha256_file, sha256_text};
pub use error::{FormatError, HeaderError};
pub use inspect::{
    ComponentInspection, DtypeTotal, FileInspection, Inspection, ModelInspection, TensorListing, WeightsSummary,
    inspect, inspect_as,
};
pub use layout::{ModelFolder, read_json, read_json_if_there, read_text};
pub use licence::Licence;
pub use lora::{LoraError, LoraLayer, lora_layers, resembles_lora};
pub use manifest::{Manifest, Verdict, Verified};
pub use model_files::{ComponentFiles, ModelFiles, ModelOptions, OpenSingleFile, SchedulerFields, settings_files};
pub use numbering::{SiteCounts, published_number};
pub use pickle::{PlainValue, TorchError, TorchFile, TorchIndex};
pub use safetensors::{
    Dtype, Header, METADATA_KEY, SafetensorsFile, TensorBytes, TensorInfo, read_header, write_safetensors,
};
pub use single_file::{
    Component, ComponentConfigs, FolderTensors, ModelTask, ModelVersion, Operation, PredictionType, SingleFile,
    SingleFileError, SingleFileInfo, SingleFileOptions, TensorPlan, is_single_file, plan_single_file, read_single_file,
};
pub use tensor_file::TensorFile;
pub use vectors::{Vectors, read_vectors};
pub use weights::{Weights, weights_file};
