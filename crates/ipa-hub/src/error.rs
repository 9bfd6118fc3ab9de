//! What can go wrong between a name and a file on the disk.

use std::io;
use std::path::PathBuf;

/// Weights that could not be named, found, downloaded or kept.
///
/// Every message is one sentence that names the file or repository and what to do next. Answers of a server are
/// told in words of this crate; nothing that a server sent is repeated at length.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// No set has that name.
    #[error("there is no set `{name}`{}; `--list` shows all of them", did_you_mean(.nearest.as_deref()))]
    UnknownSet {
        /// What was asked for.
        name: String,
        /// The known name that is written most like it, if one is near.
        nearest: Option<String>,
    },
    /// The list of sets is malformed, or one of its entries cannot be meant.
    #[error("the list of sets cannot be used: {problem}")]
    Sets {
        /// What is wrong, with the set's name.
        problem: String,
    },
    /// An environment variable with a value that cannot be meant.
    #[error("{name} is {value:?}; {allowed}")]
    Setting {
        /// The variable.
        name: &'static str,
        /// Its value; never a token.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// The network must not be used, and the cache lacks files.
    #[error(
        "{} of `{set}` is not in {cache} and HF_HUB_OFFLINE forbids to fetch it; unset that variable or name another cache \
         with HF_HUB_CACHE", files(.missing)
    )]
    Offline {
        /// The set.
        set: String,
        /// The cache that was looked into.
        cache: PathBuf,
        /// Files that are not there.
        missing: Vec<String>,
    },
    /// Damaged files would be removed and could not be fetched anew.
    #[error("`--verify` removes damaged files to fetch them anew, which HF_HUB_OFFLINE forbids; unset that variable")]
    VerifyOffline,
    /// The cache lacks files, and only the cache was asked.
    #[error("{} of `{set}` is not in {cache}; get it with `ipa fetch {set}`", files(.missing))]
    NotFetched {
        /// The set.
        set: String,
        /// The cache that was looked into.
        cache: PathBuf,
        /// Files that are not there.
        missing: Vec<String>,
    },
    /// The repository's terms have to be accepted first.
    #[error(
        "{repo} is gated: accept its licence at {page}{}", if *.with_token { " with the account of your token" }
        else { ", then set HF_TOKEN to a token of your account" }
    )]
    Gated {
        /// The repository.
        repo: String,
        /// The page with the terms.
        page: String,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The hub answers 401.
    #[error(
        "{url} may not be read ({}): check the repository's name{}", if *.with_token { "the token was refused" }
        else { "no token was sent" }, if *.with_token { " and renew HF_TOKEN" } else { ", or set HF_TOKEN if it is private" }
    )]
    Unauthorized {
        /// What was asked for.
        url: String,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// A server answers 403.
    #[error("{url} is forbidden to you{}; ask for access on the repository's page or give another token in HF_TOKEN",
        if *.with_token { " with this token" } else { "" })]
    Forbidden {
        /// What was asked for.
        url: String,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// A server answers 404 or 410.
    #[error(
        "{url} does not exist; the repository may have been renamed or removed, or HF_ENDPOINT names a mirror without it"
    )]
    NotFound {
        /// What was asked for.
        url: String,
    },
    /// The repository is there, a file of the set is not in it.
    #[error(
        "{repo} at `{revision}` has no {file}; the repository has changed since this program was written: see its page"
    )]
    NoFile {
        /// The repository.
        repo: String,
        /// Branch, tag or commit.
        revision: String,
        /// The file, or the files of which one would do.
        file: String,
    },
    /// A server answers otherwise, or again and again with 429 or 5xx.
    #[error("{url} answers with status {status}{}; try again later: what was received is kept", tries(*.attempts))]
    Status {
        /// What was asked for.
        url: String,
        /// The last answer.
        status: u16,
        /// How often it was asked for.
        attempts: u32,
    },
    /// No connection, a lost one, or silence.
    #[error(
        "{url} could not be read after {attempts} attempts ({reason}); check the network and run it again, what was received is kept"
    )]
    Network {
        /// What was asked for.
        url: String,
        /// What happened the last time.
        reason: String,
        /// How often it was asked for.
        attempts: u32,
    },
    /// A server that is not who it says it is, as far as the system's authorities know.
    #[error(
        "{url} has a certificate that is not trusted ({reason}); if a proxy or mirror of yours gave it, name the file of its \
         authority in SSL_CERT_FILE"
    )]
    Certificate {
        /// What was asked for.
        url: String,
        /// What is wrong with the certificate.
        reason: String,
    },
    /// A server that sends on and on, or to a place that must not be followed.
    #[error("{url} redirects {problem}; check HF_ENDPOINT")]
    Redirect {
        /// What was asked for.
        url: String,
        /// Where to, or how often.
        problem: String,
    },
    /// An answer that is not what the hub's protocol says.
    #[error("{url} does not answer as a hub does ({problem}); check HF_ENDPOINT")]
    Protocol {
        /// What was asked for.
        url: String,
        /// What is wrong with the answer.
        problem: String,
    },
    /// Bytes arrived that are not the file the hub's listing describes.
    #[error(
        "{file} of {repo} arrived damaged {attempts} times ({problem}) and was thrown away; try again, or without HF_ENDPOINT"
    )]
    Damaged {
        /// The file.
        file: String,
        /// The repository.
        repo: String,
        /// What does not fit.
        problem: String,
        /// How often it was downloaded whole.
        attempts: u32,
    },
    /// Less room than the files need.
    #[error(
        "{cache} has {free} bytes free, {needed} are needed; make room or name a folder on another disk with HF_HUB_CACHE"
    )]
    Space {
        /// The cache.
        cache: PathBuf,
        /// Bytes that are free.
        free: u64,
        /// Bytes that are to be downloaded.
        needed: u64,
    },
    /// The system refuses to read from the cache.
    #[error("cannot read {path}; check that it may be read")]
    Read {
        /// File or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The system refuses to write into the cache.
    #[error(
        "cannot write {path}; check that the folder may be written to and has space left, or name another with HF_HUB_CACHE"
    )]
    Write {
        /// File or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Another file of the same run failed first.
    #[error("{file} was given up because another file failed; run it again, what was received is kept")]
    GivenUp {
        /// The file.
        file: String,
    },
    /// Standard output cannot be written.
    #[error("cannot write to standard output")]
    Output {
        /// The system's reason.
        source: io::Error,
    },
}

