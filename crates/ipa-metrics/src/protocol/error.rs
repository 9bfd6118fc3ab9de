//! What can be wrong with a set of images.

use std::io;
use std::path::PathBuf;

use ipa_formats::FormatError;

/// Why a protocol run cannot begin. Single images that cannot be used are skipped instead.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say what each field is
pub enum ProtocolError {
    /// A file that cannot be read, or is not what it should be, with its field.
    #[error(transparent)]
    File(#[from] FormatError),
    /// A folder that cannot be read.
    #[error("cannot read the folder {path}; check that it exists and may be read")]
    Folder { path: PathBuf, source: io::Error },
    /// A line that is none of captions.
    #[error("{path}, line {line}: field `{field}` is not as expected; a line is {{\"image_file\": …, \"text\": …}}")]
    Line { path: PathBuf, line: usize, field: String, source: serde_json::Error },
    /// A field with a value that cannot be used.
    #[error("{path}: `{field}` {problem}")]
    Field { path: PathBuf, field: String, problem: String },
    /// Two files of captions, and no telling which is meant.
    #[error("{folder} has captions in {first} and in {second}: name the one that is meant in place of the folder")]
    Ambiguous { folder: PathBuf, first: String, second: String },
    /// Nothing to draw after.
    #[error(
        "{path} lists no images: give a folder of images with a .txt beside each, with captions.json or captions.jsonl, or \
         COCO's captions_*.json"
    )]
    Empty { path: PathBuf },
    /// A part that is none.
    #[error("`{text}` is no shard: {problem}; write `2/3` for the second of three")]
    Shard { text: String, problem: &'static str },
}
