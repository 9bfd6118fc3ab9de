//! Tar files in the WebDataset convention. Of each only its number of samples stays in memory; where these lie, of
//! those read last.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ipa_core::noise::Draws;
use rayon::prelude::*;

use super::row::Fields;
use super::shard_index::{Part, ShardIndex, ShardSample};
use super::{DataError, Faults, Found, Place, Source, key_hash};

/// Shards whose rows are mixed; as many are kept open.
const GROUP: usize = 8;
/// No range of shards is longer.
const MAX_SHARDS: u64 = 1_000_000;

/// Shards and where their rows begin.
#[derive(Debug)]
pub(super) struct Shards {
    shards: Vec<Shard>,
    /// First row of each, and behind the last the number of rows.
    starts: Vec<u32>,
    /// The last ones read, the latest at the end.
    recent: Mutex<Vec<(usize, Arc<ShardIndex>)>>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    digest: [u8; 32],
}

impl Shards {
    /// Reads the headers of all shards; leaves out those whose faults are taken.
    pub(super) fn open(path: &Path, files: Vec<PathBuf>, faults: Faults) -> Result<(Self, Vec<u32>), DataError> {
        let summary = |file: PathBuf| {
            let index = ShardIndex::read(&file)?;
            let hashes: Vec<u32> = index.samples.iter().map(|sample| key_hash(&sample.key)).collect();
            Ok((Shard { path: file, digest: index.digest }, hashes))
        };
        let read: Vec<Result<_, DataError>> = files.into_par_iter().map(summary).collect();
        let (mut shards, mut starts, mut hashes) = (Vec::new(), vec![0], Vec::new());
        for shard in read {
            match shard {
                Ok((shard, of_shard)) => {
                    shards.push(shard);
                    hashes.extend(of_shard);
                    starts.push(u32::try_from(hashes.len()).map_err(|_| DataError::TooMany { path: path.into() })?);
                }
                Err(fault) => faults(fault)?,
            }
        }
        Ok((Self { shards, starts, recent: Mutex::default() }, hashes))
    }

    pub(super) fn row(&self, row: usize) -> Result<Found, DataError> {
        let shard = self.shard_of(row as u32);
        let index = self.index(shard)?;
        let sample = &index.samples[row - self.starts[shard] as usize];
        found(&self.shards[shard].path, sample)
    }

    /// What tells these shards from others: the names, sizes and times of all files in them.
    pub(super) fn digests(&self) -> impl Iterator<Item = &[u8; 32]> {
        self.shards.iter().map(|shard| &shard.digest)
    }

    /// Rows in a random order in which few shards are read at a time: shards shuffled, the rows of each few mixed.
    pub(super) fn order(&self, rows: &[u32], seed: u64, epoch: u64) -> Vec<u32> {
        let mut by_shard = vec![Vec::new(); self.shards.len()];
        rows.iter().for_each(|&row| by_shard[self.shard_of(row)].push(row));
        let shards = Draws::counted(seed, "shards", epoch).permutation(self.shards.len());
        let mut draws = Draws::counted(seed, "order", epoch);
        let mix = |group: &[usize]| {
            let group: Vec<u32> = group.iter().flat_map(|&shard| &by_shard[shard]).copied().collect();
            let order = draws.permutation(group.len());
            order.into_iter().map(|place| group[place]).collect::<Vec<_>>()
        };
        shards.chunks(GROUP).flat_map(mix).collect()
    }

    fn shard_of(&self, row: u32) -> usize {
        self.starts.partition_point(|&start| start <= row) - 1
    }

    fn index(&self, shard: usize) -> Result<Arc<ShardIndex>, DataError> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = recent.iter().position(|(kept, _)| *kept == shard) {
            let kept = recent.remove(place);
            recent.push(kept);
        } else {
            let Shard { path, digest } = &self.shards[shard];
            let index = ShardIndex::read(path)?;
            if index.digest != *digest {
                return Err(DataError::Changed { path: path.clone() });
            }
            let full = recent.len() >= GROUP;
            recent.drain(..usize::from(full));
            recent.push((shard, Arc::new(index)));
        }
        Ok(Arc::clone(&recent[recent.len() - 1].1))
    }
}

fn found(path: &Path, sample: &ShardSample) -> Result<Found, DataError> {
    let place = Place::Sample(sample.key.clone());
    let source = |part| {
        let location = sample.location(part)?;
        let name = format!("{}.{}", sample.key, location.ending);
        Some(Source::Part { file: path.into(), name, offset: location.offset, len: location.len })
    };
    let mut fields = match source(Part::Json) {
        Some(json) => serde_json::from_str::<Fields>(&json.text()?).map_err(|source| DataError::Line {
            path: path.into(),
            place: place.clone(),
            source,
        })?,
        None => Fields::default(),
    };
    if let Some((field, _)) = fields.other_files().into_iter().find(|(_, file)| file.is_some()) {
        let problem = "names a file outside: put it into the shard, ending in .reference.png, .mask.png or .id.npy";
        return Err(DataError::Field { path: path.into(), place, field, problem: problem.to_owned() });
    }
    if let Some(text) = source(Part::Text) {
        fields.text = Some(text.text()?.trim().to_owned());
    }
    fields.check(path, &place)?;
    let picture = source(Part::Picture).ok_or_else(|| DataError::Changed { path: path.into() })?;
    let [reference, mask, id_embed] = [Part::Reference, Part::Mask, Part::IdEmbed].map(source);
    Ok(Found { key: sample.key.clone(), fields, picture, reference, mask, id_embed })
}

/// The files that a name with a range such as `shard-{000000..000199}.tar` stands for; the start's zeros are kept.
pub(super) fn expand(path: &Path) -> Result<Vec<PathBuf>, DataError> {
    let fault = || DataError::Range { path: path.into() };
    let text = path.to_str().ok_or_else(fault)?;
    let (before, rest) = text.split_once('{').ok_or_else(fault)?;
    let (range, after) = rest.split_once('}').ok_or_else(fault)?;
    let (first, last) = range.split_once("..").ok_or_else(fault)?;
    let number = |digits: &str| match digits.bytes().all(|byte| byte.is_ascii_digit()) {
        true => digits.parse::<u64>().map_err(|_| fault()),
        false => Err(fault()),
    };
    let (start, end) = (number(first)?, number(last)?);
    if end < start || end - start >= MAX_SHARDS || after.contains('{') {
        return Err(fault());
    }
    let width = first.len();
    Ok((start..=end).map(|number| format!("{before}{number:0width$}{after}").into()).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ranges_stand_for_every_number_with_its_zeros() {
        let files = expand(Path::new("dir/shard-{008..011}.tar")).unwrap();
        let names = ["008", "009", "010", "011"].map(|number| PathBuf::from(format!("dir/shard-{number}.tar")));
        assert_eq!(files, names);
        for wrong in ["a{1..}.tar", "a{2..1}.tar", "a{1..2", "a{x..2}.tar", "a{0..9999999999}.tar", "{0..1}{0..1}.tar"]
        {
            assert!(expand(Path::new(wrong)).unwrap_err().to_string().contains("expected one range"), "{wrong}");
        }
    }
}
