//! A download that is under way: bytes on the disk, their number and their digest, always in step.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;

use crate::HubError;
use crate::digest::{Hasher, read_into};
use crate::listing::Remote;

/// `<etag>.incomplete`, opened by the one process that holds the blob's lock.
#[derive(Debug)]
pub(crate) struct Partial<'a> {
    path: PathBuf,
    file: File,
    remote: &'a Remote,
    len: u64,
    hasher: Hasher,
}

impl<'a> Partial<'a> {
    /// Goes on where an earlier download ended, whichever program made it.
    pub(crate) fn open(path: PathBuf, remote: &'a Remote) -> Result<Self, HubError> {
        let open = || {
            fs::create_dir_all(path.parent().unwrap_or(&path))?;
            let mut file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)?;
            if file.metadata()?.len() > remote.size {
                file.set_len(0)?;
            }
            let mut hasher = remote.etag.hasher(remote.size);
            read_into(&mut hasher, &mut file)?;
            let len = file.stream_position()?;
            Ok((file, len, hasher))
        };
        match open() {
            Ok((file, len, hasher)) => Ok(Self { path, file, remote, len, hasher }),
            Err(source) => Err(HubError::Write { path, source }),
        }
    }

    /// Bytes that are there.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes that are not.
    pub(crate) fn missing(&self) -> u64 {
        self.remote.size - self.len
    }

    /// Adds what arrived, of which at most [`missing`](Self::missing) bytes are taken.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<u64, HubError> {
        let wanted = usize::try_from(self.missing()).unwrap_or(usize::MAX).min(bytes.len());
        let bytes = &bytes[..wanted];
        // What a failing write did bring to the disk is right too, and found by the next run.
        self.file.write_all(bytes).map_err(|source| HubError::Write { path: self.path.clone(), source })?;
        self.hasher.update(bytes);
        self.len += wanted as u64;
        Ok(wanted as u64)
    }

    /// Throws away all that arrived.
    pub(crate) fn restart(&mut self) -> Result<(), HubError> {
        let restart = |file: &mut File| file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0)));
        restart(&mut self.file).map_err(|source| HubError::Write { path: self.path.clone(), source })?;
        self.len = 0;
        self.hasher = self.remote.etag.hasher(self.remote.size);
        Ok(())
    }

    /// Whether all is there and is what the listing describes.
    pub(crate) fn is_right(&self) -> bool {
        self.missing() == 0 && self.hasher.clone().finish() == self.remote.etag.as_str()
    }

    /// Gives the file its final name, once it is safely on the disk.
    pub(crate) fn keep(self, blob: PathBuf) -> Result<(), HubError> {
        let failed = |source: io::Error| HubError::Write { path: blob.clone(), source };
        self.file.sync_all().map_err(failed)?;
        drop(self.file);
        fs::rename(&self.path, &blob).map_err(failed)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::digest::Etag;

    #[test]
    fn what_is_there_is_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let (path, blob) = (folder.path().join("x.incomplete"), folder.path().join("x"));
        let etag = Etag::parse("ce013625030ba8dba906f756967f9e9ca394464a").unwrap(); // git's name of "hello\n"
        let remote = Remote { size: 6, etag };
        for so_far in ["", "hel", "hello\n", "longer than it may be"] {
            fs::write(&path, so_far).unwrap();
            let mut partial = Partial::open(path.clone(), &remote).unwrap();
            let len = partial.len() as usize;
            assert_eq!(len, if so_far.len() > 6 { 0 } else { so_far.len() });
            assert_eq!(partial.append(&b"hello\n and more"[len..]).unwrap(), 6 - len as u64);
            assert!(partial.is_right(), "{so_far:?}");
            partial.keep(blob.clone()).unwrap();
            assert_eq!(fs::read_to_string(&blob).unwrap(), "hello\n");
        }
        fs::write(&path, "hullo\n").unwrap();
        let mut partial = Partial::open(path.clone(), &remote).unwrap();
        assert!(!partial.is_right());
        partial.restart().unwrap();
        assert_eq!((partial.len(), fs::metadata(&path).unwrap().len()), (0, 0));
    }
}
