//! Where what the frozen encoders computed is kept: in memory, in files, or nowhere.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ipa_core::tch::Tensor;
use ipa_core::{Checkpoint, save_tensors};
use ipa_formats::FormatError;

use crate::config::{Cache, DataSettings};
use crate::identity::hex_digest;

const GIB: f64 = (1_u64 << 30) as f64;
/// Of how rows are encoded: files of another are not found.
const VERSION: u32 = 1;
/// A full folder is emptied to this share, so that not every run finds it full.
const KEPT_SHARE: f64 = 0.8;

/// Tensors by what they were computed from.
#[derive(Debug)]
pub(crate) struct Store {
    kept: Kept,
    bytes: f64,
    most_bytes: f64,
}

#[derive(Debug)]
enum Kept {
    Memory(HashMap<String, Vec<Tensor>>),
    Disk(PathBuf),
    Nothing,
}

/// What tensors are computed from.
pub(crate) struct Origin<N, D> {
    /// A name of its own within this run.
    pub(crate) name: N,
    /// All that decides the tensors, of this run or another.
    pub(crate) origin: D,
}

impl Store {
    /// As the settings have it.
    ///
    /// # Errors
    /// [`FormatError`] if the folder cannot be used.
    pub(crate) fn new(settings: &DataSettings) -> Result<Self, FormatError> {
        let most_bytes = settings.cache_gib * GIB;
        let (kept, bytes) = match settings.cache {
            Cache::Memory => (Kept::Memory(HashMap::new()), 0.0),
            Cache::None => (Kept::Nothing, 0.0),
            Cache::Disk => {
                let folder = settings.cache_folder.clone().unwrap_or_else(|| PathBuf::from("."));
                fs::create_dir_all(&folder).map_err(|source| FormatError::Write { path: folder.clone(), source })?;
                let bytes = make_room(&folder, most_bytes);
                (Kept::Disk(folder), bytes)
            }
        };
        Ok(Self { kept, bytes, most_bytes })
    }

    /// What is kept under this name or origin, else what `make` gives, which is kept as long as there is room.
    ///
    /// A file that cannot be read or written costs its computation, not the run.
    ///
    /// # Errors
    /// Those of `make` and of `source.origin`.
    pub(crate) fn get<E>(
        &mut self,
        source: Origin<impl FnOnce() -> String, impl FnOnce() -> Result<String, E>>,
        make: impl FnOnce() -> Result<Vec<Tensor>, E>,
    ) -> Result<Vec<Tensor>, E> {
        match &mut self.kept {
            Kept::Nothing => make(),
            Kept::Memory(kept) => {
                let name = (source.name)();
                if let Some(tensors) = kept.get(&name) {
                    return Ok(shared(tensors));
                }
                let tensors = make()?;
                let size = size_of(&tensors);
                if self.bytes + size <= self.most_bytes {
                    self.bytes += size;
                    kept.insert(name, shared(&tensors));
                }
                Ok(tensors)
            }
            Kept::Disk(folder) => {
                let path = path_of(folder, &(source.origin)()?);
                if let Some(tensors) = read(&path) {
                    return Ok(tensors);
                }
                let tensors = make()?;
                let size = size_of(&tensors);
                if self.bytes + size > self.most_bytes && size <= self.most_bytes {
                    self.bytes = make_room(folder, self.most_bytes - size);
                }
                if self.bytes + size <= self.most_bytes && write(&path, &tensors).is_some() {
                    self.bytes += size;
                }
                Ok(tensors)
            }
        }
    }
}

fn shared(tensors: &[Tensor]) -> Vec<Tensor> {
    tensors.iter().map(Tensor::shallow_clone).collect()
}

fn size_of(tensors: &[Tensor]) -> f64 {
    tensors.iter().map(|tensor| (tensor.numel() * tensor.kind().elt_size_in_bytes()) as f64).sum()
}

/// A folder for every first byte: no file system likes a million files in one.
fn path_of(folder: &Path, origin: &str) -> PathBuf {
    let digest = hex_digest(format!("{VERSION} {origin}").as_bytes());
    folder.join(&digest[..2]).join(&digest[2..]).with_extension("safetensors")
}

