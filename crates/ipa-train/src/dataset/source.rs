//! Bytes of a dataset, wherever they lie.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use image::RgbImage;
use ipa_clip::preprocess::{MAX_IMAGE_BYTES, decode_image, image_size};
use ipa_formats::{FormatError, read_vectors};
use sha2::{Digest as _, Sha256};

use super::DataError;

/// As much of a picture as mostly has its size and orientation.
const HEADER_BYTES: u64 = 1 << 16;
/// Captions and the fields of a sample are no longer than this.
pub(super) const MAX_TEXT_BYTES: u64 = 1 << 20;
/// Identity vectors take less.
const MAX_VECTOR_BYTES: u64 = 1 << 22;

/// A file, or a file within a tar file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// A part of a tar file.
    Part {
        /// The tar file.
        file: PathBuf,
        /// What the part is called there.
        name: String,
        /// Where it begins.
        offset: u64,
        /// How long it is.
        len: u64,
    },
}

impl Source {
    /// What errors call it: the file's path, or the tar file's with the part's name.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            Self::Part { file, name, .. } => file.join(name),
        }
    }

    /// All of it; pictures are the largest that is read.
    ///
    /// # Errors
    /// [`DataError`] naming the file.
    pub fn bytes(&self) -> Result<Vec<u8>, DataError> {
        self.bytes_of("picture", MAX_IMAGE_BYTES)
    }

    /// A picture, upright; limits as those of [`ipa_clip::load_image`].
    ///
    /// # Errors
    /// [`DataError`] naming the file.
    pub fn picture(&self) -> Result<RgbImage, DataError> {
        Ok(decode_image(&self.bytes()?, &self.path())?)
    }

    /// Width and height of a picture, upright, mostly from its first bytes.
    ///
    /// # Errors
    /// [`DataError`] naming the file; damage behind the header is not seen.
    pub fn dimensions(&self) -> Result<(u32, u32), DataError> {
        let start = self.start(HEADER_BYTES)?;
        let path = self.path();
        if !is_webp(&start)
            && let Ok(size) = image_size(&start, &path)
        {
            return Ok(size);
        }
        Ok(image_size(&self.bytes()?, &path)?)
    }

    /// SHA-256 of all of it as 64 lower-case hexadecimal digits.
    ///
    /// # Errors
    /// [`DataError`] naming the file.
    pub fn digest(&self) -> Result<String, DataError> {
        match self {
            Self::File(path) => Ok(ipa_formats::sha256_file(path)?),
            Self::Part { .. } => Ok(hex(&Sha256::digest(self.bytes()?))),
        }
    }

    /// Identity vectors, one a face, as [`read_vectors`] reads them.
    ///
    /// # Errors
    /// [`DataError`] naming the file.
    pub fn id_embeds(&self) -> Result<Vec<Vec<f32>>, DataError> {
        let vectors = match self {
            Self::File(path) => read_vectors(path)?,
            Self::Part { .. } => {
                let bytes = self.bytes_of("file of identity vectors", MAX_VECTOR_BYTES)?;
                read_part(&bytes).map_err(|error| renamed(error, self.path()))?
            }
        };
        Ok(vectors.data.chunks(vectors.width).map(<[f32]>::to_vec).collect())
    }

    /// All of a text file.
    pub(super) fn text(&self) -> Result<String, DataError> {
        String::from_utf8(self.bytes_of("text", MAX_TEXT_BYTES)?).map_err(|_| DataError::Entry {
            path: self.path(),
            entry: "text".to_owned(),
            problem: "is not UTF-8: save it as UTF-8",
        })
    }

    fn bytes_of(&self, what: &'static str, max: u64) -> Result<Vec<u8>, DataError> {
        let len = self.len()?;
        if len > max {
            return Err(DataError::TooLarge { path: self.path(), len, max, what });
        }
        self.start(len)
    }

    fn len(&self) -> Result<u64, DataError> {
        match self {
            Self::Part { len, .. } => Ok(*len),
            Self::File(path) => {
                let about = path.metadata().map_err(|source| FormatError::Read { path: path.clone(), source })?;
                match about.is_file() {
                    true => Ok(about.len()),
                    false => Err(FormatError::NotAFile { path: path.clone() }.into()),
                }
            }
        }
    }

    /// The first `max` bytes, or all if there are fewer.
    fn start(&self, max: u64) -> Result<Vec<u8>, DataError> {
        let len = self.len()?.min(max);
        let (path, offset) = match self {
            Self::File(path) => (path, 0),
            Self::Part { file, offset, .. } => (file, *offset),
        };
        read_at(path, offset, len)
    }
}

