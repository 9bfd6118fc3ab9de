//! Digests by which the hub names files, and by which they are told from damaged ones.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

const BUFFER_BYTES: usize = 1 << 18;

/// A file's digest as the hub gives it and as its blob in the cache is named.
///
/// Large files (LFS or Xet) have the SHA-256 of their bytes, all others git's name of the blob: SHA-1 over its kind, its
/// length and its bytes. Only lower-case hexadecimal digits get in here, so that a digest is a safe file name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Etag {
    Sha256(String),
    GitSha1(String),
}

impl Etag {
    /// `None` unless it is 64 or 40 lower-case hexadecimal digits.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.len() {
            _ if !is_hex(text) => None,
            64 => Some(Self::Sha256(text.to_owned())),
            40 => Some(Self::GitSha1(text.to_owned())),
            _ => None,
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Sha256(hex) | Self::GitSha1(hex) => hex,
        }
    }

    /// Begins a digest of this kind over a file of `size` bytes.
    pub(crate) fn hasher(&self, size: u64) -> Hasher {
        match self {
            Self::Sha256(_) => Hasher::Sha256(Sha256::new()),
            Self::GitSha1(_) => Hasher::GitSha1(Sha1::new().chain_update(format!("blob {size}\0"))),
        }
    }

    /// Whether a file of the disk is what this digest names.
    pub(crate) fn matches(&self, path: &Path) -> io::Result<bool> {
        let mut file = File::open(path)?;
        let mut hasher = self.hasher(file.metadata()?.len());
        read_into(&mut hasher, &mut file)?;
        Ok(hasher.finish() == self.as_str())
    }
}

/// Whether a text is made of lower-case hexadecimal digits.
pub(crate) fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A digest that is being computed.
#[derive(Debug, Clone)]
pub(crate) enum Hasher {
    Sha256(Sha256),
    GitSha1(Sha1),
}

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::GitSha1(hasher) => hasher.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> String {
        match self {
            Self::Sha256(hasher) => hex(&hasher.finalize()),
            Self::GitSha1(hasher) => hex(&hasher.finalize()),
        }
    }
}

/// Adds all that is left of a file.
pub(crate) fn read_into(hasher: &mut Hasher, file: &mut File) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(interrupted) if interrupted.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().fold(String::with_capacity(2 * digest.len()), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a string takes any text");
        hex
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_git_and_the_standard() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hello");
        std::fs::write(&path, "hello\n").unwrap();
        let git = Etag::parse("ce013625030ba8dba906f756967f9e9ca394464a").unwrap(); // `git hash-object` of the same
        let lfs = Etag::parse("5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03").unwrap();
        assert!(git.matches(&path).unwrap() && lfs.matches(&path).unwrap());
        std::fs::write(&path, "hello").unwrap();
        assert!(!git.matches(&path).unwrap() && !lfs.matches(&path).unwrap());
    }

    #[test]
    fn nothing_but_a_digest_becomes_a_name() {
        for name in ["", "abc", "../../../../../../../../../../../../etcpasswd", &"A".repeat(64), &"g".repeat(40)] {
            assert_eq!(Etag::parse(name), None, "{name}");
        }
    }
}
