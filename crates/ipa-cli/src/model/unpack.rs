//! The pocket model inside the program, unpacked once into the user's cache folder: libraries map weights from files.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use include_dir::{Dir, include_dir};
use sha2::{Digest as _, Sha256};

static MODEL: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/../../assets/pocket");

/// Bytes of the digest in the folder's name.
const NAME_BYTES: usize = 8;

/// A file's path in the model's folder, and its contents.
type Embedded = (&'static Path, &'static [u8]);

/// Whether the program was built with the weights at hand.
pub(super) fn is_there() -> bool {
    MODEL.contains("model_index.json")
}

/// The model's folder in the user's cache; unpacked first if it is not there, or not whole.
///
/// # Errors
/// If the user has no cache folder or it cannot be written.
pub(super) fn unpacked() -> Result<PathBuf> {
    let cache = dirs::cache_dir().context("this user has no cache folder: set HOME or XDG_CACHE_HOME")?.join("ipa");
    let files = files(&MODEL);
    let folder = cache.join(format!("pocket-model-{}", digest(&files)));
    if !is_whole(&folder, &files) {
        unpack(&files, &folder).with_context(|| {
            format!(
                "cannot unpack the pocket model into {}: set XDG_CACHE_HOME to a folder with space",
                folder.display()
            )
        })?;
    }
    Ok(folder)
}

fn files(dir: &Dir<'static>) -> Vec<Embedded> {
    let own = dir.files().map(|file| (file.path(), file.contents()));
    own.chain(dir.dirs().flat_map(files)).collect()
}

/// A name for exactly these files: another version of the model gets another folder.
fn digest(files: &[Embedded]) -> String {
    let mut hasher = Sha256::new();
    for (path, contents) in files {
        let path = path.to_string_lossy().replace('\\', "/");
        for part in [path.as_bytes(), contents] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
    }
    hasher.finalize().iter().take(NAME_BYTES).map(|byte| format!("{byte:02x}")).collect()
}

/// Whether no file was lost since, as cleaners of cache folders do.
fn is_whole(folder: &Path, files: &[Embedded]) -> bool {
    let has = |(path, contents): &Embedded| {
        fs::metadata(folder.join(path)).is_ok_and(|found| found.is_file() && found.len() == contents.len() as u64)
    };
    files.iter().all(has)
}

/// Fills a folder beside `folder` and renames it: whatever interrupts this, `folder` is whole or not there.
fn unpack(files: &[Embedded], folder: &Path) -> io::Result<()> {
    let cache = folder.parent().expect("it lies in the cache folder");
    fs::create_dir_all(cache)?;
    let temporary = tempfile::Builder::new().prefix(".pocket-model-").tempdir_in(cache)?; // removed when dropped
    let (filled, aside) = (temporary.path().join("filled"), temporary.path().join("aside"));
    for (path, contents) in files {
        let path = filled.join(path);
        fs::create_dir_all(path.parent().expect("it lies in a folder"))?;
        let mut file = File::create(path)?;
        file.write_all(contents)?;
        file.sync_all()?;
    }
    if folder.exists() && !is_whole(folder, files) {
        fs::rename(folder, aside)?;
    }
    match fs::rename(&filled, folder) {
        Err(_) if is_whole(folder, files) => Ok(()), // another process was faster
        result => result,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn two() -> Vec<Embedded> {
        vec![(Path::new("model_index.json"), b"{}"), (Path::new("unet/config.json"), b"{ }")]
    }

    #[test]
    fn unpacking_is_whole_and_leaves_nothing_beside() {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join("pocket-model-1");
        for _ in 0..2 {
            unpack(&two(), &folder).unwrap();
            assert_eq!(fs::read(folder.join("unet/config.json")).unwrap(), b"{ }");
            assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_folder_that_lost_a_file_is_made_again() {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join("pocket-model-1");
        unpack(&two(), &folder).unwrap();
        fs::write(folder.join("unet/config.json"), "").unwrap();
        assert!(!is_whole(&folder, &two()));
        unpack(&two(), &folder).unwrap();
        assert!(is_whole(&folder, &two()));
    }

    #[test]
    fn other_contents_have_another_digest() {
        let mut other = two();
        other[1].1 = b"[ ]";
        assert_ne!(digest(&two()), digest(&other));
        assert_eq!(digest(&two()).len(), 2 * NAME_BYTES);
    }
}
