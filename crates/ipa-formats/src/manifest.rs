//! Lists of files with their digests, as `sha256sum` writes and reads them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::Serialize;

use crate::{FormatError, read_text, sha256_file};

/// Hexadecimal digits of a SHA-256.
const DIGITS: usize = 64;
/// Folders deeper than any model's.
const MAX_DEPTH: usize = 16;

/// SHA-256 of files by their paths, which are relative to one folder.
///
/// ```
/// use ipa_formats::{Manifest, Verdict};
///
/// let folder = tempfile::tempdir()?;
/// std::fs::write(folder.path().join("a.txt"), "a")?;
/// let manifest = Manifest::of(folder.path(), |_| ())?;
/// assert!(manifest.to_string().ends_with("  a.txt\n"));
///
/// std::fs::write(folder.path().join("a.txt"), "b")?;
/// let checked = manifest.verify(folder.path(), |_| ());
/// assert!(matches!(checked[0].verdict, Verdict::Differs { .. }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Manifest {
    digests: BTreeMap<PathBuf, String>,
}

/// A file of a manifest, looked at again.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Verified {
    /// Its path in the manifest.
    pub file: PathBuf,
    /// What was found.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// What a file is compared with what a manifest says of it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// The same bytes.
    Same,
    /// Other bytes.
    Differs {
        /// The digest that was recorded.
        recorded: String,
        /// That of the file now.
        found: String,
    },
    /// No such file.
    Missing,
    /// A file that cannot be read to its end.
    Unreadable {
        /// The system's reason.
        reason: String,
    },
}

impl Manifest {
    /// Digests of a file, or of every file in a folder and those below; hidden ones are left out. `read` is told each
    /// file's length when it is done.
    ///
    /// # Errors
    /// [`FormatError::Read`], [`FormatError::NotAFile`]; [`FormatError::Unlistable`] for a name that is no line of text.
    pub fn of(path: &Path, mut read: impl FnMut(u64)) -> Result<Self, FormatError> {
        let mut digests = BTreeMap::new();
        let (folder, files) = match path.is_dir() {
            true => (path, files_below(path, MAX_DEPTH)?),
            false => (path.parent().unwrap_or(Path::new("")), vec![path.to_owned()]),
        };
        for file in files {
            let name = file.strip_prefix(folder).unwrap_or(&file).to_owned();
            if name.to_str().is_none_or(|name| name.contains(['\n', '\r', '\\'])) {
                return Err(FormatError::Unlistable { path: file });
            }
            digests.insert(name, sha256_file(&file)?);
            read(fs::metadata(&file).map_or(0, |found| found.len()));
        }
        Ok(Self { digests })
    }

    /// Length in bytes of all that [`Manifest::of`] reads.
    ///
    /// # Errors
    /// As [`Manifest::of`].
    pub fn num_bytes_of(path: &Path) -> Result<u64, FormatError> {
        let files = if path.is_dir() { files_below(path, MAX_DEPTH)? } else { vec![path.to_owned()] };
        let length = |file: &PathBuf| fs::metadata(file).map(|found| found.len());
        files
            .iter()
            .map(length)
            .sum::<Result<_, _>>()
            .map_err(|source| FormatError::Read { path: path.to_owned(), source })
    }

    /// Reads a list of lines `<64 digits>  <path>`.
    ///
    /// # Errors
    /// [`FormatError::Read`]; [`FormatError::Manifest`] for other lines, the same path twice, and paths that lead out of
    /// the folder.
    pub fn read(path: &Path) -> Result<Self, FormatError> {
        let mut digests = BTreeMap::new();
        for (number, line) in read_text(path)?.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let fault = |problem| FormatError::Manifest { path: path.to_owned(), line: number + 1, problem };
            let (digest, file) = entry(line).ok_or_else(|| fault("is not a SHA-256 and a path"))?;
            if !stays_inside(&file) {
                return Err(fault("names a file outside of the manifest's folder"));
            }
            if digests.insert(file, digest).is_some() {
                return Err(fault("names a file for the second time"));
            }
        }
        Ok(Self { digests })
    }

    /// Number of files.
    pub fn len(&self) -> usize {
        self.digests.len()
    }

    /// Whether it lists no file.
    pub fn is_empty(&self) -> bool {
        self.digests.is_empty()
    }

    /// Compares the files below a folder with what is recorded; sorted by path. `done` is called after each.
    pub fn verify(&self, folder: &Path, mut done: impl FnMut(&Verified)) -> Vec<Verified> {
        let look = |(file, recorded): (&PathBuf, &String)| {
            let verified = Verified { file: file.clone(), verdict: verdict(&folder.join(file), recorded) };
            done(&verified);
            verified
        };
        self.digests.iter().map(look).collect()
    }
}

