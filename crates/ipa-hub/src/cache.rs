//! The hub's standard cache: one folder a repository, shared with every program that keeps to its layout.
//!
//! ```text
//! models--owner--name/blobs/<etag>                bytes, under their digest
//! models--owner--name/blobs/<etag>.incomplete     what has arrived so far
//! models--owner--name/refs/main                   the commit that a branch was at
//! models--owner--name/snapshots/<commit>/<path>   link to the blob
//! .locks/models--owner--name/<etag>.lock          held by the process that fetches this blob
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::HubError;
use crate::digest::Etag;
use crate::listing::is_commit;

/// A repository's folder.
#[derive(Debug)]
pub(crate) struct CachedRepo {
    folder: PathBuf,
    locks: PathBuf,
}

/// Exclusive right to one blob, until dropped; the system takes it from a process that dies.
#[derive(Debug)]
pub(crate) struct BlobLock {
    _file: File,
}

impl CachedRepo {
    pub(crate) fn new(cache: &Path, repo: &str) -> Self {
        let name = format!("models--{}", repo.replace('/', "--"));
        Self { folder: cache.join(&name), locks: cache.join(".locks").join(name) }
    }

    pub(crate) fn blob(&self, etag: &Etag) -> PathBuf {
        self.folder.join("blobs").join(etag.as_str())
    }

