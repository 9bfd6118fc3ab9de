//! Sets of weights, from their names to their paths.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::HubError;
use crate::cache::{self, CachedRepo};
use crate::digest::Etag;
use crate::download::Job;
use crate::http::Client;
use crate::listing::{Listing, Remote};
use crate::plan::{Local, Plan, PlannedFile};
use crate::progress::Event;
use crate::retry::Attempts;
use crate::sets::{Kind, Set};
use crate::settings::Settings;
use crate::url::escape;

/// A hub and a cache.
#[derive(Debug)]
pub struct Hub {
    settings: Settings,
    client: Client,
}

impl Hub {
    /// The hub and the cache that the environment names: [`Settings::from_env`].
    ///
    /// # Errors
    /// As [`Settings::from_env`].
    pub fn from_env() -> Result<Self, HubError> {
        Self::new(Settings::from_env()?)
    }

    /// A hub of which nothing is asked yet.
    ///
    /// # Errors
    /// [`HubError::Setting`] if [`Settings::endpoint`] is no address.
    pub fn new(settings: Settings) -> Result<Self, HubError> {
        Ok(Self { client: Client::new(&settings)?, settings })
    }

    /// What it was made with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Where a set lies in the cache, without any network: what `--model sd15` needs.
    ///
    /// # Errors
    /// [`HubError::NotFetched`] if a file is missing; its message says how to get it.
    pub fn local(&self, set: &Set) -> Result<Local, HubError> {
        self.cached_files(set).map(|(commit, names)| self.located(set, &commit, names)).map_err(|missing| {
            HubError::NotFetched { set: set.name().to_owned(), cache: self.settings.cache.clone(), missing }
        })
    }

    /// Asks the hub for the set's files, their sizes and digests, and looks which of them the cache has.
    ///
    /// If the hub cannot be reached, or must not be, a complete cache is the plan.
    ///
    /// # Errors
    /// [`HubError::Offline`] if it must not be reached and the cache is incomplete; else what the hub answers, or that it
    /// does not: see [`HubError`].
    pub fn plan(&self, set: &Set) -> Result<Plan, HubError> {
        if self.settings.offline {
            return self.plan_from_cache(set).map_err(|missing| HubError::Offline {
                set: set.name().to_owned(),
                cache: self.settings.cache.clone(),
                missing,
            });
        }
        match self.plan_from_hub(set) {
            Err(error) if error.is_outage() => self.plan_from_cache(set).map_err(|_| error),
            planned => planned,
        }
    }

