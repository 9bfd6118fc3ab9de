//! Weights that have a name: the list in `sets.toml`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::HubError;

const BUNDLED: &str = include_str!("../sets.toml");

/// Named sets of files.
#[derive(Debug, Clone)]
pub struct Sets(BTreeMap<String, Set>);

/// What belongs together under one name: files of one repository.
#[derive(Debug, Clone, Serialize)]
pub struct Set {
    name: String,
    #[serde(flatten)]
    entry: Entry,
}

/// What a set is to the rest of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A whole base model in the layout of diffusers.
    Model,
    /// An IP-Adapter: one file.
    Adapter,
    /// A vision tower, or both towers of CLIP.
    ImageEncoder,
    /// A ControlNet.
    Controlnet,
    /// A LoRA: one file.
    Lora,
    /// An autoencoder in place of a model's own.
    Vae,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    kind: Kind,
    about: String,
    repo: String,
    revision: String,
    licence: String,
    files: Vec<Choice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    folder: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_encoder: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
}

/// A file's name, or names of which the first that a repository has is taken.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Choice {
    One(String),
    FirstOf(Vec<String>),
}

impl Choice {
    fn names(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::FirstOf(names) => names,
        }
    }
}

impl Sets {
    /// The sets that this program was built with.
    pub fn bundled() -> Self {
        Self::parse(BUNDLED).expect("the bundled list is checked by a test")
    }

    /// Sets written like the bundled ones; [the list](https://toml.io) opens with what its fields mean.
    ///
    /// # Errors
    /// [`HubError::Sets`] if it is not such a list, or if a set could reach beyond its repository's folder, names
    /// another that is not there, or is an adapter of several files.
    pub fn parse(text: &str) -> Result<Self, HubError> {
        let problem = |problem: String| HubError::Sets { problem };
        let entries: BTreeMap<String, Entry> = toml::from_str(text).map_err(|error| problem(error.to_string()))?;
        for (name, entry) in &entries {
            let known = |other: &Option<String>| other.as_ref().is_none_or(|other| entries.contains_key(other));
            let fault = match fault(entry) {
                None if !known(&entry.image_encoder) || !known(&entry.model) => "names a set that is not there",
                None => continue,
                Some(fault) => fault,
            };
            return Err(problem(format!("`{name}` {fault}")));
        }
        Ok(Self(entries.into_iter().map(|(name, entry)| (name.clone(), Set { name, entry })).collect()))
    }

    /// The set of that name.
    ///
    /// # Errors
    /// [`HubError::UnknownSet`], with the name that was probably meant.
    pub fn get(&self, name: &str) -> Result<&Set, HubError> {
        self.0.get(name).ok_or_else(|| HubError::UnknownSet { name: name.to_owned(), nearest: self.nearest(name) })
    }

    /// All sets, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Set> {
        self.0.values()
    }

    /// A name that differs in few letters, or that the given one is a part of.
    fn nearest(&self, name: &str) -> Option<String> {
        let distance = |known: &&String| strsim::damerau_levenshtein(&name.to_lowercase(), known);
        let near = self.0.keys().min_by_key(distance).filter(|known| distance(known) <= 2);
        let part_of = || self.0.keys().find(|known| name.len() >= 3 && known.contains(&name.to_lowercase()));
        near.or_else(part_of).cloned()
    }
}

fn fault(entry: &Entry) -> Option<&'static str> {
    let names = || entry.files.iter().flat_map(Choice::names);
    let one_file = matches!(entry.kind, Kind::Adapter | Kind::Lora);
    if !is_repo(&entry.repo) {
        Some("has a `repo` that is not of the form owner/name")
    } else if !is_path(&entry.revision) {
        Some("has a `revision` that is no name")
    } else if names().next().is_none() || entry.files.iter().any(|choice| choice.names().is_empty()) {
        Some("has no `files`")
    } else if !names().chain(&entry.folder).all(|name| is_path(name)) {
        Some("has a path that may lead out of its folder")
    } else if one_file && (entry.files.len() != 1 || entry.folder.is_some()) {
        Some("is of one file but lists several, or a folder")
    } else {
        None
    }
}

/// `owner/name` of the characters that the hub allows; never with two dashes on end, which stand for the slash in the
/// cache.
fn is_repo(repo: &str) -> bool {
    let part = |part: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        !part.is_empty() && part.bytes().all(allowed) && !part.contains("--") && !part.starts_with(['.', '-'])
    };
    repo.split_once('/').is_some_and(|(owner, name)| part(owner) && part(name))
}

