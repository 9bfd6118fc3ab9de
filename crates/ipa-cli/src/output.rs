//! What a command leaves behind: lines on standard output, and files and folders checked before the work begins.

use std::borrow::Cow;
use std::fmt::Display;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use image::RgbImage;
use ipa_formats::{FormatError, write_atomically};
use ipa_metrics::encode_png;
use serde::Serialize;

/// Writes a line to standard output.
///
/// # Errors
/// If nobody reads on; pass it up, the program then ends quietly. (`println!` would panic.)
pub(crate) fn line(text: impl Display) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", printable(&text.to_string()))?;
    stdout.flush()
}

/// A text without what a terminal would obey: names in strangers' files may hold anything.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(obeyed) {
        return text.into();
    }
    let shown = |c: char| if obeyed(c) { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

/// Writes lines that end as they should to standard output.
///
/// # Errors
/// As [`line`].
pub(crate) fn text(text: impl Display) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    write!(stdout, "{}", printable(&text.to_string()))?;
    stdout.flush()
}

/// Writes a value to standard output as one line of JSON.
///
/// # Errors
/// As [`line`].
pub(crate) fn json_line(value: &impl Serialize) -> io::Result<()> {
    line(serde_json::to_string(value)?)
}

/// Tells something that is no failure on standard error.
pub(crate) fn warn(text: impl Display) {
    let _ = writeln!(io::stderr(), "warning: {}", printable(&text.to_string())); // a closed standard error is no reason to stop
}

/// Whether two paths are one file that is there.
pub(crate) fn is_same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Checks that a file can be made at `path`, in a folder that may have to be made first. Nothing is left behind.
///
/// # Errors
/// [`FormatError`] naming the file.
pub(crate) fn check_file(path: &Path) -> Result<(), FormatError> {
    if path.is_dir() || path.file_name().is_none() {
        return Err(FormatError::NotAFile { path: path.to_owned() });
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    check_creatable(folder).map_err(|source| FormatError::Write { path: path.to_owned(), source })
}

/// Checks that files can be made in `folder`, which may have to be made first. Nothing is left behind.
///
/// # Errors
/// [`FormatError`] naming the folder.
pub(crate) fn check_folder(folder: &Path) -> Result<(), FormatError> {
    check_creatable(folder).map_err(|source| FormatError::Write { path: folder.to_owned(), source })
}

/// Tries a temporary file in the nearest folder above that is there.
fn check_creatable(folder: &Path) -> io::Result<()> {
    let existing = folder.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."));
    tempfile::tempfile_in(existing).map(drop)
}

/// Makes a folder with all above it.
///
/// # Errors
/// [`FormatError::Write`] naming the folder.
pub(crate) fn create_folder(folder: &Path) -> Result<(), FormatError> {
    fs::create_dir_all(folder).map_err(|source| FormatError::Write { path: folder.to_owned(), source })
}

/// Makes the folder that a file is to lie in.
///
/// # Errors
/// [`FormatError::Write`] naming the folder.
pub(crate) fn create_folder_of(file: &Path) -> Result<(), FormatError> {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => create_folder(folder),
        _ => Ok(()),
    }
}

/// Writes a picture that no request drew, such as a reference; what was drawn goes through `ipa_sample::write_picture`.
///
/// # Errors
/// [`FormatError::Write`] naming the file.
pub(crate) fn write_picture(path: &Path, picture: &RgbImage) -> Result<(), FormatError> {
    write_atomically(path, |file| file.write_all(&encode_png(picture)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_told_nothing_to_do() {
        assert_eq!(printable("a\u{1b}[31m\u{9b}b\r"), "a\\u{1b}[31m\\u{9b}b\\r");
        assert!(matches!(printable("two\n\tlines, é"), Cow::Borrowed(_)));
    }

    #[test]
    fn the_check_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        check_file(&folder.path().join("new/folder/out.png")).unwrap();
        check_folder(&folder.path().join("another/new")).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn folders_are_no_files_and_files_no_folders() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(check_file(folder.path()).is_err());
        assert!(check_file(&file.join("out.png")).is_err());
        assert!(check_folder(&file).is_err());
        check_file(&file).unwrap();
    }
}
