//! The pocket model's tokenizer files, in CLIP's format, from the words of the drawn world.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use ipa_formats::{FormatError, write_atomically};
use serde_json::json;

const END_OF_WORD: &str = "</w>";
const BOS: &str = "<|startoftext|>";
const EOS: &str = "<|endoftext|>";

/// Longest prompt in tokens.
pub const MAX_LENGTH: i64 = 32;

/// Entries of the token table that [`write()`] makes for these words.
pub fn size(words: &[&str]) -> i64 {
    (2 * 256 + merges(words).len() + 2) as i64
}

/// Writes `vocab.json`, `merges.txt` and the two configuration files into `folder`.
///
/// Laid out as CLIP's: 256 bytes, the same ending a word, one entry a merge, begin and end of text.
///
/// # Errors
/// [`FormatError`] if a file cannot be written.
pub fn write(folder: &Path, words: &[&str]) -> Result<(), FormatError> {
    let merges = merges(words);
    let bytes: Vec<String> = byte_characters().map(String::from).collect();
    let ending = bytes.iter().map(|byte| format!("{byte}{END_OF_WORD}"));
    let merged = merges.iter().map(|(left, right)| format!("{left}{right}"));
    let tokens = bytes.iter().cloned().chain(ending).chain(merged).chain([BOS.to_owned(), EOS.to_owned()]);
    let vocab: BTreeMap<String, usize> = tokens.enumerate().map(|(id, token)| (token, id)).collect();
    let merge_lines: Vec<String> = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
    let config = json!({
        "tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_LENGTH, "do_lower_case": true,
        "bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": EOS, "errors": "replace",
    });
    let special = json!({ "bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": EOS });
    let files = [
        ("vocab.json", json!(vocab).to_string()),
        ("merges.txt", format!("#version: 0.2\n{}\n", merge_lines.join("\n"))),
        ("tokenizer_config.json", format!("{config:#}\n")),
        ("special_tokens_map.json", format!("{special:#}\n")),
    ];
    files.iter().try_for_each(|(name, text)| {
        write_atomically(&folder.join(name), |file: &mut dyn Write| file.write_all(text.as_bytes()))
    })
}

/// Byte-pair merges (arXiv:1508.07909) until every word is one token: the most frequent pair first, the
/// alphabetically first among equals.
fn merges(words: &[&str]) -> Vec<(String, String)> {
    let mut split: Vec<Vec<String>> = words.iter().map(|word| characters(word)).collect();
    let mut merges = Vec::new();
    loop {
        let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for pair in split.iter().flat_map(|word| word.windows(2)) {
            *counts.entry((&pair[0], &pair[1])).or_default() += 1;
        }
        let Some((&(left, right), _)) = counts.iter().rev().max_by_key(|(_, count)| **count) else { return merges };
        let pair = (left.to_owned(), right.to_owned());
        split.iter_mut().for_each(|word| merge(word, &pair));
        merges.push(pair);
    }
}

fn characters(word: &str) -> Vec<String> {
    let mut characters: Vec<String> = word.chars().map(String::from).collect();
    if let Some(last) = characters.last_mut() {
        last.push_str(END_OF_WORD);
    }
    characters
}

fn merge(word: &mut Vec<String>, (left, right): &(String, String)) {
    let mut index = 0;
    while index + 1 < word.len() {
        if word[index] == *left && word[index + 1] == *right {
            let removed = word.remove(index + 1);
            word[index].push_str(&removed);
        }
        index += 1;
    }
}

/// The characters that stand for the 256 bytes in byte-level vocabularies: printable ones for themselves, first;
/// the others, in order, from U+0100 on.
fn byte_characters() -> impl Iterator<Item = char> {
    let printable = |byte: &u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let own = (0..=255_u8).filter(printable).map(char::from);
    let num_others = (0..=255_u8).filter(|byte| !printable(byte)).count() as u32;
    own.chain((0..num_others).map(|index| char::from_u32(256 + index).expect("below the surrogates")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use ipa_clip::ClipTokenizer;

    #[test]
    fn every_word_of_the_world_is_one_token() {
        let folder = tempfile::tempdir().unwrap();
        let words = ipa_pocket::vocabulary();
        write(folder.path(), &words).unwrap();
        let tokenizer = ClipTokenizer::from_folder(folder.path()).unwrap();
        assert_eq!(tokenizer.eos_id() + 1, size(&words));
        for word in words {
            let ids = tokenizer.encode(word).unwrap();
            assert_eq!(ids.len() as i64, MAX_LENGTH);
            assert_eq!((ids[0], ids[2]), (tokenizer.bos_id(), tokenizer.eos_id()), "{word} is one token");
        }
    }
}
