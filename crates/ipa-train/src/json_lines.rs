//! Files of one JSON object a line, kept beside checkpoints.

use std::fs;
use std::io;
use std::path::Path;

use ipa_formats::{FormatError, write_atomically};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Writes all lines anew: at any moment the file is whole.
pub(crate) fn write(path: &Path, lines: &[impl Serialize]) -> Result<(), FormatError> {
    write_atomically(path, |file| {
        lines.iter().try_for_each(|line| {
            serde_json::to_writer(&mut *file, line)?;
            file.write_all(b"\n")
        })
    })
}

/// All lines; none if there is no file.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, FormatError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(FormatError::Read { path: path.to_owned(), source }),
    };
    let line = |(index, line): (usize, &str)| {
        let failed = |source| FormatError::Json { path: path.to_owned(), field: format!("line {}", index + 1), source };
        serde_json::from_str(line).map_err(failed)
    };
    text.lines().enumerate().map(line).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_a_line_that_is_none_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("numbers.jsonl");
        assert_eq!(read::<f64>(&path).unwrap(), [0.0; 0]);
        write(&path, &[0.1, 1.0 / 3.0]).unwrap();
        assert_eq!(read::<f64>(&path).unwrap(), [0.1, 1.0 / 3.0]);
        fs::write(&path, "0.5\n{\n").unwrap();
        assert!(read::<f64>(&path).unwrap_err().to_string().contains("line 2"));
    }
}
