//! Whole files or none: how every output of the project reaches the disk.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

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

/// Makes a folder that is there completely or not at all: `fill` gets a temporary one beside it, renamed at the end.
///
/// # Errors
/// [`FormatError::FolderNotEmpty`] if there is something at that path, an empty folder excepted; what `fill` returns;
/// [`FormatError::Write`]. No temporary folder remains after any.
pub(crate) fn create_folder(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), FormatError>,
) -> Result<(), FormatError> {
    let write_error = |source| FormatError::Write { path: path.to_owned(), source };
    refuse_occupied(path)?;
    let target = if path.exists() { fs::canonicalize(path).map_err(write_error)? } else { path.to_owned() };
    let parent = folder_of(&target);
    let mut builder = tempfile::Builder::new();
    builder.prefix(".").suffix(".tmp");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o777)); // less the umask, as for any new folder
    }
    let temporary = builder.tempdir_in(parent).map_err(write_error)?; // removed when dropped
    let _unfinished = Unfinished::new(temporary.path());
    fill(temporary.path())?;
    sync_folder(temporary.path()).map_err(write_error)?;
    if cfg!(windows) && target.exists() {
        fs::remove_dir(&target).map_err(write_error)?; // an empty one, which Unix replaces
    }
    fs::rename(temporary.path(), &target).map_err(write_error)?;
    let _renamed = temporary.keep();
    sync_folder(parent).map_err(write_error)
}

/// Refuses a path at which there is something, an empty folder excepted.
///
/// # Errors
/// [`FormatError::FolderNotEmpty`].
pub(crate) fn refuse_occupied(path: &Path) -> Result<(), FormatError> {
    let is_free = match fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound && !path.is_symlink(),
    };
    if is_free { Ok(()) } else { Err(FormatError::FolderNotEmpty { path: path.to_owned() }) }
}

/// What is being written under another name.
static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// An entry of [`UNFINISHED`].
struct Unfinished(PathBuf);

impl Unfinished {
    fn new(path: &Path) -> Self {
        unfinished().insert(path.to_owned());
        Self(path.to_owned())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        unfinished().remove(&self.0);
    }
}

fn unfinished() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes what [`write_atomically`] and its like have begun and not finished: for a program that ends at once, in the
/// middle of its work.
pub fn remove_unfinished() {
    for path in std::mem::take(&mut *unfinished()) {
        let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
    }
}

fn folder_of(target: &Path) -> &Path {
    match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn target_of(path: &Path) -> Result<PathBuf, FormatError> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => Err(FormatError::NotAFile { path: path.to_owned() }),
        Ok(_) => fs::canonicalize(path).map_err(|source| FormatError::Write { path: path.to_owned(), source }),
        Err(_) => Ok(path.to_owned()),
    }
}

fn replace(target: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let folder = folder_of(target);
    let mut builder = tempfile::Builder::new();
    builder.prefix(".").suffix(".tmp");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666)); // less the umask, as for any new file
    }
    let temporary = builder.tempfile_in(folder)?; // removed when dropped
    let _unfinished = Unfinished::new(temporary.path());
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

    #[test]
    fn a_folder_is_there_as_a_whole_or_not_at_all() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("model");
        let fill = |folder: &Path| {
            assert!(!path.join("a").exists());
            write_atomically(&folder.join("a"), |out| out.write_all(b"a"))
        };
        let broken = |folder: &Path| fill(folder).and_then(|()| write_atomically(&folder.join("no/b"), |_| Ok(())));
        create_folder(&path, broken).unwrap_err();
        assert!(entries(parent.path()).is_empty());
        let panicked = std::panic::catch_unwind(|| create_folder(&path, |folder| fill(folder).map(|()| panic!("so"))));
        assert!(panicked.is_err() && entries(parent.path()).is_empty());

        create_folder(&path, fill).unwrap();
        assert_eq!((entries(parent.path()), entries(&path)), (vec!["model".to_owned()], vec!["a".to_owned()]));
        let error = create_folder(&path, |_| panic!("asked to fill a folder that is not empty")).unwrap_err();
        assert!(matches!(error, FormatError::FolderNotEmpty { .. }), "{error}");
        assert!(matches!(create_folder(&path.join("a"), |_| Ok(())), Err(FormatError::FolderNotEmpty { .. })));
        fs::remove_file(path.join("a")).unwrap();
        create_folder(&path, fill).unwrap();
        assert_eq!((entries(parent.path()), entries(&path)), (vec!["model".to_owned()], vec!["a".to_owned()]));
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
        let (plain, atomic) = (folder.path().join("plain_folder"), folder.path().join("atomic_folder"));
        fs::create_dir(&plain).unwrap();
        create_folder(&atomic, |_| Ok(())).unwrap();
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

    #[test]
    fn what_is_unfinished_can_be_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.txt");
        let refused = write_atomically(&path, |out| {
            out.write_all(b"half")?;
            assert_eq!(entries(folder.path()).len(), 1);
            let own: Vec<PathBuf> =
                unfinished().iter().filter(|path| path.starts_with(folder.path())).cloned().collect();
            assert_eq!(own.len(), 1);
            fs::remove_file(&own[0]) // as `remove_unfinished` does, which would take other tests' files too
        });
        assert!(refused.is_err() && entries(folder.path()).is_empty());
        assert!(!unfinished().iter().any(|path| path.starts_with(folder.path())));
    }
}
