//! Training pictures and their captions: lists, folders and shards, as rows that are read one by one.

mod buckets;
mod check;
mod error;
mod lines;
mod list;
mod pixels;
mod root;
mod row;
mod shard_index;
mod shards;
mod source;

use std::path::{Path, PathBuf};

use image::RgbImage;
use ipa_core::noise::Draws;
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

pub use buckets::{Buckets, batches};
pub use check::{CheckSettings, CheckedRow, DatasetCheck, Finding, Overflow, check_dataset};
pub use error::{DataError, Place};
pub use pixels::{Crop, resize_to_cover, training_pixels};
pub use source::Source;

use lines::Lines;
use list::{List, PICTURE_ENDINGS, files_with};
use row::Fields;
use shards::Shards;

/// Rows whose fields are in memory together where all are gone through.
const ROWS_AT_ONCE: usize = 1 << 12;

/// Hears of a row or shard that cannot be used: it is left out, or its fault ends the reading.
type Faults<'a> = &'a mut dyn FnMut(DataError) -> Result<(), DataError>;

/// Captioned pictures, all of them checked for being there. Rows are read when they are needed.
///
/// In memory are a data.json and the names in a folder; of lines twelve bytes a row, of shards four.
#[derive(Debug)]
pub struct Dataset {
    path: PathBuf,
    rows: Rows,
    /// The first bits of a digest of every row's key.
    hashes: Vec<u32>,
}

#[derive(Debug)]
enum Rows {
    List(List),
    Lines(Lines),
    Shards(Shards),
}

/// One row, its files not yet read.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// What tells it from others: `image_file` as listed, or the key in its shard.
    pub key: String,
    /// The caption.
    pub text: String,
    /// Factor on its loss; 1 if the row says nothing.
    pub weight: f64,
    /// Drop rates of its own.
    pub drops: RowDrops,
    /// What is trained on.
    pub picture: Source,
    /// What the image encoder reads in place of it.
    pub reference: Option<Source>,
    /// White where the loss counts.
    pub mask: Option<Source>,
    /// Identity vectors of the faces.
    pub id_embed: Option<Source>,
}

/// Drop rates of a row, in place of the run's. Those that are there sum to 1 at most.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RowDrops {
    /// How often the picture is dropped.
    pub image_drop: Option<f64>,
    /// How often the caption is.
    pub text_drop: Option<f64>,
    /// How often both are.
    pub both_drop: Option<f64>,
}

/// Rows to learn from, and rows to look at how well that goes, each in rising order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Split {
    /// To learn from.
    pub train: Vec<u32>,
    /// Never learned from.
    pub held_out: Vec<u32>,
}

/// A row as read, before what only `check` looks at is left out.
#[derive(Debug)]
struct Found {
    key: String,
    fields: Fields,
    picture: Source,
    reference: Option<Source>,
    mask: Option<Source>,
    id_embed: Option<Source>,
}

