//! The tokenizer against transformers' `CLIPTokenizer`. Reference values: tests/fixtures/tokenizer.py
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use ipa_clip::{ClipTokenizer, TextConfig, TokenizerError};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

const NUM_MERGES_FULL: usize = 49152 - 256 - 2;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tokenizer")
}

#[derive(Deserialize)]
struct Cases {
    texts: Vec<String>,
    ids: Vec<Vec<i64>>,
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> T {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn assert_ids(tokenizer: &ClipTokenizer, texts: &[String], expected: &[Vec<i64>]) {
    assert_eq!(texts.len(), expected.len());
    for (text, expected) in texts.iter().zip(expected) {
        assert_eq!(&tokenizer.encode(text).unwrap(), expected, "{text:?}");
    }
}

/// A copy of the fixture's vocabulary and merges with nothing beside them.
fn bare_folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["vocab.json", "merges.txt"] {
        fs::copy(fixture().join(name), dir.path().join(name)).unwrap();
    }
    dir
}

fn write(dir: &TempDir, name: &str, value: &Value) {
    fs::write(dir.path().join(name), value.to_string()).unwrap();
}

#[test]
fn ids_equal_the_reference() {
    let tokenizer = ClipTokenizer::from_folder(&fixture()).unwrap();
    let cases: Cases = read(&fixture().join("cases.json"));
    assert_ids(&tokenizer, &cases.texts, &cases.ids);
    assert_eq!((tokenizer.max_length(), tokenizer.bos_id(), tokenizer.eos_id()), (77, 1112, 1113));
    assert_eq!(tokenizer.pad_id(), tokenizer.eos_id());
}

/// With CLIP's whole vocabulary, where its published merge list lies beside the repository.
#[test]
fn ids_of_the_whole_vocabulary_equal_the_reference() {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/clip/bpe_simple_vocab_16e6.txt.gz");
    let Ok(packed) = fs::File::open(&list) else {
        println!("skipped: {} is not there", list.display());
        return;
    };
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed).read_to_string(&mut text).unwrap();
    let merges: Vec<&str> = text.lines().skip(1).take(NUM_MERGES_FULL).collect();

    // The single bytes have the same ids in every cut of the vocabulary.
    let reduced: HashMap<String, usize> = read(&fixture().join("vocab.json"));
    let mut vocab: HashMap<String, usize> = reduced.into_iter().filter(|(_, id)| *id < 512).collect();
    let merged = merges.iter().map(|merge| merge.replace(' ', ""));
    let specials = ["<|startoftext|>", "<|endoftext|>"].map(str::to_owned);
    vocab.extend(merged.chain(specials).enumerate().map(|(index, token)| (token, 512 + index)));
    assert_eq!(vocab.len(), 49408);

    let dir = tempfile::tempdir().unwrap();
    write(&dir, "vocab.json", &json!(vocab));
    fs::write(dir.path().join("merges.txt"), format!("#version: 0.2\n{}\n", merges.join("\n"))).unwrap();
    let tokenizer = ClipTokenizer::from_folder(dir.path()).unwrap();

    let cases: Cases = read(&fixture().join("cases.json"));
    let full: Value = read(&fixture().join("full.json"));
    let expected: Vec<Vec<i64>> = serde_json::from_value(full["ids"].clone()).unwrap();
    assert_ids(&tokenizer, &cases.texts, &expected);
}

/// Special tokens with rules, padding with "!", added tokens, another length.
#[test]
fn settings_of_the_folder_are_respected() {
    #[derive(Deserialize)]
    struct Variant {
        name: String,
        tokenizer_config: Value,
        special_tokens_map: Value,
        ids: Vec<Vec<i64>>,
    }
    #[derive(Deserialize)]
    struct Variants {
        texts: Vec<String>,
        variants: Vec<Variant>,
    }
    let Variants { texts, variants } = read(&fixture().join("variants.json"));
    for Variant { name, tokenizer_config, special_tokens_map, ids } in variants {
        let dir = bare_folder();
        write(&dir, "tokenizer_config.json", &tokenizer_config);
        write(&dir, "special_tokens_map.json", &special_tokens_map);
        println!("{name}");
        assert_ids(&ClipTokenizer::from_folder(dir.path()).unwrap(), &texts, &ids);
    }
}

#[test]
fn vocabulary_and_merges_are_enough() {
    let dir = bare_folder();
    let cases: Cases = read(&fixture().join("cases.json"));
    assert_ids(&ClipTokenizer::from_folder(dir.path()).unwrap(), &cases.texts, &cases.ids);
}

