//! What can be wrong with a dataset.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use ipa_clip::PreprocessError;
use ipa_formats::FormatError;

/// Where in a dataset something stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A row, counted from 0.
    Row(usize),
    /// A line of a list of lines, counted from 1.
    Line(usize),
    /// A sample of a shard, by its key.
    Sample(String),
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Row(row) => write!(formatter, "row {row}"),
            Self::Line(line) => write!(formatter, "line {line}"),
            Self::Sample(key) => write!(formatter, "sample `{key}`"),
        }
    }
}

/// Why a dataset cannot be trained on.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A list or a file that it names cannot be read.
    #[error(transparent)]
    File(#[from] FormatError),
    /// A picture cannot be read.
    #[error(transparent)]
    Image(#[from] PreprocessError),
    /// There are no rows.
    #[error(
        "{path} lists no pictures: give a list rows of {{\"image_file\": …, \"text\": …}}, a folder pictures (PNG, \
         JPEG, WebP) with a caption beside each, and a shard both under one name"
    )]
    Empty {
        /// The list, folder or shards.
        path: PathBuf,
    },
    /// More rows than can be counted.
    #[error("{path} has more than {} rows: train on parts of it", u32::MAX)]
    TooMany {
        /// The list, folder or shards.
        path: PathBuf,
    },
    /// A line of a list is no row.
    #[error("{path}, {place}: expected {{\"image_file\": …, \"text\": …}}")]
    Line {
        /// The list.
        path: PathBuf,
        /// Which line, or which row if it was a row before.
        place: Place,
        /// Why.
        source: serde_json::Error,
    },
    /// A line is longer than any row.
    #[error("{path}, {place}: the line is longer than {max} bytes: put one row on each line")]
    LongLine {
        /// The list.
        path: PathBuf,
        /// Which line.
        place: Place,
        /// How long a line may be.
        max: u64,
    },
    /// A field of a row is missing or out of its range.
    #[error("{path}, {place}: `{field}` {problem}")]
    Field {
        /// The list or shard.
        path: PathBuf,
        /// Which row.
        place: Place,
        /// The field.
        field: &'static str,
        /// What is wrong with it and what it should be.
        problem: String,
    },
    /// A picture of a folder has no caption.
    #[error("{picture} has no caption: write one into {caption}, which may be empty")]
    NoCaption {
        /// The picture.
        picture: PathBuf,
        /// Where its caption is looked for.
        caption: PathBuf,
        /// Why it cannot be read.
        source: io::Error,
    },
    /// A row points outside the dataset's folder.
    #[error(
        "{path}, {place}: `{file}` leaves the dataset's folder: put what `{field}` names below {}",
        folder_of(.path).display()
    )]
    Outside {
        /// The list.
        path: PathBuf,
        /// Which row.
        place: Place,
        /// The field.
        field: &'static str,
        /// As listed.
        file: String,
    },
    /// A row's file is not there.
    #[error("{path}, {place}: `{file}` does not exist: `{field}` is relative to the list's folder")]
    NoFile {
        /// The list.
        path: PathBuf,
        /// Which row.
        place: Place,
        /// The field.
        field: &'static str,
        /// As listed.
        file: String,
    },
    /// A row's picture, or another of its files, cannot be read.
    #[error("{path}, row {row}")]
    Picture {
        /// The list.
        path: PathBuf,
        /// Counted from 0.
        row: usize,
        /// Why.
        source: Box<DataError>,
    },
    /// A file is larger than any of its kind.
    #[error("{path} has {len} bytes, more than the {max} of any {what}: look whether it is one")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        len: u64,
        /// How long it may be.
        max: u64,
        /// What it should be.
        what: &'static str,
    },
    /// A folder with pictures and with shards.
    #[error("{path} holds pictures and shards: give each a folder of its own")]
    Mixed {
        /// The folder.
        path: PathBuf,
    },
    /// Shards in a form in which no part can be read by itself.
    #[error("{path} is compressed, so that its parts cannot be found: unpack it to a plain .tar first")]
    Compressed {
        /// The shard.
        path: PathBuf,
    },
    /// A range of shards that is none.
    #[error("{path}: expected one range of numbers such as shard-{{000000..000199}}.tar")]
    Range {
        /// As given.
        path: PathBuf,
    },
    /// Something that is no tar file, or a damaged one.
    #[error("{path} is not a usable tar file behind byte {offset}: make or copy it again")]
    Tar {
        /// The shard.
        path: PathBuf,
        /// Up to where it is one.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// A shard that ends too early.
    #[error("{path} is cut off at byte {len}, {}: copy it again", within(.entry.as_deref()))]
    CutOff {
        /// The shard.
        path: PathBuf,
        /// Its length.
        len: u64,
        /// The file in it that is cut; otherwise what is missing are files and tar's mark of the end.
        entry: Option<String>,
    },
    /// A file in a shard that cannot be used.
    #[error("{path}: `{entry}` {problem}")]
    Entry {
        /// The shard.
        path: PathBuf,
        /// The file's name, or the sample's key.
        entry: String,
        /// What is wrong with it and what to do.
        problem: &'static str,
    },
    /// A list or shard is not what it was.
    #[error("{path} changed after it was opened: start again, and leave it alone meanwhile")]
    Changed {
        /// The list or shard.
        path: PathBuf,
    },
}

/// The folder that a list lies in.
pub(super) fn folder_of(list: &Path) -> &Path {
    match list.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn within(entry: Option<&str>) -> String {
    match entry {
        Some(entry) => format!("in the middle of `{entry}`"),
        None => "without tar's mark of the end".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_without_a_folder_lies_in_this_one() {
        let (path, place, file) = (PathBuf::from("data.json"), Place::Row(0), "../a.png".to_owned());
        let text = DataError::Outside { path, place, field: "image_file", file }.to_string();
        assert!(text.ends_with("put what `image_file` names below ."), "{text}");
    }
}
