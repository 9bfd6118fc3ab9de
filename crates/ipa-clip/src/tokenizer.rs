//! CLIP's byte-pair tokenizer.

mod files;

use std::path::{Path, PathBuf};

use ipa_formats::FormatError;
use tokenizers::models::bpe::{BPE, BpeBuilder};
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::{AddedToken, Encoding, SplitDelimiterBehavior, Tokenizer};

use crate::TextConfig;
use files::TokenizerFiles;

/// Contractions, runs of letters, single digits, runs of anything else; spaces only separate.
const WORDS: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// CLIP's byte-pair tokenizer, from the published folder layout (`vocab.json` and `merges.txt`).
///
/// Equals transformers 5.23's `CLIPTokenizer` called with `padding="max_length", truncation=True`: NFC, spaces
/// joined, lower case, then byte pairs within words. No HTML entity is decoded and no broken Unicode repaired,
/// as transformers does neither.
#[derive(Debug)]
pub struct ClipTokenizer {
    tokenizer: Tokenizer,
    max_length: usize,
    bos_id: u32,
    eos_id: u32,
    pad_id: u32,
}

impl ClipTokenizer {
    /// Reads a tokenizer folder: `vocab.json` and `merges.txt`, or `tokenizer.json` alone.
    ///
    /// `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` are respected where they are there;
    /// without them the length is 77 and everything but the start is `<|endoftext|>`, as in Stable Diffusion 1.x.
    ///
    /// # Errors
    /// Any [`TokenizerError`] but [`TokenizerError::Tower`] and [`TokenizerError::Encode`].
    pub fn from_folder(dir: &Path) -> Result<Self, TokenizerError> {
        Self::of_files(dir, TokenizerFiles::read(dir)?)
    }

    fn of_files(dir: &Path, files: TokenizerFiles) -> Result<Self, TokenizerError> {
        let max_length = files.max_length;
        let specials = [("bos_token", &files.bos), ("eos_token", &files.eos), ("pad_token", &files.pad)]
            .map(|(role, token)| (role, token.content.clone()));
        let tokenizer = build(files).map_err(|source| TokenizerError::Build { path: dir.to_path_buf(), source })?;
        let [bos_id, eos_id, pad_id] = specials.map(|(role, token)| {
            tokenizer.token_to_id(&token).ok_or(TokenizerError::SpecialToken { path: dir.to_path_buf(), role, token })
        });
        Ok(Self { tokenizer, max_length, bos_id: bos_id?, eos_id: eos_id?, pad_id: pad_id? })
    }

    /// As [`from_folder`](Self::from_folder), for a text tower that has to know every id and every place. `pad_token`
    /// fills up in place of the one that the folder names.
    ///
    /// # Errors
    /// Any [`TokenizerError`] but [`TokenizerError::Encode`].
    pub fn for_tower(dir: &Path, tower: &TextConfig, pad_token: Option<&str>) -> Result<Self, TokenizerError> {
        let mut files = TokenizerFiles::read(dir)?;
        if let Some(pad) = pad_token {
            files.pad = AddedToken::from(pad, true);
        }
        let tokenizer = Self::of_files(dir, files)?;
        let (max_length, last_id) = (tokenizer.max_length as i64, tokenizer.last_id());
        let (positions, vocab_size) = (tower.max_position_embeddings, tower.vocab_size);
        let fits = |field, found, allowed| match found <= allowed {
            true => Ok(()),
            false => Err(TokenizerError::Tower { path: dir.to_path_buf(), field, found, allowed }),
        };
        fits("max_position_embeddings", max_length, positions)?;
        fits("vocab_size", last_id + 1, vocab_size)?;
        Ok(tokenizer)
    }

    /// Number of ids that [`encode`](Self::encode) returns; the positions a text tower has, 77 in published models.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Id of the token that starts every text.
    pub fn bos_id(&self) -> i64 {
        self.bos_id.into()
    }

    /// Id of the token that ends every text; the text tower is pooled at its first position.
    pub fn eos_id(&self) -> i64 {
        self.eos_id.into()
    }

    /// Id that fills up after the end: the end token again in Stable Diffusion 1.x, 0 in SDXL's second tokenizer.
    pub fn pad_id(&self) -> i64 {
        self.pad_id.into()
    }

