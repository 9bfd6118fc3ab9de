//! One file: received piece by piece, verified, and only then given its name.

use std::fs;
use std::io::{self, Read as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ureq::http::{StatusCode, header};

use crate::HubError;
use crate::cache::{self, CachedRepo};
use crate::http::{Answer, Client};
use crate::listing::Remote;
use crate::partial::Partial;
use crate::progress::Event;
use crate::retry::{Attempts, Failure};
use crate::settings::Patience;
use crate::url::{Url, escape};

const BUFFER_BYTES: usize = 1 << 17;
/// An attempt that brings this much got on; less could keep a hostile server's victim for ever.
const GOT_ON_BYTES: u64 = 1 << 20;
/// Whole downloads with a wrong digest before it is the server's fault and not that of an old partial file.
const MOST_DAMAGED: u32 = 2;
const STOP_CHECKED: Duration = Duration::from_millis(50);

/// What one file of a fetch needs to know.
pub(crate) struct Job<'a> {
    pub(crate) client: &'a Client,
    pub(crate) patience: Patience,
    pub(crate) cached: &'a CachedRepo,
    pub(crate) repo: &'a str,
    pub(crate) commit: &'a str,
    /// Path in the repository.
    pub(crate) name: &'a str,
    pub(crate) remote: &'a Remote,
    pub(crate) report: &'a (dyn Fn(&str, Event<'_>) + Sync),
    /// Another file failed.
    pub(crate) stop: &'a AtomicBool,
}

impl Job<'_> {
    /// Brings the file into the snapshot, with the blob from the cache or from the hub.
    pub(crate) fn run(&self) -> Result<(), HubError> {
        let remote = self.remote;
        let _lock = self.cached.lock(&remote.etag, || self.tell(Event::Waiting))?;
        let blob = self.cached.blob(&remote.etag);
        match fs::metadata(&blob) {
            Ok(found) if found.len() == remote.size => {}
            Ok(_) => {
                cache::remove(&blob)?; // cut short by a program that does not verify
                self.download()?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                cache::remove(&blob)?; // a link that leads nowhere
                self.download()?;
            }
            Err(source) => return Err(HubError::Read { path: blob, source }),
        }
        self.cached.link(self.commit, self.name, &remote.etag)?;
        self.tell(Event::Done);
        Ok(())
    }

    fn download(&self) -> Result<(), HubError> {
        let url = self.url()?;
        let mut partial = Partial::open(self.cached.incomplete(&self.remote.etag), self.remote)?;
        self.tell(Event::Started { have: partial.len() });
        let mut attempts = Attempts::new(self.patience);
        let mut damaged = 0;
        loop {
            let before = partial.len();
            let received = self.receive(&url, &mut partial);
            if partial.len() >= before.saturating_add(GOT_ON_BYTES) {
                attempts.got_on();
            }
            match received {
                Ok(()) if partial.is_right() => return partial.keep(self.cached.blob(&self.remote.etag)),
                Ok(()) => {
                    damaged += 1;
                    self.restart(&mut partial)?;
                    if damaged == MOST_DAMAGED {
                        return Err(self.damaged(partial, damaged));
                    }
                }
                Err(failure) => {
                    let (delay, reason) = attempts.after(failure)?;
                    self.tell(Event::Retrying { reason: &reason, delay });
                    self.pause(delay)?;
                }
            }
        }
    }

    fn url(&self) -> Result<Url, HubError> {
        let path = format!("/{}/resolve/{}/{}", self.repo, self.commit, escape(self.name));
        self.client.below_endpoint(&path)
    }

    /// One attempt at all that is missing.
    fn receive(&self, url: &Url, partial: &mut Partial<'_>) -> Result<(), Failure> {
        if partial.missing() == 0 {
            return Ok(());
        }
        let mut answer = self.client.open(self.repo, url, partial.len())?;
        self.take_up(url, &answer, partial)?;
        let mut buffer = vec![0; BUFFER_BYTES];
        while partial.missing() > 0 {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Failure::Final(HubError::GivenUp { file: self.name.to_owned() }));
            }
            match answer.body.read(&mut buffer) {
                Ok(0) => {
                    let reason = format!("the connection ended {} bytes early", partial.missing());
                    return Err(Failure::network(url, reason));
                }
                Ok(count) => {
                    let bytes = partial.append(&buffer[..count]).map_err(Failure::Final)?;
                    self.tell(Event::Received { bytes });
                }
                Err(interrupted) if interrupted.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::network(url, self.client.reason(&error.into()))),
            }
        }
        Ok(())
    }

    /// Makes the partial file end where the answer begins, and refuses an answer of another length.
    fn take_up(&self, url: &Url, answer: &Answer, partial: &mut Partial<'_>) -> Result<(), Failure> {
        let goes_on = answer.status == StatusCode::PARTIAL_CONTENT && answer.range_start() == Some(partial.len());
        if !goes_on && partial.len() > 0 {
            self.restart(partial).map_err(Failure::Final)?;
        }
        if !goes_on && answer.status != StatusCode::OK {
            return Err(Failure::network(url, "it does not go on where asked to".to_owned()));
        }
        match answer.number(header::CONTENT_LENGTH) {
            Some(offered) if offered != partial.missing() => {
                let reason = format!("it offers {offered} bytes in place of {}", partial.missing());
                Err(Failure::network(url, reason))
            }
            _ => Ok(()),
        }
    }

    fn restart(&self, partial: &mut Partial<'_>) -> Result<(), HubError> {
        self.tell(Event::Restarted);
        partial.restart()
    }

    fn damaged(&self, partial: Partial<'_>, attempts: u32) -> HubError {
        drop(partial);
        // An empty file is left if it cannot be removed, and gone on with by the next run.
        let _ = cache::remove(&self.cached.incomplete(&self.remote.etag));
        let problem = "its digest is not the one that the hub lists".to_owned();
        HubError::Damaged { file: self.name.to_owned(), repo: self.repo.to_owned(), problem, attempts }
    }

    /// Waits, but not while another file's failure ends the run.
    fn pause(&self, delay: Duration) -> Result<(), HubError> {
        let end = Instant::now() + delay;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(HubError::GivenUp { file: self.name.to_owned() });
            }
            match end.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => std::thread::sleep(left.min(STOP_CHECKED)),
                _ => return Ok(()),
            }
        }
    }

    fn tell(&self, event: Event<'_>) {
        (self.report)(self.name, event);
    }
}