/// Whole or not at all: files come to be by renaming, so that runs may share the folder.
fn read(path: &Path) -> Option<Vec<Tensor>> {
    if !path.is_file() {
        return None;
    }
    let checkpoint = Checkpoint::open(path).ok()?;
    // What is read stays longest; a folder that cannot be written to is read all the same.
    let _ = fs::File::options().append(true).open(path).and_then(|file| file.set_modified(SystemTime::now()));
    (0..).map_while(|index| checkpoint.tensor(&index.to_string()).ok()).map(|tensor| Some(tensor.copy())).collect()
}

fn write(path: &Path, tensors: &[Tensor]) -> Option<()> {
    fs::create_dir_all(path.parent()?).ok()?;
    let named = tensors.iter().enumerate().map(|(index, tensor)| (index.to_string(), tensor.shallow_clone()));
    save_tensors(path, named, None).ok()
}

/// Removes those files of a folder that is full that were read longest ago; gives the bytes that remain.
fn make_room(folder: &Path, most_bytes: f64) -> f64 {
    let mut files: Vec<(SystemTime, f64, PathBuf)> =
        folders(folder).iter().flat_map(|folder| entries(folder)).collect();
    let mut bytes: f64 = files.iter().map(|(_, size, _)| size).sum();
    if bytes < most_bytes {
        return bytes;
    }
    files.sort_by_key(|(read, _, _)| *read);
    for (_, size, path) in files {
        if bytes <= most_bytes * KEPT_SHARE {
            break;
        }
        if fs::remove_file(path).is_ok() {
            bytes -= size;
        }
    }
    bytes
}

/// The folders of first bytes: nothing else in the folder is the cache's.
fn folders(folder: &Path) -> Vec<PathBuf> {
    (0..256).map(|byte| folder.join(format!("{byte:02x}"))).filter(|folder| folder.is_dir()).collect()
}

fn entries(folder: &Path) -> Vec<(SystemTime, f64, PathBuf)> {
    let entry = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        let metadata = entry.metadata().ok()?;
        let is_ours = entry.path().extension().is_some_and(|ending| ending == "safetensors");
        is_ours.then(|| (metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), metadata.len() as f64, entry.path()))
    };
    fs::read_dir(folder).into_iter().flatten().filter_map(entry).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn settings(cache: Cache, folder: &Path, cache_gib: f64) -> DataSettings {
        DataSettings { cache, cache_folder: Some(folder.into()), cache_gib, ..DataSettings::default() }
    }

    /// Asks for a tensor of 256 bytes; tells whether it was made.
    fn is_made(store: &mut Store, number: i64) -> bool {
        let mut made = false;
        let source = Origin { name: || number.to_string(), origin: || Ok::<_, Infallible>(format!("origin {number}")) };
        let found = store.get(source, || {
            made = true;
            Ok(vec![Tensor::from_slice(&[number; 16]), Tensor::from_slice(&[0_i64; 16])])
        });
        assert_eq!(found.unwrap()[0], Tensor::from_slice(&[number; 16]));
        made
    }

    #[test]
    fn what_is_kept_is_not_made_again_and_no_more_is_kept_than_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        for (cache, kept) in [(Cache::Memory, true), (Cache::Disk, true), (Cache::None, false)] {
            let mut store = Store::new(&settings(cache, folder.path(), 300.0 / GIB)).unwrap();
            assert!(is_made(&mut store, 1));
            assert_eq!(is_made(&mut store, 1), !kept, "{cache:?}");
            if cache != Cache::Disk {
                assert!(is_made(&mut store, 2) && is_made(&mut store, 2), "{cache:?}");
            }
        }
    }

    #[test]
    fn files_serve_the_next_run_broken_ones_are_made_again_and_a_full_folder_loses_its_oldest() {
        let folder = tempfile::tempdir().unwrap();
        let open = |gib| Store::new(&settings(Cache::Disk, folder.path(), gib)).unwrap();
        assert!(is_made(&mut open(1.0), 1) && is_made(&mut open(1.0), 2));
        assert!(!is_made(&mut open(1.0), 1));
        let broken = path_of(folder.path(), "origin 2");
        fs::write(&broken, b"nothing").unwrap();
        assert!(is_made(&mut open(1.0), 2) && !is_made(&mut open(1.0), 2));
        let mut small = open(100.0 / GIB);
        assert!(is_made(&mut small, 1));
        assert!(!path_of(folder.path(), "origin 1").exists());
    }
}