    /// The ids of a text: start, words, end, padding; [`max_length`](Self::max_length) of them.
    ///
    /// What does not fit is cut off, the end token stays; [`overflow`](Self::overflow) tells what was cut.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub fn encode(&self, text: &str) -> Result<Vec<i64>, TokenizerError> {
        let words = self.word_ids(text)?.into_iter().take(self.max_words());
        let mut ids: Vec<i64> = [self.bos_id()].into_iter().chain(words).chain([self.eos_id()]).collect();
        ids.resize(self.max_length, self.pad_id());
        Ok(ids)
    }

    /// The ids of a text's words alone, however many there are.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub fn word_ids(&self, text: &str) -> Result<Vec<i64>, TokenizerError> {
        Ok(self.words(text)?.get_ids().iter().map(|&id| id.into()).collect())
    }

    /// The end of a text that [`encode`](Self::encode) cuts off, from the first word that is not kept whole.
    ///
    /// `None` if everything fits. Meant for a warning.
    pub fn overflow(&self, text: &str) -> Option<String> {
        self.overflow_of(text, self.max_words())
    }

    /// As [`overflow`](Self::overflow), where only the first `first_cut` tokens of a text are kept.
    pub fn overflow_of(&self, text: &str, first_cut: usize) -> Option<String> {
        let words = self.words(text).ok()?;
        let (mut start, _) = *words.get_offsets().get(first_cut)?;
        if let Some(word) = words.get_word_ids()[first_cut] {
            let first_of_word = words.get_word_ids().iter().position(|&id| id == Some(word))?;
            start = words.get_offsets()[first_of_word].0;
        }
        text.get(start..).map(|rest| rest.trim().to_owned())
    }

    fn last_id(&self) -> i64 {
        self.tokenizer.get_vocab(true).values().max().copied().unwrap_or_default().into()
    }

    /// How many tokens fit between the start and the end token.
    fn max_words(&self) -> usize {
        self.max_length - 2
    }

    fn words(&self, text: &str) -> Result<Encoding, TokenizerError> {
        self.tokenizer.encode(text, false).map_err(|source| TokenizerError::Encode { source })
    }
}

/// Why a text could not be made into ids.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file of the folder is missing, damaged or of another kind of tokenizer.
    #[error("{path} is no folder of a CLIP tokenizer, which holds vocab.json and merges.txt, or tokenizer.json")]
    File {
        /// Folder of the tokenizer.
        path: PathBuf,
        /// The file, and the field, at fault.
        source: FormatError,
    },
    /// A merge is not two symbols with a space between them.
    #[error("merge {number} in {path} is not two symbols with a space between; fetch the tokenizer folder again")]
    Merge {
        /// File that was read.
        path: PathBuf,
        /// Which merge: the line of `merges.txt`, the place in `tokenizer.json`; from 1.
        number: usize,
    },
    /// `model_max_length` leaves no room for a start and an end.
    #[error("{path} sets model_max_length to {value}; at least 2 is needed, 77 is usual")]
    MaxLength {
        /// File that sets it.
        path: PathBuf,
        /// What it says.
        value: f64,
    },
    /// The vocabulary does not hold a token that every text needs.
    #[error("the vocabulary in {path} lacks the {role} `{token}`; fetch the tokenizer folder again")]
    SpecialToken {
        /// Folder of the tokenizer.
        path: PathBuf,
        /// Its name in the configuration.
        role: &'static str,
        /// The token itself.
        token: String,
    },
    /// Vocabulary and merges contradict each other.
    #[error("the tokenizer files in {path} do not fit together; fetch the tokenizer folder again")]
    Build {
        /// Folder of the tokenizer.
        path: PathBuf,
        /// What does not fit.
        source: tokenizers::Error,
    },
    /// The text tower was made for another tokenizer.
    #[error(
        "the tokenizer in {path} needs a text encoder whose `{field}` is at least {found}, this one has {allowed}; \
         take both from one model"
    )]
    Tower {
        /// Folder of the tokenizer.
        path: PathBuf,
        /// Field of the tower's configuration.
        field: &'static str,
        /// What the tokenizer needs.
        found: i64,
        /// What the tower has.
        allowed: i64,
    },
    /// The text could not be split into words.
    #[error("cannot split the text into tokens; try a shorter or simpler one")]
    Encode {
        /// The reason.
        source: tokenizers::Error,
    },
}

/// The pipeline of transformers' `CLIPTokenizer`, without its post-processor: `encode` adds start and end.
fn build(files: TokenizerFiles) -> Result<Tokenizer, tokenizers::Error> {
    let bpe: BPE = BpeBuilder::new()
        .vocab_and_merges(files.vocab.into_iter().collect::<tokenizers::models::bpe::Vocab>(), files.merges)
        .end_of_word_suffix("</w>".to_owned())
        .unk_token(files.unk.content.clone())
        .build()?;
    let one_space = Replace::new(ReplacePattern::Regex(r"\s+".to_owned()), " ")?;
    let words = Split::new(SplitPattern::Regex(WORDS.to_owned()), SplitDelimiterBehavior::Removed, true)?;
    let bytes = ByteLevel::default().add_prefix_space(false);

    let mut tokenizer = Tokenizer::new(bpe);
    tokenizer
        .with_normalizer(Some(Normalizers::new(vec![NFC.into(), one_space.into(), Lowercase.into()])))
        .with_pre_tokenizer(Some(PreTokenizers::new(vec![words.into(), bytes.into()])));
    // Special tokens are found inside a text too: typing <|endoftext|> gives its id, and where "!" is the padding
    // (SDXL's second tokenizer) every "!" does. The model's vocabulary knows them already.
    let mut known: Vec<AddedToken> = files.added;
    for special in [files.bos, files.eos, files.unk, files.pad] {
        match known.iter_mut().find(|token| token.content == special.content) {
            Some(token) => *token = special, // Parity: of several rules for one token the last counts
            None if tokenizer.token_to_id(&special.content).is_some() => known.push(special),
            None => {} // `from_folder` refuses the folder if texts need it
        }
    }
    tokenizer.add_tokens(&known);
    Ok(tokenizer)
}
