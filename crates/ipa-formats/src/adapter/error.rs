//! Why a file is no adapter that can be used.

/// Why names and shapes do not describe a whole adapter of a known kind.
///
/// A tensor that is in the file goes by its name there, one that is not by its published name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AdapterError {
    /// A tensor that every adapter of its kind has.
    #[error("tensor `{name}` is missing; the file is incomplete or of another kind")]
    Missing {
        /// Its name.
        name: String,
    },
    /// A tensor whose shape contradicts the others.
    #[error("tensor `{name}` has shape {shape:?}, expected {expected}")]
    Shape {
        /// Its name.
        name: String,
        /// Shape in the file.
        shape: Vec<usize>,
        /// What fits the other tensors.
        expected: String,
    },
    /// A tensor that no adapter of its kind has.
    #[error("tensor `{name}` is none of this kind of adapter; the file is damaged or of another kind")]
    Unexpected {
        /// Its name.
        name: String,
    },
    /// Two tensors that stand for the same one.
    #[error("tensors {} stand for the same one; remove all but one", quoted(.names))]
    Collision {
        /// Their names.
        names: Vec<String>,
    },
    /// Keys and values in two tensors that do not fit each other.
    #[error("tensors `{key}` and `{value}` differ in shape or element type, and are two halves of one")]
    Halves {
        /// Name of the keys' matrix.
        key: String,
        /// Name of the values' matrix.
        value: String,
    },
    /// A tensor of an attention layer that the given UNet does not have.
    #[error(
        "tensor `{name}` lies in no attention layer of that UNet; give the config.json of the one it was trained with"
    )]
    NoSuchLayer {
        /// Its name.
        name: String,
    },
    /// Attention layers in the midst of which one has no tensors.
    #[error(
        "no tensor of it lies in `{place}`, beside layers that have some; the file is incomplete, or give the config.json \
         of its UNet with `--unet-config`"
    )]
    Gap {
        /// The transformer block.
        place: String,
    },
    /// Tensors that should be one and are not.
    #[error("tensors `{first}` and `{second}` should be the same one, and differ; remove the one that was not trained")]
    Differ {
        /// Name of the one.
        first: String,
        /// Name of the other.
        second: String,
    },
    /// Names that need the UNet's layers, of a UNet that is none of the published ones.
    #[error(
        "its {count} layers are those of no published UNet, and the names to be written tell a UNet's blocks; give its \
         config.json with `--unet-config`"
    )]
    UnknownUnet {
        /// Cross-attention layers of the adapter.
        count: usize,
    },
    /// A UNet with another number of layers.
    #[error("it has {count} cross-attention layers, that UNet has {expected}; give the config.json of the one it fits")]
    OtherUnet {
        /// Layers of the adapter.
        count: usize,
        /// Layers of the UNet.
        expected: usize,
    },
    /// A LoRA that is to be split off and is not there.
    #[error("it brings no LoRA that could be split off; leave out `--lora-output`")]
    NoLora,
    /// A LoRA that is to be added to another.
    #[error("tensor `{name}` shows that it brings its LoRA; leave out `--lora`")]
    HasLora {
        /// A tensor of the LoRA that is there.
        name: String,
    },
    /// A file of several adapters.
    #[error("tensor `{name}` is that of a second adapter; give a file of one")]
    Several {
        /// Its name.
        name: String,
    },
    /// Attention tensors that are not numbered 1, 3, 5, ….
    #[error("its layers are numbered {numbers:?}, published adapters number them 1, 3, 5, …")]
    Numbering {
        /// Numbers in the file, sorted.
        numbers: Vec<usize>,
    },
    /// Attention tensors that are numbered 0, 1, 2, …, which does not say in what order.
    #[error(
        "its {count} layers are numbered 0, 1, 2, … instead of 1, 3, 5, …; if they are in the order down, up, \
         middle, pass `--adapter-numbering dense`"
    )]
    Dense {
        /// Layers in the file.
        count: usize,
    },
    /// Attention tensors that should be numbered 0, 1, 2, … and are not.
    #[error("its layers are numbered {numbers:?}, not 0, 1, 2, …; leave out `--adapter-numbering dense`")]
    NotDense {
        /// Numbers in the file, sorted.
        numbers: Vec<usize>,
    },
    /// An entry of the metadata that cannot be understood.
    #[error("field `{field}` of its metadata is {found}, expected {expected}")]
    Metadata {
        /// Name of the entry.
        field: &'static str,
        /// Its text.
        found: String,
        /// What is understood.
        expected: &'static str,
    },
    /// Something that was said of the adapter and that its tensors contradict.
    #[error("{field} says {declared}, its tensors say {found}")]
    Contradiction {
        /// Where it was said.
        field: &'static str,
        /// What was said.
        declared: String,
        /// What the tensors say.
        found: String,
    },
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" and ")
}
