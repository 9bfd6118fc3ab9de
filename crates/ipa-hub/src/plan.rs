//! What fetching a set would bring.

use std::path::PathBuf;

use crate::listing::Remote;
use crate::sets::Set;

/// The files of a set as the hub lists them, and which of them the cache has.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(crate) set: Set,
    pub(crate) commit: String,
    pub(crate) files: Vec<PlannedFile>,
    pub(crate) gated: bool,
    pub(crate) card_licence: Option<String>,
    pub(crate) from_cache: bool,
}

/// One file of a [`Plan`].
#[derive(Debug, Clone)]
pub struct PlannedFile {
    pub(crate) name: String,
    pub(crate) size: u64,
    /// As the hub lists it; `None` if only the cache was asked.
    pub(crate) remote: Option<Remote>,
    pub(crate) cached: bool,
    pub(crate) partial: u64,
}

/// A set that is in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// What to hand on: a model's folder for `--model`, an adapter's or LoRA's file, any other set's folder.
    pub path: PathBuf,
    /// All its files.
    pub files: Vec<PathBuf>,
}

impl Plan {
    /// The set it is for.
    pub fn set(&self) -> &Set {
        &self.set
    }

    /// The commit of the repository whose files these are.
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// The files, in the set's order.
    pub fn files(&self) -> &[PlannedFile] {
        &self.files
    }

    /// Whether the hub gives the files only to users who accepted the repository's terms.
    pub fn is_gated(&self) -> bool {
        self.gated
    }

    /// The licence that the repository's card names today, which may have changed since the set was written.
    pub fn card_licence(&self) -> Option<&str> {
        self.card_licence.as_deref()
    }

    /// Whether the hub was not asked or did not answer, and the cache has everything.
    pub fn is_from_cache(&self) -> bool {
        self.from_cache
    }

    /// Bytes that are to be downloaded.
    pub fn bytes_to_fetch(&self) -> u64 {
        self.files.iter().map(PlannedFile::bytes_to_fetch).fold(0, u64::saturating_add)
    }
}

impl PlannedFile {
    /// Path in the repository.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// SHA-256 of the file, or git's name of its blob if it is a small one, if the hub was asked.
    pub fn digest(&self) -> Option<&str> {
        self.remote.as_ref().map(|remote| remote.etag.as_str())
    }

    /// Whether the cache has it.
    pub fn is_cached(&self) -> bool {
        self.cached
    }

    /// Bytes that are to be downloaded: none, all, or what an earlier download left out.
    pub fn bytes_to_fetch(&self) -> u64 {
        if self.cached { 0 } else { self.size.saturating_sub(self.partial) }
    }
}
