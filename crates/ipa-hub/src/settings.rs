//! Where the hub is, where its cache lies, and how much patience to have: the one place that reads the environment.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::HubError;
use crate::url::Url;

const ENDPOINT: &str = "https://huggingface.co";

/// All that a [`Hub`](crate::Hub) depends on besides the sets.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address of the hub or of a mirror of it, without a slash at its end.
    pub endpoint: String,
    /// The cache's folder, which holds one folder `models--owner--name` a repository.
    pub cache: PathBuf,
    /// Sent to [`endpoint`](Self::endpoint), and to no other host.
    pub token: Option<Token>,
    /// Never touch the network.
    pub offline: bool,
    /// Send requests through the proxy that `HTTPS_PROXY`, `ALL_PROXY` or `HTTP_PROXY` names, but for hosts in `NO_PROXY`.
    pub proxy: bool,
    /// Files that are downloaded at once; at least 1.
    pub parallel: usize,
    /// When to give up.
    pub patience: Patience,
}

/// When to call a connection dead, and how often to try again.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a connection to be made.
    pub connect: Duration,
    /// For the next bytes to come.
    pub read: Duration,
    /// Requests for the same thing before it fails. A download that got on begins to count again.
    pub attempts: u32,
    /// Before the second attempt; doubled before each further one.
    pub first_delay: Duration,
    /// The longest wait before an attempt, whatever a server asks for.
    pub longest_delay: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            read: Duration::from_secs(15),
            attempts: 6,
            first_delay: Duration::from_millis(500),
            longest_delay: Duration::from_secs(60),
        }
    }
}

/// A user's access token; it shows in no message and no log.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token without the white space and line ends that a file or a variable may have around it; none if nothing remains.
    pub fn new(text: &str) -> Option<Self> {
        let text: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Settings {
    /// What the environment says, by the names and rules of Python's `huggingface_hub`.
    ///
    /// - cache: `HF_HUB_CACHE`, else `HUGGINGFACE_HUB_CACHE`, else `hub` in `HF_HOME`, which is `huggingface` in
    ///   `XDG_CACHE_HOME` or `~/.cache` if it is not set
    /// - token: `HF_TOKEN`, else `HUGGING_FACE_HUB_TOKEN`, else the file that `HF_TOKEN_PATH` names, else `token` in `HF_HOME`
    /// - `HF_ENDPOINT`, `HF_HUB_OFFLINE` (or `TRANSFORMERS_OFFLINE`), `HF_HUB_DOWNLOAD_TIMEOUT` in seconds
    ///
    /// # Errors
    /// [`HubError::Setting`] for a value that cannot be meant, [`HubError::Read`] if the token's file is there but cannot
    /// be read.
    pub fn from_env() -> Result<Self, HubError> {
        let settings = Self::read(|name| std::env::var_os(name), std::env::home_dir())?;
        Ok(Self { proxy: true, ..settings })
    }

    /// [`from_env`](Self::from_env) for variables that `lookup` answers and a home folder; without a proxy.
    ///
    /// # Errors
    /// As [`from_env`](Self::from_env).
    pub fn read(lookup: impl Fn(&str) -> Option<OsString>, home: Option<PathBuf>) -> Result<Self, HubError> {
        let variables = Variables { lookup, home };
        let hf_home = match variables.path("HF_HOME") {
            Some(folder) => folder,
            None => variables.cache_home()?.join("huggingface"),
        };
        let cache = variables.path("HF_HUB_CACHE").or_else(|| variables.path("HUGGINGFACE_HUB_CACHE"));
        Ok(Self {
            endpoint: variables.endpoint()?,
            cache: cache.unwrap_or_else(|| hf_home.join("hub")),
            token: variables.token(&hf_home)?,
            offline: variables.is_true("HF_HUB_OFFLINE") || variables.is_true("TRANSFORMERS_OFFLINE"),
            proxy: false,
            parallel: 3,
            patience: variables.patience()?,
        })
    }
}

struct Variables<F> {
    lookup: F,
    home: Option<PathBuf>,
}

impl<F: Fn(&str) -> Option<OsString>> Variables<F> {
    /// A variable that is set to something.
    fn value(&self, name: &str) -> Option<OsString> {
        (self.lookup)(name).filter(|value| !value.is_empty())
    }

    fn text(&self, name: &str) -> Option<String> {
        self.value(name).map(|value| value.to_string_lossy().into_owned())
    }

    /// A path, `~/` at its beginning being the home folder.
    fn path(&self, name: &str) -> Option<PathBuf> {
        let path = PathBuf::from(self.value(name)?);
        match (path.strip_prefix("~"), &self.home) {
            (Ok(below), Some(home)) => Some(home.join(below)),
            _ => Some(path),
        }
    }

    fn cache_home(&self) -> Result<PathBuf, HubError> {
        let below_home = || self.home.as_ref().map(|home| home.join(".cache"));
        self.path("XDG_CACHE_HOME").or_else(below_home).ok_or(HubError::Setting {
            name: "HF_HOME",
            value: String::new(),
            allowed: "no home folder is known: set it to the folder that shall hold the cache",
        })
    }

    fn is_true(&self, name: &str) -> bool {
        self.text(name).is_some_and(|value| ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str()))
    }

    fn endpoint(&self) -> Result<String, HubError> {
        let value = self.text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        let endpoint = value.trim().trim_end_matches('/');
        match Url::parse(endpoint) {
            Some(_) => Ok(endpoint.to_owned()),
            None => Err(HubError::Setting {
                name: "HF_ENDPOINT",
                value,
                allowed: "give an address such as https://huggingface.co",
            }),
        }
    }

    fn token(&self, hf_home: &Path) -> Result<Option<Token>, HubError> {
        let given = self.text("HF_TOKEN").or_else(|| self.text("HUGGING_FACE_HUB_TOKEN"));
        let token = match given.as_deref().and_then(Token::new) {
            Some(token) => Some(token),
            None => token_file(&self.path("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token")))?,
        };
        let printable = |token: &Token| token.reveal().bytes().all(|byte| byte.is_ascii_graphic());
        match token {
            Some(token) if !printable(&token) => Err(HubError::Setting {
                name: "HF_TOKEN",
                value: "not shown".to_owned(),
                allowed: "a token is made of printable ASCII characters without spaces: copy it again",
            }),
            token => Ok(token),
        }
    }

    fn patience(&self) -> Result<Patience, HubError> {
        let Some(value) = self.text("HF_HUB_DOWNLOAD_TIMEOUT") else { return Ok(Patience::default()) };
        match value.trim().parse() {
            Ok(seconds @ 1..=86400) => Ok(Patience { read: Duration::from_secs(seconds), ..Patience::default() }),
            _ => Err(HubError::Setting {
                name: "HF_HUB_DOWNLOAD_TIMEOUT",
                value,
                allowed: "give whole seconds, 1 to 86400",
            }),
        }
    }
}

