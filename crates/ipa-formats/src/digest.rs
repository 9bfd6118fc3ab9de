//! Digests that tell one file from another.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::FormatError;

const BUFFER_BYTES: usize = 1 << 18;

/// SHA-256 of a file's bytes as 64 lower-case hexadecimal digits.
///
/// # Errors
/// [`FormatError::Read`] if the file cannot be read to its end, [`FormatError::NotAFile`] for a folder, a pipe or a device.
pub fn sha256_file(path: &Path) -> Result<String, FormatError> {
    let read = |source| FormatError::Read { path: path.to_owned(), source };
    if !std::fs::metadata(path).map_err(read)?.is_file() {
        return Err(FormatError::NotAFile { path: path.to_owned() }); // reading those may never end
    }
    let digest = File::open(path).and_then(digest_of);
    Ok(hex(&digest.map_err(read)?))
}

/// SHA-256 of a text, as [`sha256_file`] writes it.
pub fn sha256_text(text: &str) -> String {
    sha256_bytes(text.as_bytes())
}

/// SHA-256 of bytes, as [`sha256_file`] writes it.
pub fn sha256_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(digest: &[u8]) -> String {
    digest.iter().fold(String::with_capacity(64), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a string takes any text");
        hex
    })
}

fn digest_of(mut file: File) -> io::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finalize().into()),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(interrupted) if interrupted.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_the_standard() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, "abc").unwrap(); // FIPS 180-2, appendix B.1
        assert_eq!(sha256_file(&path).unwrap(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_folder_has_no_digest() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(sha256_file(folder.path()), Err(FormatError::NotAFile { .. })));
    }
}