/// A part of a file; what is no longer there, because it became shorter, is an error.
pub(super) fn read_at(path: &Path, offset: u64, len: u64) -> Result<Vec<u8>, DataError> {
    let read = || {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::with_capacity(len as usize);
        file.take(len).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|source| FormatError::Read { path: path.to_owned(), source })?;
    match bytes.len() as u64 == len {
        true => Ok(bytes),
        false => Err(DataError::Changed { path: path.to_owned() }),
    }
}

pub(super) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_webp(start: &[u8]) -> bool {
    start.starts_with(b"RIFF")
}

/// The reader of vectors maps files.
fn read_part(bytes: &[u8]) -> Result<ipa_formats::Vectors, FormatError> {
    let failed = |source| FormatError::Write { path: std::env::temp_dir(), source };
    let mut file = tempfile::NamedTempFile::new().map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    read_vectors(file.path())
}

fn renamed(error: FormatError, name: PathBuf) -> FormatError {
    match error {
        FormatError::Vectors { problem, .. } => FormatError::Vectors { path: name, problem },
        error => error,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn fixtures() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/preprocess")
    }

    /// A file between other bytes, as in a tar file.
    fn within_another(path: &Path) -> (tempfile::TempDir, Source) {
        let folder = tempfile::tempdir().unwrap();
        let bytes = std::fs::read(path).unwrap();
        let file = folder.path().join("shard.tar");
        std::fs::write(&file, [&[7; 100], &bytes[..], &[9; 50]].concat()).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (folder, Source::Part { file, name, offset: 100, len: bytes.len() as u64 })
    }

    #[test]
    fn headers_tell_the_size_that_the_picture_has() {
        let mut tried = 0;
        for entry in std::fs::read_dir(fixtures().join("files")).unwrap() {
            let whole = Source::File(entry.unwrap().path());
            let (_folder, part) = within_another(&whole.path());
            let picture = whole.picture().unwrap();
            assert_eq!(whole.dimensions().unwrap(), picture.dimensions(), "{whole:?}");
            assert_eq!(part.dimensions().unwrap(), picture.dimensions(), "{whole:?}");
            assert!(part.picture().unwrap() == picture);
            assert_eq!(part.digest().unwrap(), whole.digest().unwrap());
            tried += 1;
        }
        assert!(tried > 8);
    }

    #[test]
    fn vectors_come_from_files_and_parts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("face.npy");
        let header = format!("{:117}\n", "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }");
        let numbers = [1f32, 2., 3., 4.].map(f32::to_le_bytes).concat();
        std::fs::write(&path, [b"\x93NUMPY\x01\x00\x76\x00", header.as_bytes(), &numbers].concat()).unwrap();
        let (_folder, part) = within_another(&path);
        for source in [Source::File(path), part] {
            assert_eq!(source.id_embeds().unwrap(), [[1., 2.], [3., 4.]]);
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let told = |source: Source| source.bytes().unwrap_err().to_string();
        assert!(told(Source::File(folder.path().join("lost.png"))).contains("lost.png"));
        assert!(told(Source::File(folder.path().into())).contains("not a regular file"));
        let file = folder.path().join("shard.tar");
        std::fs::write(&file, "short").unwrap();
        let part = |len| Source::Part { file: file.clone(), name: "a.jpg".into(), offset: 3, len };
        assert!(told(part(3)).contains("shard.tar changed"));
        assert!(told(part(u64::MAX)).contains("a.jpg has"));
        let error = part(2).id_embeds().unwrap_err().to_string();
        assert!(error.contains("shard.tar") && error.contains("a.jpg"), "{error}");
    }
}