impl Dataset {
    /// Opens the reference's data.json, `[{"image_file": …, "text": …}, …]`; the same as lines (`.jsonl`); a folder of
    /// pictures, in the order of their names, with captions of the same names ending in `.txt`; a `.tar`, a folder of
    /// them or a range of them, `shard-{000000..000199}.tar`. Looks for every file, opens no picture.
    ///
    /// # Errors
    /// [`DataError`] naming list, row and file.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let dataset = Self::read(path, &mut Err)?;
        match dataset.is_empty() {
            true => Err(DataError::Empty { path: path.into() }),
            false => Ok(dataset),
        }
    }

    /// Opens what can be used of a dataset, which may be nothing, and tells the faults of the rest.
    ///
    /// # Errors
    /// [`DataError`] if nothing can be said of its rows.
    pub fn open_with_faults(path: &Path) -> Result<(Self, Vec<DataError>), DataError> {
        let mut faults = Vec::new();
        let dataset = Self::read(path, &mut |fault| {
            faults.push(fault);
            Ok(())
        })?;
        Ok((dataset, faults))
    }

    fn read(path: &Path, faults: Faults) -> Result<Self, DataError> {
        let name = path.to_string_lossy().to_lowercase();
        let is_there = path.exists();
        let (rows, hashes) = if path.is_dir() {
            Self::read_folder(path, faults)?
        } else if !is_there && name.contains('{') {
            shards(Shards::open(path, shards::expand(path)?, faults)?)
        } else if name.ends_with(".tar.gz") || name.ends_with(".tgz") || name.ends_with(".tar.zst") {
            return Err(DataError::Compressed { path: path.into() });
        } else if name.ends_with(".tar") {
            shards(Shards::open(path, vec![path.into()], faults)?)
        } else if name.ends_with(".jsonl") {
            let (lines, hashes) = Lines::open(path, faults)?;
            (Rows::Lines(lines), hashes)
        } else {
            let (list, hashes) = List::of_json(path, faults)?;
            (Rows::List(list), hashes)
        };
        match u32::try_from(hashes.len()) {
            Ok(_) => Ok(Self { path: path.into(), rows, hashes }),
            Err(_) => Err(DataError::TooMany { path: path.into() }),
        }
    }

    fn read_folder(folder: &Path, faults: Faults) -> Result<(Rows, Vec<u32>), DataError> {
        let (pictures, tars) = (files_with(folder, &PICTURE_ENDINGS)?, files_with(folder, &["tar"])?);
        match (pictures.is_empty(), tars.is_empty()) {
            (false, false) => Err(DataError::Mixed { path: folder.into() }),
            (true, false) => Ok(shards(Shards::open(folder, tars, faults)?)),
            _ => {
                let (list, hashes) = List::of_folder(folder, pictures, faults)?;
                Ok((Rows::List(list), hashes))
            }
        }
    }

    /// The list, the folder, or the shards as they were given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether there are no rows: never of a dataset that was opened without faults.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Reads and checks one row, but none of its files.
    ///
    /// # Errors
    /// [`DataError`] if a line or sample is not what it was, or the fields of a sample are out of their ranges.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn sample(&self, row: usize) -> Result<Sample, DataError> {
        let Found { key, fields, picture, reference, mask, id_embed } = self.found(row)?;
        let (weight, drops) = (fields.weight.unwrap_or(1.0), fields.drops());
        let text = fields.text.unwrap_or_default();
        Ok(Sample { key, text, weight, drops, picture, reference, mask, id_embed })
    }

    /// What splits and digests go by: `image_file` as listed, or the key in its shard.
    ///
    /// # Errors
    /// As [`Dataset::sample`].
    pub fn key(&self, row: usize) -> Result<String, DataError> {
        Ok(self.found(row)?.key)
    }

    /// A row's picture, upright.
    ///
    /// # Errors
    /// [`DataError`] naming list, row and file.
    pub fn picture(&self, row: usize) -> Result<RgbImage, DataError> {
        self.sample(row)?.picture.picture().map_err(|fault| self.in_row(row, fault))
    }

    /// The fault of a row's file with list and row; others have them.
    pub(crate) fn in_row(&self, row: usize, fault: DataError) -> DataError {
        match fault {
            DataError::File(_) | DataError::Image(_) | DataError::TooLarge { .. } => {
                DataError::Picture { path: self.path.clone(), row, source: Box::new(fault) }
            }
            fault => fault,
        }
    }

    /// Holds out about this share of the rows, by a digest of their keys alone: rows that are added, moved or taken
    /// away change the part of no other, and of two shares the smaller's rows are among the larger's. Of few rows that
    /// may be none or all: one is held out then, or one is left to learn from.
    pub fn split(&self, held_out: f64) -> Split {
        let mut below = (held_out.clamp(0.0, 1.0) * 2f64.powi(32)) as u64;
        let hashes = || self.hashes.iter().map(|&hash| u64::from(hash));
        if held_out > 0.0 && held_out < 1.0 && self.len() > 1 {
            let (lowest, highest) = (hashes().min().unwrap_or_default(), hashes().max().unwrap_or_default());
            below = below.max(lowest + 1).min(highest);
        }
        let (held_out, train) = (0..self.len() as u32).partition(|&row| u64::from(self.hashes[row as usize]) < below);
        Split { train, held_out }
    }

    /// `rows` by a digest of their keys: the first of them are a sample of all, whatever the order of the list.
    pub(crate) fn sampled(&self, rows: &[u32]) -> Vec<u32> {
        let mut sampled = rows.to_vec();
        sampled.sort_by_key(|&row| (self.hashes[row as usize], row));
        sampled
    }

    /// `rows` in the order of an epoch, which depends on nothing but them, `seed` and `epoch`. Rows of a list come in
    /// any order; those of eight shards at a time are mixed, so that few shards are read at once.
    pub fn order(&self, rows: &[u32], seed: u64, epoch: u64) -> Vec<u32> {
        match &self.rows {
            Rows::Shards(shards) => shards.order(rows, seed, epoch),
            _ => {
                let order = Draws::counted(seed, "order", epoch).permutation(rows.len());
                order.into_iter().map(|place| rows[place]).collect()
            }
        }
    }

    /// SHA-256 of all rows in their order: keys, captions and fields that matter; of shards names, sizes and times of
    /// all files. The bytes of pictures are not in it ([`Source::digest`]).
    ///
    /// # Errors
    /// As [`Dataset::sample`].
    pub fn digest(&self) -> Result<String, DataError> {
        let mut hasher = Sha256::new();
        if let Rows::Shards(shards) = &self.rows {
            shards.digests().for_each(|digest| hasher.update(digest));
        } else {
            let fields = |row| -> Result<Vec<u8>, DataError> {
                Ok(serde_json::to_vec(&self.found(row)?.fields).expect("plain fields are always JSON"))
            };
            for start in (0..self.len()).step_by(ROWS_AT_ONCE) {
                let rows = start..self.len().min(start + ROWS_AT_ONCE);
                let fields: Vec<Vec<u8>> = rows.into_par_iter().map(fields).collect::<Result<_, _>>()?;
                fields.iter().for_each(|fields| hasher.update(fields));
            }
        }
        Ok(source::hex(&hasher.finalize()))
    }

    fn found(&self, row: usize) -> Result<Found, DataError> {
        let found = match &self.rows {
            Rows::List(list) => list.row(row),
            Rows::Lines(lines) => lines.row(row),
            Rows::Shards(shards) => shards.row(row),
        }?;
        match key_hash(&found.key) == self.hashes[row] {
            true => Ok(found),
            false => Err(DataError::Changed { path: self.path.clone() }),
        }
    }
}

fn shards((shards, hashes): (Shards, Vec<u32>)) -> (Rows, Vec<u32>) {
    (Rows::Shards(shards), hashes)
}

/// The first bits of a key's digest.
fn key_hash(key: &str) -> u32 {
    let digest = Sha256::digest(key.as_bytes());
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

#[cfg(test)]
mod tests;