    /// Downloads what the plan says is missing, several files at once, and returns where the set lies.
    ///
    /// `report` is told what happens to which file, from several threads. What arrived before a failure is kept and gone
    /// on with by the next run; no file has its final name before its size and digest are those of the listing.
    ///
    /// # Errors
    /// [`HubError::Gated`] or [`HubError::Space`] before anything is downloaded; else the first failure of a file.
    pub fn fetch(&self, plan: &Plan, report: &(dyn Fn(&str, Event<'_>) + Sync)) -> Result<Local, HubError> {
        let set = &plan.set;
        let cached = self.repo(set);
        let is_missing = |file: &PlannedFile| !cached.has(&plan.commit, &file.name, file.size);
        let mut missing: Vec<(&str, &Remote)> = Vec::new();
        for file in plan.files.iter().filter(|file| is_missing(file)) {
            missing.extend(file.remote.as_ref().map(|remote| (file.name.as_str(), remote)));
        }
        if plan.gated && plan.bytes_to_fetch() > 0 && !self.client.has_token() {
            return Err(self.client.gated(set.repo()));
        }
        self.check_space(plan.bytes_to_fetch())?;
        missing.sort_by_key(|(_, remote)| std::cmp::Reverse(remote.size)); // the longest first: no long tail
        self.download(plan, &cached, &missing, report)?;
        if !plan.from_cache {
            cached.remember(set.revision(), &plan.commit)?;
        }
        Ok(self.located(set, &plan.commit, plan.files.iter().map(|file| file.name.clone()).collect()))
    }

    /// Reads the set's cached files again and removes those whose bytes are not what their digest says, for
    /// [`fetch`](Self::fetch) to get them anew. Returns their paths in the snapshot.
    ///
    /// Copies in place of links, as Python's library makes them on systems without links, have no digest to compare with.
    ///
    /// # Errors
    /// [`HubError::Read`] and [`HubError::Write`].
    pub fn discard_damaged(&self, set: &Set) -> Result<Vec<PathBuf>, HubError> {
        let cached = self.repo(set);
        let Some(commit) = cached.commit_of(set.revision()) else { return Ok(Vec::new()) };
        let mut damaged = Vec::new();
        for name in set.choices().flatten() {
            let path = cached.snapshot(&commit).join(name);
            let Some(etag) = etag_of_link(&path) else { continue };
            let blob = cached.blob(&etag);
            if !blob.is_file() {
                continue;
            }
            let _lock = cached.lock(&etag, || ())?;
            if !etag.matches(&blob).map_err(|source| HubError::Read { path: blob.clone(), source })? {
                cache::remove(&blob)?;
                damaged.push(path);
            }
        }
        Ok(damaged)
    }

    fn repo(&self, set: &Set) -> CachedRepo {
        CachedRepo::new(&self.settings.cache, set.repo())
    }

    fn plan_from_hub(&self, set: &Set) -> Result<Plan, HubError> {
        let revision = escape(set.revision()).replace('/', "%2F");
        let url = self.client.below_endpoint(&format!("/api/models/{}/revision/{revision}?blobs=true", set.repo()))?;
        let mut attempts = Attempts::new(self.settings.patience);
        let answer = loop {
            match self.client.listing(set.repo(), &url) {
                Ok(answer) => break answer,
                Err(failure) => std::thread::sleep(attempts.after(failure)?.0),
            }
        };
        let listing = Listing::parse(&answer, &url.to_string())?;
        let cached = self.repo(set);
        let files = listing.choose(set, &url.to_string())?;
        Ok(Plan {
            set: set.clone(),
            files: files.into_iter().map(|(name, remote)| planned(&cached, &listing.commit, name, remote)).collect(),
            gated: listing.gated,
            card_licence: listing.licence,
            commit: listing.commit,
            from_cache: false,
        })
    }

    /// The names of the missing files if there are any.
    fn plan_from_cache(&self, set: &Set) -> Result<Plan, Vec<String>> {
        let (commit, names) = self.cached_files(set)?;
        let snapshot = self.repo(set).snapshot(&commit);
        let size = |name: &str| fs::metadata(snapshot.join(name)).map_or(0, |found| found.len());
        let file = |name: String| PlannedFile { size: size(&name), name, remote: None, cached: true, partial: 0 };
        Ok(Plan {
            set: set.clone(),
            files: names.into_iter().map(file).collect(),
            gated: false,
            card_licence: None,
            commit,
            from_cache: true,
        })
    }

    /// Commit and names of a complete set; else the names of what is missing.
    fn cached_files(&self, set: &Set) -> Result<(String, Vec<String>), Vec<String>> {
        let cached = self.repo(set);
        let commit = cached.commit_of(set.revision());
        let snapshot = commit.as_deref().map(|commit| cached.snapshot(commit));
        let is_there = |name: &&String| snapshot.as_ref().is_some_and(|snapshot| snapshot.join(name).is_file());
        let found = |names: &[String]| names.iter().find(is_there).ok_or_else(|| names[0].clone()).cloned();
        let (there, missing): (Vec<_>, Vec<_>) = set.choices().map(found).partition(Result::is_ok);
        match commit {
            Some(commit) if missing.is_empty() => Ok((commit, there.into_iter().flatten().collect())),
            _ => Err(missing.into_iter().filter_map(Result::err).collect()),
        }
    }

    fn located(&self, set: &Set, commit: &str, names: Vec<String>) -> Local {
        let snapshot = self.repo(set).snapshot(commit);
        let files: Vec<PathBuf> = names.iter().map(|name| snapshot.join(name)).collect();
        let path = match (set.kind(), files.first(), set.folder()) {
            (Kind::Adapter | Kind::Lora, Some(file), _) => file.clone(),
            (_, _, Some(folder)) => snapshot.join(folder),
            _ => snapshot,
        };
        Local { path, files }
    }

    /// Whether the cache's disk has room for a download.
    ///
    /// # Errors
    /// [`HubError::Space`] if it has not.
    pub fn check_space(&self, needed: u64) -> Result<(), HubError> {
        let cache = &self.settings.cache;
        let there = cache.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
        // A system that does not tell fails at the first write that does not fit.
        match fs4::available_space(there) {
            Ok(free) if needed > free => Err(HubError::Space { cache: cache.clone(), free, needed }),
            _ => Ok(()),
        }
    }

    fn download(
        &self,
        plan: &Plan,
        cached: &CachedRepo,
        missing: &[(&str, &Remote)],
        report: &(dyn Fn(&str, Event<'_>) + Sync),
    ) -> Result<(), HubError> {
        let (next, stop, failed) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(None));
        let (client, patience) = (&self.client, self.settings.patience);
        let (repo, commit) = (plan.set.repo(), plan.commit.as_str());
        let work = || {
            while let Some(&(name, remote)) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                let job = Job { client, patience, cached, repo, commit, name, remote, report, stop: &stop };
                if let Err(error) = job.run() {
                    // Only the first to fail tells; others then give up.
                    if !stop.swap(true, Ordering::Relaxed) {
                        *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    }
                    return;
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.settings.parallel.clamp(1, missing.len().max(1)) {
                scope.spawn(work);
            }
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}

fn planned(cached: &CachedRepo, commit: &str, name: String, remote: Remote) -> PlannedFile {
    let len = |path: PathBuf| fs::metadata(path).map_or(0, |found| found.len());
    let in_blobs = len(cached.blob(&remote.etag)) == remote.size && cached.blob(&remote.etag).is_file();
    let partial = len(cached.incomplete(&remote.etag));
    PlannedFile {
        size: remote.size,
        cached: in_blobs || cached.has(commit, &name, remote.size),
        partial: if partial <= remote.size { partial } else { 0 },
        name,
        remote: Some(remote),
    }
}

/// The digest of the blob that a snapshot's link leads to.
fn etag_of_link(path: &Path) -> Option<Etag> {
    fs::read_link(path).ok()?.file_name()?.to_str().and_then(Etag::parse)
}
