//! What the files of a tokenizer folder say.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use ipa_formats::{FormatError, read_json, read_json_if_there, read_text};
use serde::Deserialize;
use tokenizers::tokenizer::AddedToken;

use super::TokenizerError;

const DEFAULT_MAX_LENGTH: usize = 77;
/// Larger lengths stand for "not set": transformers writes 1e30.
const LARGEST_MAX_LENGTH: f64 = 65536.0;

/// Everything a tokenizer is built from.
#[derive(Debug)]
pub(super) struct TokenizerFiles {
    pub(super) vocab: HashMap<String, u32>,
    pub(super) merges: Vec<(String, String)>,
    /// Tokens beyond the vocabulary, or with rules of their own, in the order of their ids.
    pub(super) added: Vec<AddedToken>,
    pub(super) bos: AddedToken,
    pub(super) eos: AddedToken,
    pub(super) pad: AddedToken,
    pub(super) unk: AddedToken,
    pub(super) max_length: usize,
}

impl TokenizerFiles {
    pub(super) fn read(dir: &Path) -> Result<Self, TokenizerError> {
        let unusable = unusable(dir);
        let config_path = dir.join("tokenizer_config.json");
        let mut settings: Settings = read_json_if_there(&config_path).map_err(unusable)?.unwrap_or_default();
        let max_length = match settings.model_max_length {
            Some(value) if value < 2.0 => return Err(TokenizerError::MaxLength { path: config_path, value }),
            Some(value) if value <= LARGEST_MAX_LENGTH => value as usize,
            _ => DEFAULT_MAX_LENGTH,
        };

        let Vocabulary { ids, merges, added } = Vocabulary::read(dir)?;
        // Parity: a folder that lists its added tokens here is read without the two older files.
        let added = match settings.added_tokens_decoder.take() {
            Some(added) => added.into_values().map(Token::into_added).collect(),
            None => {
                let map = read_json_if_there::<Settings>(&dir.join("special_tokens_map.json")).map_err(unusable)?;
                if let Some(map) = map {
                    settings = map.or(settings);
                }
                let listed: Option<HashMap<String, u32>> =
                    read_json_if_there(&dir.join("added_tokens.json")).map_err(unusable)?;
                let specials = settings.special_contents();
                let mut listed: Vec<(u32, String)> =
                    listed.into_iter().flatten().map(|(token, id)| (id, token)).collect();
                listed.sort();
                let listed = listed.into_iter().map(|(_, token)| {
                    let is_special = specials.contains(&token);
                    AddedToken::from(token, is_special)
                });
                added.into_iter().map(Token::into_added).chain(listed).collect::<Vec<_>>()
            }
        };

        let special = |token: Option<Token>, default: &str| {
            let token = token.unwrap_or_else(|| Token::Plain(default.to_owned()));
            let listed = added.iter().find(|listed| listed.content == token.content());
            listed.cloned().unwrap_or_else(|| token.into_added()).special(true)
        };
        Ok(Self {
            bos: special(settings.bos_token, "<|startoftext|>"),
            eos: special(settings.eos_token, "<|endoftext|>"),
            pad: special(settings.pad_token, "<|endoftext|>"),
            unk: special(settings.unk_token, "<|endoftext|>"),
            vocab: ids,
            merges,
            added,
            max_length,
        })
    }
}

/// The fields of `tokenizer_config.json` that matter here; `special_tokens_map.json` has some of them.
#[derive(Debug, Default, Deserialize)]
struct Settings {
    bos_token: Option<Token>,
    eos_token: Option<Token>,
    pad_token: Option<Token>,
    unk_token: Option<Token>,
    model_max_length: Option<f64>,
    added_tokens_decoder: Option<BTreeMap<u32, Token>>,
}