    pub(crate) fn incomplete(&self, etag: &Etag) -> PathBuf {
        self.folder.join("blobs").join(format!("{}.incomplete", etag.as_str()))
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The commit that a revision was at when something of it was last fetched.
    pub(crate) fn commit_of(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = fs::read_to_string(self.folder.join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Remembers the commit of a branch or tag. A cache that cannot be written to but says so already is left alone.
    pub(crate) fn remember(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if self.commit_of(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        let write = || {
            let folder = path.parent().unwrap_or(&path);
            fs::create_dir_all(folder)?;
            let mut file = readable_by_all().tempfile_in(folder)?;
            file.write_all(commit.as_bytes())?;
            file.persist(&path).map_err(|refused| refused.error)
        };
        write().map(drop).map_err(|source| HubError::Write { path: path.clone(), source })
    }

    /// Whether a snapshot has a file of that size, as a link or as a copy.
    pub(crate) fn has(&self, commit: &str, name: &str, size: u64) -> bool {
        fs::metadata(self.snapshot(commit).join(name)).is_ok_and(|found| found.is_file() && found.len() == size)
    }

    /// Takes the right to a blob; `waiting` is called if another process has it, which is then waited for.
    pub(crate) fn lock(&self, etag: &Etag, waiting: impl FnOnce()) -> Result<BlobLock, HubError> {
        let path = self.locks.join(format!("{}.lock", etag.as_str()));
        self.try_lock(&path, waiting).map_err(|source| HubError::Write { path, source })
    }

    fn try_lock(&self, path: &Path, waiting: impl FnOnce()) -> io::Result<BlobLock> {
        fs::create_dir_all(&self.locks)?;
        let open = || OpenOptions::new().create(true).truncate(false).write(true).open(path);
        let mut file = open()?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                waiting();
                file.lock()?;
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Some programs remove the lock's file when they are done: then this one holds a lock on nothing.
        while !is_still(&file, path) {
            file = open()?;
            file.lock()?;
        }
        Ok(BlobLock { _file: file })
    }

    /// Makes a blob appear in a snapshot: as a link, or as a second name or a copy where links are not allowed.
    pub(crate) fn link(&self, commit: &str, name: &str, etag: &Etag) -> Result<(), HubError> {
        let pointer = self.snapshot(commit).join(name);
        let up = "../".repeat(name.split('/').count() + 1);
        let target = PathBuf::from(format!("{up}blobs/{}", etag.as_str()));
        if fs::read_link(&pointer).is_ok_and(|found| found == target) {
            return Ok(());
        }
        let write = || {
            let folder = pointer.parent().unwrap_or(&pointer);
            fs::create_dir_all(folder)?;
            // Under another name first: a reader finds the old file or the new one, never none.
            let temporary = tempfile::Builder::new().prefix(".").suffix(".tmp").make_in(folder, |path| {
                symlink(&target, path).or_else(|_| fs::hard_link(self.blob(etag), path)).or_else(|refused| {
                    if refused.kind() == io::ErrorKind::AlreadyExists {
                        return Err(refused);
                    }
                    fs::copy(self.blob(etag), path).map(drop)
                })
            })?;
            temporary.into_temp_path().persist(&pointer).map_err(|refused| refused.error)
        };
        write().map_err(|source| HubError::Write { path: pointer.clone(), source })
    }
}

/// Removes a file that may be gone already.
pub(crate) fn remove(path: &Path) -> Result<(), HubError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(HubError::Write { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(unix)]
fn symlink(target: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

#[cfg(windows)]
fn symlink(target: &Path, path: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, path)
}

#[cfg(unix)]
fn is_still(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let id = |found: fs::Metadata| (found.dev(), found.ino());
    file.metadata().ok().map(id) == fs::metadata(path).ok().map(id)
}

/// Elsewhere a file that is open cannot be removed.
#[cfg(not(unix))]
fn is_still(_: &File, _: &Path) -> bool {
    true
}

/// Temporary files are private otherwise; a cache may be shared by several users.
fn readable_by_all() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".").suffix(".tmp");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        builder.permissions(fs::Permissions::from_mode(0o666)); // less the umask, as for any new file
    }
    builder
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn cached() -> (tempfile::TempDir, CachedRepo, Etag) {
        let folder = tempfile::tempdir().unwrap();
        let repo = CachedRepo::new(folder.path(), "owner/name");
        let etag = Etag::parse(&"a".repeat(64)).unwrap();
        fs::create_dir_all(repo.blob(&etag).parent().unwrap()).unwrap();
        fs::write(repo.blob(&etag), "bytes").unwrap();
        (folder, repo, etag)
    }

    #[test]
    fn links_reach_their_blob_from_any_depth_and_replace_what_was_there() {
        let (folder, repo, etag) = cached();
        for name in ["a", "b/c/d"] {
            repo.link(COMMIT, name, &etag).unwrap();
            assert!(repo.has(COMMIT, name, 5) && !repo.has(COMMIT, name, 4));
        }
        let pointer = folder.path().join("models--owner--name/snapshots").join(COMMIT).join("a");
        assert_eq!(fs::read_link(&pointer).unwrap(), Path::new("../../blobs").join(etag.as_str()));
        fs::remove_file(&pointer).unwrap();
        fs::write(&pointer, "an older copy").unwrap();
        repo.link(COMMIT, "a", &etag).unwrap();
        assert_eq!(fs::read_to_string(&pointer).unwrap(), "bytes");
    }

    #[test]
    fn a_revision_is_remembered_and_nonsense_is_none() {
        let (folder, repo, _) = cached();
        assert_eq!(repo.commit_of("main"), None);
        repo.remember("main", COMMIT).unwrap();
        assert_eq!(repo.commit_of("main").as_deref(), Some(COMMIT));
        assert_eq!(repo.commit_of(COMMIT).as_deref(), Some(COMMIT));
        fs::write(folder.path().join("models--owner--name/refs/main"), "../../x").unwrap();
        assert_eq!(repo.commit_of("main"), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_lock_whose_file_was_removed_is_taken_anew() {
        let (folder, repo, etag) = cached();
        let path = folder.path().join(".locks/models--owner--name").join(format!("{}.lock", etag.as_str()));
        let first = repo.lock(&etag, || panic!("nobody holds it")).unwrap();
        std::thread::scope(|scope| {
            let (told, is_waiting) = std::sync::mpsc::channel();
            let (repo, etag) = (&repo, &etag);
            let second = scope.spawn(move || repo.lock(etag, || told.send(()).unwrap()).unwrap());
            is_waiting.recv().unwrap();
            fs::remove_file(&path).unwrap();
            drop(first);
            let _held = second.join().unwrap();
            assert!(File::open(&path).unwrap().try_lock().is_err());
        });
    }
}
