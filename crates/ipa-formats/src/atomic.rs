//! Whole files or none: how every output of the project reaches the disk.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::FormatError;

const BUFFER_BYTES: usize = 1 << 20;

/// Writes a file that is there completely or not at all, whatever interrupts it.
///
/// `write` fills a temporary file in the same folder, which is brought to the disk and then renamed
/// over `path`; a reader of the previous file (even through a memory map) keeps the previous file.
/// The new file has the permissions of any newly created file. A symbolic link stays a link and its
/// target is replaced.
///
/// # Errors
/// [`FormatError::NotAFile`] if a folder or a device has that path, [`FormatError::Write`] if the
/// system or `write` fails. No temporary file remains after either.
pub fn write_atomically(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), FormatError> {
    let target = target_of(path)?;
    replace(&target, write).map_err(|source| FormatError::Write { path: path.to_owned(), source })
}

fn target_of(path: &Path) -> Result<PathBuf, FormatError> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => Err(FormatError::NotAFile { path: path.to_owned() }),
        Ok(_) => fs::canonicalize(path).map_err(|source| FormatError::Write { path: path.to_owned(), source }),
        Err(_) => Ok(path.to_owned()),
    }
}

fn replace(target: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let folder = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".").suffix(".tmp");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666)); // less the umask, as for any new file
    }
    let temporary = builder.tempfile_in(folder)?; // removed when dropped
    let mut buffered = BufWriter::with_capacity(BUFFER_BYTES, temporary.as_file());
    write(&mut buffered)?;
    buffered.flush()?;
    drop(buffered);
    temporary.as_file().sync_all()?;
    temporary.persist(target).map_err(|refused| refused.error)?;
    sync_folder(folder)
}

/// Makes the rename itself survive a loss of power; only Unix lets a folder be opened for that.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn entries(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).collect()
    }

    #[test]
    fn a_new_and_an_old_file_get_the_contents() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.txt");
        for text in ["first", "second, longer"] {
            write_atomically(&path, |out| out.write_all(text.as_bytes())).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(entries(folder.path()), ["out.txt"]);
    }

    #[test]
    fn a_failing_writer_leaves_the_folder_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let full = |out: &mut dyn Write| {
            out.write_all(&vec![7; 3 * BUFFER_BYTES])?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        };
        let path = folder.path().join("out.txt");
        let error = write_atomically(&path, full).unwrap_err();
        assert!(matches!(&error, FormatError::Write { path: named, .. } if *named == path), "{error}");
        assert!(entries(folder.path()).is_empty());

        fs::write(&path, "before").unwrap();
        write_atomically(&path, full).unwrap_err();
        assert_eq!(entries(folder.path()), ["out.txt"]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "before");
    }

    #[test]
    fn a_panicking_writer_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.txt");
        let written = std::panic::catch_unwind(|| write_atomically(&path, |_| panic!("on purpose")));
        assert!(written.is_err() && entries(folder.path()).is_empty());
    }

    #[test]
    fn a_missing_folder_and_a_folder_in_place_of_the_file_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let lost = folder.path().join("nowhere/out.txt");
        assert!(matches!(write_atomically(&lost, |_| Ok(())), Err(FormatError::Write { .. })));
        assert!(matches!(write_atomically(folder.path(), |_| Ok(())), Err(FormatError::NotAFile { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn permissions_are_those_of_a_new_file() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        let (plain, atomic) = (folder.path().join("plain"), folder.path().join("atomic"));
        fs::write(&plain, "").unwrap();
        write_atomically(&atomic, |_| Ok(())).unwrap();
        assert_eq!(mode(&atomic), mode(&plain));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "before").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write_atomically(&link, |out| out.write_all(b"after")).unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), "after");
    }

    #[cfg(unix)]
    #[test]
    fn a_device_is_not_replaced() {
        let path = Path::new("/dev/null");
        assert!(matches!(write_atomically(path, |_| Ok(())), Err(FormatError::NotAFile { .. })));
    }
}
