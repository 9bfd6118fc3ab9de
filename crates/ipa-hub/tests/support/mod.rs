//! A hub of one's own: a small server on the loopback that speaks the hub's protocol, and misbehaves on request.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // every test file uses another part of it

pub mod server;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use ipa_hub::{Event, Hub, HubError, Local, Patience, Set, Sets, Settings};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use server::{Server, content};

/// Where the weights of set `ip-adapter` lie; a large file.
pub const ADAPTER: &str = "models/ip-adapter_sd15.safetensors";
/// The weights of set `clip-h`; a large file.
pub const ENCODER: &str = "models/image_encoder/model.safetensors";
/// The configuration of set `clip-h`; a small file.
pub const CONFIG: &str = "models/image_encoder/config.json";
pub const REPO: &str = "h94/IP-Adapter";

/// An empty cache and a server to fill it from.
pub struct Site {
    pub server: Server,
    pub folder: tempfile::TempDir,
}

impl Site {
    pub fn new() -> Self {
        Self { server: Server::start(), folder: tempfile::tempdir().unwrap() }
    }

    pub fn cache(&self) -> PathBuf {
        self.folder.path().join("hub")
    }

    /// Quick to try again; patient enough for a machine under load.
    pub fn settings(&self) -> Settings {
        let variables = [("HF_HOME", self.folder.path().to_str().unwrap()), ("HF_ENDPOINT", self.server.address())];
        let lookup = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into());
        let settings = Settings::read(lookup, None).unwrap();
        let patience = Patience {
            connect: Duration::from_secs(5),
            read: Duration::from_secs(10),
            attempts: 4,
            first_delay: Duration::from_millis(1),
            longest_delay: Duration::from_millis(5),
        };
        Settings { patience, ..settings }
    }

    pub fn hub(&self) -> Hub {
        Hub::new(self.settings()).unwrap()
    }

    /// A hub that gives up at the first failure, as if the program had been ended there.
    pub fn hub_without_patience(&self) -> Hub {
        self.hub_with(|patience| patience.attempts = 1)
    }

    pub fn hub_with(&self, change: impl FnOnce(&mut Patience)) -> Hub {
        let mut settings = self.settings();
        change(&mut settings.patience);
        Hub::new(settings).unwrap()
    }

    pub fn snapshot(&self) -> PathBuf {
        self.repo().join("snapshots").join(self.server.commit())
    }

    pub fn repo(&self) -> PathBuf {
        self.cache().join("models--h94--IP-Adapter")
    }

    pub fn blob(&self, file: &str) -> PathBuf {
        self.repo().join("blobs").join(server::etag(file))
    }

    pub fn incomplete(&self, file: &str) -> PathBuf {
        self.repo().join("blobs").join(format!("{}.incomplete", server::etag(file)))
    }

    /// Puts the beginning of a file where an interrupted download leaves it.
    pub fn leave_partial(&self, file: &str, bytes: &[u8]) {
        fs::create_dir_all(self.repo().join("blobs")).unwrap();
        fs::write(self.incomplete(file), bytes).unwrap();
    }

    /// Nothing has a final name but what belongs there, and nothing lies outside the cache.
    pub fn assert_intact(&self) {
        let blobs = fs::read_dir(self.repo().join("blobs")).into_iter().flatten().map(|entry| entry.unwrap().path());
        for path in blobs {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if let Some(etag) = name.strip_suffix(".incomplete") {
                assert!(!self.repo().join("blobs").join(etag).exists(), "{etag} is there twice");
            } else {
                assert_eq!(digest(&fs::read(&path).unwrap(), name.len()), name);
            }
        }
        for path in files_below(&self.repo().join("snapshots")) {
            assert!(path.is_file(), "{} leads nowhere", path.display());
        }
        let outside = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(outside.into_iter().all(|name| name == "hub"));
    }
}

/// SHA-256 or git's SHA-1 of a blob, told apart by the number of digits.
pub fn digest(bytes: &[u8], digits: usize) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    match digits {
        64 => hex(&Sha256::digest(bytes)),
        _ => hex(&Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize()),
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

pub fn set(name: &str) -> Set {
    Sets::bundled().get(name).unwrap().clone()
}

/// Plans and fetches.
pub fn fetch(hub: &Hub, name: &str) -> Result<Local, HubError> {
    hub.fetch(&hub.plan(&set(name))?, &|_, _| {})
}

/// Plans and fetches, and says for each file what happened, received bytes summed up.
pub fn fetch_told(hub: &Hub, name: &str) -> (Result<Local, HubError>, BTreeMap<String, Vec<String>>) {
    let told = Mutex::new(BTreeMap::<String, Vec<String>>::new());
    let result = hub.plan(&set(name)).and_then(|plan| {
        hub.fetch(&plan, &|file, event| {
            let text = match event {
                Event::Received { .. } => return,
                Event::Started { have } => format!("started at {have}"),
                Event::Retrying { reason, .. } => format!("retrying: {reason}"),
                Event::Restarted => "restarted".to_owned(),
                Event::Waiting => "waiting".to_owned(),
                Event::Done => "done".to_owned(),
            };
            told.lock().unwrap().entry(file.to_owned()).or_default().push(text);
        })
    });
    (result, told.into_inner().unwrap())
}

pub fn assert_fetched(local: &Local, files: &[&str]) {
    assert_eq!(local.files.len(), files.len());
    for (path, file) in local.files.iter().zip(files) {
        assert!(path.ends_with(file) && fs::read(path).unwrap() == content(file), "{file}");
    }
}