impl fmt::Display for Manifest {
    /// A line a file, as `sha256sum` writes them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.digests.iter().try_for_each(|(file, digest)| writeln!(f, "{digest}  {}", slashed(file)))
    }
}

fn verdict(file: &Path, recorded: &str) -> Verdict {
    if !file.exists() {
        return Verdict::Missing;
    }
    match sha256_file(file) {
        Ok(found) if found == recorded => Verdict::Same,
        Ok(found) => Verdict::Differs { recorded: recorded.to_owned(), found },
        Err(error) => Verdict::Unreadable {
            reason: std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string),
        },
    }
}

/// A line's digest and path; `*` before the path says that the file is not text.
fn entry(line: &str) -> Option<(String, PathBuf)> {
    let (digest, rest) = line.split_at_checked(DIGITS)?;
    let file = rest.strip_prefix("  ").or_else(|| rest.strip_prefix(" *")).filter(|file| !file.is_empty())?;
    let is_digest = digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_digest.then(|| (digest.to_ascii_lowercase(), PathBuf::from(file)))
}

fn stays_inside(file: &Path) -> bool {
    file.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

/// A path as every system reads it.
fn slashed(path: &Path) -> String {
    let parts: Vec<_> = path.components().map(|part| part.as_os_str().to_string_lossy()).collect();
    parts.join("/")
}

/// The files in a folder and below, sorted; links are followed to files, not into folders.
fn files_below(folder: &Path, depth: usize) -> Result<Vec<PathBuf>, FormatError> {
    let read = |source| FormatError::Read { path: folder.to_owned(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(read)? {
        let entry = entry.map_err(read)?;
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        match entry.file_type().map_err(read)? {
            kind if kind.is_dir() && depth > 0 => files.extend(files_below(&path, depth - 1)?),
            _ if path.is_file() => files.push(path),
            _ => {}
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn made() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("unet")).unwrap();
        for (name, text) in [("b.txt", "b"), ("unet/a.txt", "abc"), (".hidden", "x")] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    #[test]
    fn what_was_written_is_read() {
        let folder = made();
        let mut read = 0;
        let manifest = Manifest::of(folder.path(), |bytes| read += bytes).unwrap();
        assert_eq!((manifest.len(), read, Manifest::num_bytes_of(folder.path()).unwrap()), (2, 4, 4));
        let list = folder.path().join("list");
        fs::write(&list, manifest.to_string()).unwrap();
        assert_eq!(Manifest::read(&list).unwrap(), manifest);
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  unet/a.txt\n";
        assert!(manifest.to_string().ends_with(known), "{manifest}");
        fs::write(&list, known.to_uppercase().replace("  UNET/A.TXT", " *./unet/a.txt")).unwrap();
        assert_eq!(Manifest::read(&list).unwrap().verify(folder.path(), |_| ())[0].verdict, Verdict::Same);
        let one = Manifest::of(&folder.path().join("b.txt"), |_| ()).unwrap();
        assert!(one.to_string().ends_with("  b.txt\n"));
    }

    #[test]
    fn changes_are_found() {
        let folder = made();
        let manifest = Manifest::of(folder.path(), |_| ()).unwrap();
        fs::write(folder.path().join("b.txt"), "B").unwrap();
        fs::remove_file(folder.path().join("unet/a.txt")).unwrap();
        fs::create_dir(folder.path().join("unet/a.txt")).unwrap();
        let found: Vec<Verdict> = manifest.verify(folder.path(), |_| ()).into_iter().map(|file| file.verdict).collect();
        assert!(matches!(&found[..], [Verdict::Differs { .. }, Verdict::Unreadable { .. }]), "{found:?}");
        fs::remove_dir_all(folder.path().join("unet")).unwrap();
        assert_eq!(manifest.verify(folder.path(), |_| ())[1].verdict, Verdict::Missing);
    }

    #[test]
    fn lists_of_something_else_are_refused_by_line() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("list");
        let digest = "0".repeat(DIGITS);
        for (second, problem) in [
            ("no digest  a".to_owned(), "line 2"),
            (format!("{digest} a"), "line 2"),
            (format!("{digest}  "), "line 2"),
            (format!("{}  a", "g".repeat(DIGITS)), "line 2"),
            (format!("{digest}  ../../etc/passwd"), "outside"),
            (format!("{digest}  /etc/passwd"), "outside"),
            (format!("{digest}  first"), "second time"),
            ("é".repeat(DIGITS), "line 2"),
        ] {
            fs::write(&list, format!("{digest}  first\n{second}\n")).unwrap();
            let error = Manifest::read(&list).unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains("list"), "{error}");
        }
    }
}