impl HubError {
    /// Whether the user's arguments are at fault, rather than files or the network: exit status 2.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::UnknownSet { .. })
    }

    /// Whether the hub was not reached at all or is out of order, so that a complete cache may stand in for it.
    pub(crate) fn is_outage(&self) -> bool {
        matches!(self, Self::Network { .. } | Self::Status { .. })
    }
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!(", did you mean `{name}`?"))
}

fn tries(attempts: u32) -> String {
    if attempts > 1 { format!(" after {attempts} attempts") } else { String::new() }
}

/// The first file, and how many more.
fn files(missing: &[String]) -> String {
    match missing {
        [] => "a file".to_owned(),
        [only] => only.clone(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gated_repository_names_page_and_token() {
        let gated = |with_token| {
            HubError::Gated { repo: "a/b".to_owned(), page: "https://hub/a/b".to_owned(), with_token }.to_string()
        };
        assert!(gated(false).contains("https://hub/a/b, then set HF_TOKEN"));
        assert!(!gated(true).contains("HF_TOKEN"));
    }

    #[test]
    fn only_names_are_the_users_arguments() {
        assert!(HubError::UnknownSet { name: "x".to_owned(), nearest: None }.is_usage());
        assert!(!HubError::NotFound { url: "x".to_owned() }.is_usage());
    }
}