#[test]
fn tokenizer_json_alone_is_enough() {
    let vocab: Value = read(&fixture().join("vocab.json"));
    let text = fs::read_to_string(fixture().join("merges.txt")).unwrap();
    let lines: Vec<&str> = text.lines().skip(1).collect();
    let pairs: Vec<Vec<&str>> = lines.iter().map(|line| line.split(' ').collect()).collect();
    let cases: Cases = read(&fixture().join("cases.json"));
    for merges in [json!(lines), json!(pairs)] {
        let dir = tempfile::tempdir().unwrap();
        write(&dir, "tokenizer.json", &json!({"model": {"type": "BPE", "vocab": vocab, "merges": merges}}));
        assert_ids(&ClipTokenizer::from_folder(dir.path()).unwrap(), &cases.texts, &cases.ids);
    }
}

#[test]
fn overflow_names_the_words_that_are_cut() {
    let tokenizer = ClipTokenizer::from_folder(&fixture()).unwrap();
    let fits = ["the"; 75].join(" ");
    assert_eq!(tokenizer.overflow("a photo of a cat"), None);
    assert_eq!(tokenizer.overflow(&fits), None);
    assert_eq!(tokenizer.overflow(&format!("{fits} and  More, é")).as_deref(), Some("and  More, é"));
    // a word of several tokens that is cut in its middle
    let nearly = ["the"; 74].join(" ");
    assert_eq!(tokenizer.overflow(&format!("{nearly} Zyxwvut é")).as_deref(), Some("Zyxwvut é"));
    assert_eq!(tokenizer.overflow(&format!("{fits} <|endoftext|> x")).as_deref(), Some("<|endoftext|> x"));
    assert_eq!(tokenizer.overflow(&"😀".repeat(60)).as_deref(), Some("😀".repeat(60).as_str()));
}

/// Whether the fault lies in this file.
fn in_file(error: &TokenizerError, name: &str) -> bool {
    matches!(error, TokenizerError::File { source, .. } if source.to_string().contains(name))
}

#[test]
fn towers_of_fewer_tokens_or_places_are_refused_by_field() {
    let tower = TextConfig { vocab_size: 1114, ..TextConfig::clip_l() };
    assert!(ClipTokenizer::for_tower(&fixture(), &tower, None).is_ok());
    let padded = ClipTokenizer::for_tower(&fixture(), &tower, Some("!")).unwrap();
    assert_eq!(padded.encode("").unwrap()[1..], [&[padded.eos_id()][..], &[padded.pad_id(); 75]].concat());
    assert_ne!(padded.pad_id(), padded.eos_id());
    for (tower, field) in [
        (TextConfig { vocab_size: 1113, ..tower.clone() }, "vocab_size"),
        (TextConfig { max_position_embeddings: 76, ..tower }, "max_position_embeddings"),
    ] {
        let error = ClipTokenizer::for_tower(&fixture(), &tower, None).unwrap_err().to_string();
        assert!(error.contains(field) && error.contains("fixtures/tokenizer"), "{error}");
    }
}

#[test]
fn damaged_folders_are_refused_with_the_place() {
    let error_with = |name: &str, content: &str| {
        let dir = bare_folder();
        fs::write(dir.path().join(name), content).unwrap();
        ClipTokenizer::from_folder(dir.path()).unwrap_err()
    };
    let empty = tempfile::tempdir().unwrap();
    let missing = ClipTokenizer::from_folder(empty.path()).unwrap_err();
    assert!(in_file(&missing, "vocab.json"), "{missing}");

    let cut = error_with("vocab.json", "{\"a\": 1");
    assert!(in_file(&cut, "vocab.json"), "{cut}");
    let negative = error_with("vocab.json", "{\"a\": -1}");
    assert!(in_file(&negative, "vocab.json"), "{negative}");
    let broken = error_with("special_tokens_map.json", r#"{"bos_token": 3}"#);
    assert!(in_file(&broken, "special_tokens_map.json"), "{broken}");
    let lonely = error_with("merges.txt", "#version: 0.2\ni n\nin\n");
    assert!(matches!(lonely, TokenizerError::Merge { number: 3, .. }), "{lonely}");
    let unknown = error_with("merges.txt", "#version: 0.2\nqqq zzz\n");
    assert!(matches!(unknown, TokenizerError::Build { .. }), "{unknown}");
    let absent = error_with("tokenizer_config.json", r#"{"pad_token": "<pad>"}"#);
    assert!(matches!(&absent, TokenizerError::SpecialToken { role: "pad_token", .. }), "{absent}");
    let short = error_with("tokenizer_config.json", r#"{"model_max_length": 1}"#);
    assert!(matches!(short, TokenizerError::MaxLength { .. }), "{short}");
}
