//! What can be wrong with a file.

use std::io;
use std::path::PathBuf;

use crate::{AdapterError, Dtype, LoraError, SingleFileError, TorchError};

/// A file or folder that could not be read, understood or written.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The operating system refused to read.
    #[error("cannot read {path}; check that it exists and may be read")]
    Read {
        /// File or folder that was to be read.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The operating system refused to write; nothing was left behind.
    #[error("cannot write {path}; check that its folder exists, may be written to and has space left")]
    Write {
        /// File that was to be written.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A folder, a device or a pipe stands where a file is expected.
    #[error("{path} is not a regular file; give the path of a file")]
    NotAFile {
        /// What was given.
        path: PathBuf,
    },
    /// A file stands where the folder of a component is expected.
    #[error("{path} is a file; give the folder that holds config.json and the weights")]
    NotAFolder {
        /// What was given.
        path: PathBuf,
    },
    /// The file does not hold well-formed safetensors.
    #[error("{path} is not a usable safetensors file; fetch or write it again")]
    Header {
        /// File that was read.
        path: PathBuf,
        /// What is wrong with it.
        source: HeaderError,
    },
    /// A JSON file is malformed, or one of its fields is.
    #[error("cannot use {path}: field `{field}` is not as expected")]
    Json {
        /// File that was read.
        path: PathBuf,
        /// Path of the field in the file, `.` for the whole.
        field: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// No model where one was looked for; perhaps its public name was given.
    #[error(
        "there is no model {path}, and none is downloaded here; give the path of a folder or file, or fetch one by name: \
         `ipa fetch --list`"
    )]
    NoModel {
        /// What was given.
        path: PathBuf,
    },
    /// Something else than a diffusers-style model folder.
    #[error("{path} holds neither model_index.json nor unet/; give a diffusers-style model folder")]
    NotAModel {
        /// What was given.
        path: PathBuf,
    },
    /// A model without a component that is needed.
    #[error("{path} has no folder {name}/; add that component or choose a model that has it")]
    MissingComponent {
        /// The model's folder.
        path: PathBuf,
        /// The component.
        name: String,
    },
    /// A single file without a part that is needed.
    #[error("{path} holds no {name}; choose a checkpoint that has it{}", if name == "vae" { ", or name one with `--vae`" } else { "" })]
    MissingPart {
        /// The file.
        path: PathBuf,
        /// The part.
        name: String,
    },
    /// A single file, which never has a tokenizer, and nothing in its place.
    #[error(
        "{path} has no tokenizer, as single files never do; name the `tokenizer` folder of a model of the same \
         generation with `--tokenizer`, or put one beside the file"
    )]
    NoTokenizer {
        /// The file.
        path: PathBuf,
    },
    /// A component of another kind than is needed.
    #[error("{path} holds a {found}; give one of class {expected}")]
    Class {
        /// The component's folder.
        path: PathBuf,
        /// Its class.
        found: String,
        /// The class that is needed.
        expected: &'static str,
    },
    /// JSON that lists no parts of weights.
    #[error("{path} is no index of weights in parts; give the folder that it lies in")]
    NotAnIndex {
        /// The file.
        path: PathBuf,
    },
    /// Neither of the two kinds of weights files.
    #[error("{path} is neither a safetensors file nor one that torch wrote; give a file of weights")]
    NotWeights {
        /// The file.
        path: PathBuf,
    },
    /// Averages are told apart by their names in single files only.
    #[error("{path} is no single file; averaged weights (EMA) can be chosen in those only")]
    EmaOfFolder {
        /// What was given.
        path: PathBuf,
    },
    /// A component without its configuration.
    #[error("{path} has no config.json; copy the whole component, not the weights alone")]
    MissingConfig {
        /// The component's folder.
        path: PathBuf,
    },
    /// A component without weights.
    #[error("{path} holds no weights; looked for {names}")]
    NoWeights {
        /// The component's folder.
        path: PathBuf,
        /// Files looked for, separated by commas.
        names: String,
    },
    /// What torch wrote where safetensors alone are read.
    #[error("{path} is a torch file; take the .safetensors file of the same weights")]
    PickledWeights {
        /// The pickle.
        path: PathBuf,
    },
    /// The file is no weights file of torch, or one that is damaged or would run code.
    #[error("{path} is not a usable torch file")]
    Torch {
        /// File that was read.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<TorchError>,
    },
    /// The index of weights in several files does not fit them.
    #[error("cannot use the parts that {path} lists: {problem}; fetch index and parts again, of one version")]
    Parts {
        /// The index.
        path: PathBuf,
        /// What does not fit.
        problem: String,
    },
    /// None of the file's tensors is that of an adapter.
    #[error("{path} is not an IP-Adapter: name a file such as ip-adapter_sd15.safetensors")]
    NotAnAdapter {
        /// File that was read.
        path: PathBuf,
    },
    /// An adapter file that is incomplete or of no known layout.
    #[error("{path} cannot be used as an adapter")]
    Adapter {
        /// File that was read.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<AdapterError>,
    },
    /// A LoRA file that is incomplete, of no known layout or for another model.
    #[error("{path} is not a usable LoRA for this UNet")]
    Lora {
        /// File that was read.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<LoraError>,
    },
    /// A file that is to hold face embeddings.
    #[error(
        "cannot use {path} as face embeddings: {problem}; give a .npy, safetensors or torch file of at most 64 rows of \
         at most 4096 finite floating-point numbers"
    )]
    Vectors {
        /// File that was read.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Tensors that are no single-file checkpoint of a known family, or a broken one.
    #[error("{path} is not a usable single-file checkpoint")]
    SingleFile {
        /// File that was read, or folder that was to become one.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<SingleFileError>,
    },
    /// A folder with nothing to inspect.
    #[error("{path} holds neither model_index.json nor config.json nor weights; give a model, a component or a file")]
    NothingToInspect {
        /// What was given.
        path: PathBuf,
    },
    /// Numbers that the element type which was asked for cannot hold.
    #[error(
        "tensor `{name}` of {path} has {count} numbers beyond the range of {dtype}; convert to BF16 or F32 instead"
    )]
    Overflow {
        /// File that was read.
        path: PathBuf,
        /// Name in the file that was to be written.
        name: String,
        /// How many.
        count: usize,
        /// Element type that was asked for.
        dtype: Dtype,
    },
    /// A file whose name cannot stand in a list.
    #[error("{path:?} has a name that no list of digests can hold; rename it")]
    Unlistable {
        /// The file.
        path: PathBuf,
    },
    /// A list of digests with a line that is none.
    #[error("line {line} of {path} {problem}; give a list such as `ipa inspect --digest` or sha256sum writes")]
    Manifest {
        /// The list.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Something is where a folder is to be made.
    #[error("{path} exists and is no empty folder; name one that is not there yet")]
    FolderNotEmpty {
        /// What was given.
        path: PathBuf,
    },
    /// A file or folder of a kind that is not converted, or not to what was asked for.
    #[error("{path} cannot be converted: {problem}")]
    NotConvertible {
        /// What was given.
        path: PathBuf,
        /// Why, and what to do instead.
        problem: String,
    },
    /// Tensors that were to be written contradict themselves.
    #[error("{path} was not written: tensor `{name}` {problem}")]
    Tensor {
        /// File that was to be written.
        path: PathBuf,
        /// Tensor at fault.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// What is wrong with the header of a safetensors file.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// Not even the length of the header is there.
    #[error("the file has {file_len} bytes, the length of its header alone takes 8")]
    TooShort {
        /// Length of the file in bytes.
        file_len: u64,
    },
    /// The header claims an unreasonable length: most likely another kind of file.
    #[error("its header claims {header_len} bytes, at most {limit} are accepted; it is probably not safetensors")]
    TooLarge {
        /// Claimed length in bytes.
        header_len: u64,
        /// Longest accepted header.
        limit: u64,
    },
    /// The header claims to end behind the end of the file.
    #[error("its header claims {header_len} bytes, the file has {file_len}; it is cut short or not safetensors")]
    BeyondFile {
        /// Claimed length in bytes.
        header_len: u64,
        /// Length of the file in bytes.
        file_len: u64,
    },
    /// The header is not text.
    #[error("its header is not UTF-8 text")]
    NotUtf8(#[from] std::str::Utf8Error),
    /// The header is not the JSON that the format asks for, or names a tensor twice, or exceeds a limit.
    #[error("its header does not describe tensors")]
    Json(#[from] serde_json::Error),
    /// A data type that this project does not compute with.
    #[error("tensor `{name}` has data type {dtype}, which is not supported; convert it to F16, BF16 or F32")]
    Dtype {
        /// Tensor at fault.
        name: String,
        /// Data type in the header.
        dtype: String,
    },
    /// The product of shape and element size does not fit into memory.
    #[error("tensor `{name}` has the impossible shape {shape:?}")]
    Shape {
        /// Tensor at fault.
        name: String,
        /// Shape in the header.
        shape: Vec<usize>,
    },
    /// Shape and data type need another number of bytes than the header sets aside.
    #[error("tensor `{name}` needs {needed} bytes, its data offsets {begin} to {end} hold another number")]
    Size {
        /// Tensor at fault.
        name: String,
        /// Bytes that shape and data type ask for.
        needed: usize,
        /// First byte of the data.
        begin: usize,
        /// Byte behind the data.
        end: usize,
    },
    /// Tensors overlap or leave a hole between them.
    #[error("the data of tensor `{name}` does not begin where the tensor before it ends")]
    Offsets {
        /// Tensor at fault.
        name: String,
    },
    /// Another fault that the format's own library reports.
    #[error("the tensors in its header are inconsistent")]
    Inconsistent(#[source] ::safetensors::SafeTensorError),
    /// The tensors do not fill the file exactly.
    #[error("the file has {file_len} bytes, its header describes {expected}; it is cut short or has bytes appended")]
    Length {
        /// Length of the file in bytes.
        file_len: u64,
        /// Length by the header.
        expected: u64,
    },
}