fn token_file(path: &Path) -> Result<Option<Token>, HubError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Token::new(&text)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(source) => Err(HubError::Read { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, HubError> {
        let lookup = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into());
        Settings::read(lookup, Some("/home/me".into()))
    }

    fn cache(variables: &[(&str, &str)]) -> PathBuf {
        read(variables).unwrap().cache
    }

    #[test]
    fn the_cache_is_where_pythons_library_has_it() {
        assert_eq!(cache(&[]), Path::new("/home/me/.cache/huggingface/hub"));
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/x"), ("HF_HOME", "~/hf")]), Path::new("/home/me/hf/hub"));
        assert_eq!(cache(&[("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/old")]), Path::new("/old"));
        assert_eq!(cache(&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/new")]), Path::new("/new"));
        assert_eq!(cache(&[("HF_HUB_CACHE", ""), ("HF_HOME", "/h")]), Path::new("/h/hub"));
    }

    #[test]
    fn the_token_is_the_variables_then_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        let token = |variables: &[(&str, &str)]| read(variables).unwrap().token;
        assert_eq!(token(&[("HF_HOME", home)]), None);
        fs::write(folder.path().join("token"), "hf_file\n").unwrap();
        fs::write(folder.path().join("other"), " hf_other ").unwrap();
        let other = folder.path().join("other");
        assert_eq!(token(&[("HF_HOME", home)]), Token::new("hf_file"));
        assert_eq!(token(&[("HF_HOME", home), ("HF_TOKEN_PATH", other.to_str().unwrap())]), Token::new("hf_other"));
        assert_eq!(token(&[("HF_HOME", home), ("HF_TOKEN", "\n")]), Token::new("hf_file"));
        assert_eq!(token(&[("HF_HOME", home), ("HF_TOKEN", "hf_variable\r\n")]), Token::new("hf_variable"));
    }

    #[test]
    fn a_token_is_never_shown() {
        let settings = read(&[("HF_TOKEN", "hf_secret")]).unwrap();
        assert!(!format!("{settings:?}").contains("hf_secret"));
        let error = read(&[("HF_TOKEN", "hf_secret\u{7f}x")]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hf_secret"));
    }

    #[test]
    fn endpoint_offline_and_timeout() {
        let settings = read(&[("HF_ENDPOINT", "http://localhost:1/"), ("HF_HUB_OFFLINE", "yes")]).unwrap();
        assert_eq!((settings.endpoint.as_str(), settings.offline), ("http://localhost:1", true));
        assert!(!read(&[("HF_HUB_OFFLINE", "0")]).unwrap().offline);
        assert_eq!(read(&[("HF_HUB_DOWNLOAD_TIMEOUT", "7")]).unwrap().patience.read, Duration::from_secs(7));
        for wrong in [("HF_ENDPOINT", "ftp://x"), ("HF_ENDPOINT", "x"), ("HF_HUB_DOWNLOAD_TIMEOUT", "0")] {
            assert!(matches!(read(&[wrong]), Err(HubError::Setting { .. })), "{wrong:?}");
        }
    }
}