/// A path that stays below the folder it is appended to, on every system.
fn is_path(path: &str) -> bool {
    let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.ends_with(['.', ' ']);
    !path.contains(['\\', ':']) && !path.chars().any(char::is_control) && path.split('/').all(plain)
}

impl Set {
    /// The name by which it is asked for.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is to the rest of the program.
    pub fn kind(&self) -> Kind {
        self.entry.kind
    }

    /// What it is, in a few words.
    pub fn about(&self) -> &str {
        &self.entry.about
    }

    /// `owner/name` of the repository.
    pub fn repo(&self) -> &str {
        &self.entry.repo
    }

    /// Branch, tag or commit of the repository.
    pub fn revision(&self) -> &str {
        &self.entry.revision
    }

    /// Name of the licence and what it restricts, as far as the repository's card says.
    pub fn licence(&self) -> &str {
        &self.entry.licence
    }

    /// Name of the set with the image encoder that this adapter needs.
    pub fn image_encoder(&self) -> Option<&str> {
        self.entry.image_encoder.as_deref()
    }

    /// Name of the set with the base model that this was made for.
    pub fn model(&self) -> Option<&str> {
        self.entry.model.as_deref()
    }

    /// Size of its only file, if a published listing says it; [`Hub::plan`](crate::Hub::plan) asks for all others.
    pub fn bytes(&self) -> Option<u64> {
        self.entry.bytes
    }

    /// For each file the names that it may have, the best first.
    pub(crate) fn choices(&self) -> impl Iterator<Item = &[String]> {
        self.entry.files.iter().map(Choice::names)
    }

    /// The part of the repository that is handed on, if not the whole.
    pub(crate) fn folder(&self) -> Option<&str> {
        self.entry.folder.as_deref()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn refused(changed: &str, to: &str) -> String {
        let good = "[a]\nkind = \"adapter\"\nabout = \"x\"\nrepo = \"o/n\"\nrevision = \"main\"\nlicence = \"mit\"\nfiles = [\"f.bin\"]\n";
        assert!(Sets::parse(good).is_ok() && good.contains(changed));
        Sets::parse(&good.replace(changed, to)).unwrap_err().to_string()
    }

    #[test]
    fn the_bundled_list_is_usable() {
        let sets = Sets::parse(BUNDLED).unwrap();
        for name in ["sd15", "sd15-inpaint", "sd21", "sdxl", "clip-l", "clip-h", "clip-bigg", "lcm-lora", "vae-ft-mse"]
        {
            assert!(sets.get(name).is_ok(), "{name}");
        }
        for set in sets.iter() {
            let encoder = set.image_encoder().map(|name| sets.get(name).unwrap().kind());
            assert!(encoder.is_none_or(|kind| kind == Kind::ImageEncoder), "{}", set.name());
            assert!(set.bytes().is_none() || set.choices().count() == 1, "{}", set.name());
            assert_eq!(set.kind() == Kind::Adapter, set.name().starts_with("ip-adapter"), "{}", set.name());
        }
    }

    #[test]
    fn an_unknown_name_is_told_with_the_nearest() {
        let nearest = |name| match Sets::bundled().get(name) {
            Err(HubError::UnknownSet { nearest, .. }) => nearest,
            found => panic!("{found:?}"),
        };
        assert_eq!(nearest("SD15").as_deref(), Some("sd15"));
        assert_eq!(nearest("ip-adpater-plus").as_deref(), Some("ip-adapter-plus"));
        assert_eq!(nearest("openpose").as_deref(), Some("controlnet-openpose"));
        assert_eq!(nearest("something else"), None);
    }

    #[test]
    fn nothing_reaches_out_of_its_folder() {
        for path in ["../f", "/f", "a/../../f", "a//f", "a\\\\f", "C:f", "f/", ".", "a/./f", "f\\u0000", "f.", ""] {
            assert!(refused("f.bin", path).contains("may lead out"), "{path}");
        }
        for repo in ["n", "o/n/m", "../n", "o/..", "o/", "o--p/n", "o/n?x", "o/ n"] {
            assert!(refused("o/n", repo).contains("owner/name"), "{repo}");
        }
        assert!(refused("main", "../main").contains("revision"));
    }

    #[test]
    fn a_list_with_gaps_is_refused() {
        assert!(refused("[\"f.bin\"]", "[\"f.bin\", \"g.bin\"]").contains("of one file"));
        assert!(refused("[\"f.bin\"]", "[]").contains("no `files`"));
        assert!(refused("about", "abuot").contains("abuot"));
        assert!(refused("licence", "image_encoder = \"b\"\nlicence").contains("not there"));
    }
}