impl Settings {
    /// The special tokens of `self`, and those of `other` where `self` has none.
    fn or(self, other: Self) -> Self {
        Self {
            bos_token: self.bos_token.or(other.bos_token),
            eos_token: self.eos_token.or(other.eos_token),
            pad_token: self.pad_token.or(other.pad_token),
            unk_token: self.unk_token.or(other.unk_token),
            ..other
        }
    }

    fn special_contents(&self) -> Vec<String> {
        let tokens = [&self.bos_token, &self.eos_token, &self.pad_token, &self.unk_token];
        tokens.into_iter().flatten().map(|token| token.content().to_owned()).collect()
    }
}

/// A token with or without its rules for matching.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Token {
    Plain(String),
    Ruled {
        content: String,
        #[serde(default)]
        single_word: bool,
        #[serde(default)]
        lstrip: bool,
        #[serde(default)]
        rstrip: bool,
        normalized: Option<bool>,
        #[serde(default)]
        special: bool,
    },
}

impl Token {
    fn content(&self) -> &str {
        match self {
            Self::Plain(content) | Self::Ruled { content, .. } => content,
        }
    }

    fn into_added(self) -> AddedToken {
        match self {
            Self::Plain(content) => AddedToken::from(content, true),
            Self::Ruled { content, single_word, lstrip, rstrip, normalized, special } => {
                let token = AddedToken::from(content, special).single_word(single_word).lstrip(lstrip).rstrip(rstrip);
                let normalized = normalized.unwrap_or(token.normalized);
                token.normalized(normalized)
            }
        }
    }
}

/// Ids and merges, wherever the folder keeps them.
#[derive(Debug)]
struct Vocabulary {
    ids: HashMap<String, u32>,
    merges: Vec<(String, String)>,
    added: Vec<Token>,
}

impl Vocabulary {
    fn read(dir: &Path) -> Result<Self, TokenizerError> {
        let vocab_path = dir.join("vocab.json");
        let single_path = dir.join("tokenizer.json");
        if !vocab_path.exists() && single_path.exists() {
            return Self::read_single(dir, &single_path);
        }
        let ids = read_json(&vocab_path).map_err(unusable(dir))?;
        let merges_path = dir.join("merges.txt");
        let text = read_text(&merges_path).map_err(unusable(dir))?;
        let lines = text.lines().enumerate().filter(|(_, line)| !line.starts_with("#version"));
        let merges = lines
            .map(|(index, line)| {
                split_merge(line).ok_or_else(|| TokenizerError::Merge { path: merges_path.clone(), number: index + 1 })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { ids, merges, added: Vec::new() })
    }

    /// Parity: of `tokenizer.json`, transformers' CLIP class too takes the vocabulary only and builds the rest itself.
    fn read_single(dir: &Path, path: &Path) -> Result<Self, TokenizerError> {
        let file: TokenizerJson = read_json(path).map_err(unusable(dir))?;
        let merges = file.model.merges.into_iter().enumerate().map(|(index, merge)| {
            match merge {
                Merge::Pair(first, second) => Some((first, second)),
                Merge::Line(line) => split_merge(&line),
            }
            .ok_or_else(|| TokenizerError::Merge { path: path.to_path_buf(), number: index + 1 })
        });
        Ok(Self { ids: file.model.vocab, merges: merges.collect::<Result<_, _>>()?, added: file.added_tokens })
    }
}

#[derive(Debug, Deserialize)]
struct TokenizerJson {
    model: BpeModel,
    #[serde(default)]
    added_tokens: Vec<Token>,
}

#[derive(Debug, Deserialize)]
struct BpeModel {
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
}

/// Older files join the two symbols with a space.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}

fn split_merge(line: &str) -> Option<(String, String)> {
    let (first, second) = line.split_once(' ')?;
    (!second.contains(' ')).then(|| (first.to_owned(), second.to_owned()))
}

fn unusable(dir: &Path) -> impl Fn(FormatError) -> TokenizerError + Copy {
    move |source| TokenizerError::File { path: dir.to_path_buf(), source }
}
