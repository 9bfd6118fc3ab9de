//! What the hub says a repository holds.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use crate::HubError;
use crate::digest::{Etag, is_hex};
use crate::sets::Set;

const LONGEST_LICENCE: usize = 80;

/// A repository's files at one commit.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) commit: String,
    /// Whether terms have to be accepted before its files can be read.
    pub(crate) gated: bool,
    /// The licence's name on the card.
    pub(crate) licence: Option<String>,
    files: HashMap<String, Option<Remote>>,
}

/// A file as it has to arrive.
#[derive(Debug, Clone)]
pub(crate) struct Remote {
    pub(crate) size: u64,
    pub(crate) etag: Etag,
}

#[derive(Deserialize)]
struct Answer {
    sha: String,
    #[serde(default)]
    gated: Value,
    #[serde(default, rename = "cardData")]
    card: Value,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

impl Sibling {
    fn remote(&self) -> Option<Remote> {
        match &self.lfs {
            Some(lfs) => Some(Remote { size: lfs.size, etag: Etag::parse(&lfs.sha256)? }),
            None => Some(Remote { size: self.size?, etag: Etag::parse(self.blob.as_deref()?)? }),
        }
    }
}

/// Whether a text is the name of a git commit.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && is_hex(text)
}

impl Listing {
    /// Reads an answer of the hub, of which nothing is believed beyond its form.
    pub(crate) fn parse(bytes: &[u8], url: &str) -> Result<Self, HubError> {
        let protocol = |problem: String| HubError::Protocol { url: url.to_owned(), problem };
        let answer: Answer = serde_json::from_slice(bytes).map_err(|error| protocol(error.to_string()))?;
        if !is_commit(&answer.sha) {
            return Err(protocol("it names no commit".to_owned()));
        }
        let licence = answer.card.get("license").and_then(Value::as_str).map(|text| {
            text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(LONGEST_LICENCE).collect::<String>()
        });
        Ok(Self {
            commit: answer.sha,
            gated: !matches!(answer.gated, Value::Null | Value::Bool(false)),
            licence: licence.filter(|text| !text.is_empty()),
            files: answer.siblings.into_iter().map(|file| (file.rfilename.clone(), file.remote())).collect(),
        })
    }

    /// The files of a set: of each choice the first name that is there. Names come from the set alone.
    pub(crate) fn choose(&self, set: &Set, url: &str) -> Result<Vec<(String, Remote)>, HubError> {
        set.choices().map(|names| self.first_of(names, set, url)).collect()
    }

    fn first_of(&self, names: &[String], set: &Set, url: &str) -> Result<(String, Remote), HubError> {
        let Some(name) = names.iter().find(|name| self.files.contains_key(*name)) else {
            let (repo, revision) = (set.repo().to_owned(), set.revision().to_owned());
            return Err(HubError::NoFile { repo, revision, file: names.join(" or ") });
        };
        let problem = || format!("it gives no size and digest of {name}");
        let remote = self.files[name].clone();
        let remote = remote.ok_or_else(|| HubError::Protocol { url: url.to_owned(), problem: problem() })?;
        Ok((name.clone(), remote))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Sets;

    const COMMIT: &str = "0123456789012345678901234567890123456789";

    fn listing(rest: &str) -> Result<Listing, HubError> {
        Listing::parse(format!("{{\"sha\":\"{COMMIT}\",{rest}}}").as_bytes(), "u")
    }

    fn set() -> Set {
        let text = "[a]\nkind = \"vae\"\nabout = \"\"\nrepo = \"o/n\"\nrevision = \"main\"\nlicence = \"\"\nfiles = [[\"x.safetensors\", \"x.bin\"]]";
        Sets::parse(text).unwrap().get("a").unwrap().clone()
    }

    #[test]
    fn the_best_form_of_a_file_is_chosen() {
        let file = |name: &str| format!("{{\"rfilename\":\"{name}\",\"size\":3,\"blobId\":\"{COMMIT}\"}}");
        let chosen = |files: &[String]| {
            listing(&format!("\"siblings\":[{}]", files.join(",")))
                .unwrap()
                .choose(&set(), "u")
                .map(|files| files[0].0.clone())
        };
        assert_eq!(chosen(&[file("x.bin"), file("x.safetensors")]).unwrap(), "x.safetensors");
        assert_eq!(chosen(&[file("x.bin"), file("../../x.safetensors")]).unwrap(), "x.bin");
        let error = chosen(&[file("y.bin")]).unwrap_err().to_string();
        assert!(error.contains("no x.safetensors or x.bin"), "{error}");
    }

    #[test]
    fn large_files_have_the_digest_of_their_bytes() {
        let sha256 = "ab".repeat(32);
        let file = format!(
            "{{\"rfilename\":\"x.bin\",\"size\":130,\"blobId\":\"{COMMIT}\",\"lfs\":{{\"sha256\":\"{sha256}\",\"size\":9}}}}"
        );
        let files = listing(&format!("\"siblings\":[{file}]")).unwrap().choose(&set(), "u").unwrap();
        assert_eq!((files[0].1.size, &files[0].1.etag), (9, &Etag::Sha256(sha256)));
    }

    #[test]
    fn gates_and_licences_are_read() {
        let open = listing("\"siblings\":[],\"gated\":false,\"cardData\":{\"license\":\"mit\\u001b[1m\"}").unwrap();
        assert_eq!((open.gated, open.licence.as_deref()), (false, Some("mit[1m")));
        let gated = listing("\"siblings\":[],\"gated\":\"auto\",\"cardData\":{\"license\":[1]}").unwrap();
        assert_eq!((gated.gated, gated.licence), (true, None));
    }

    #[test]
    fn nonsense_is_refused() {
        let evil = "{\"rfilename\":\"x.bin\",\"size\":3,\"blobId\":\"../../../../../../../../../../../../etc/x\"}";
        let error = listing(&format!("\"siblings\":[{evil}]")).unwrap().choose(&set(), "u").unwrap_err();
        assert!(error.to_string().contains("size and digest"), "{error}");
        assert!(listing("\"siblings\":[{\"rfilename\":\"x\",\"size\":-1}]").is_err());
        assert!(Listing::parse(b"{\"sha\":\"../evil\",\"siblings\":[]}", "u").is_err());
        assert!(Listing::parse(b"<html>", "u").is_err());
    }
}
