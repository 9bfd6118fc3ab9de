//! What files in a report's folder are called.

use ipa_formats::sha256_text;

/// Longer names are cut.
const MAX_CHARS: usize = 80;

/// A text as part of a file name: two texts have two names, also where `A` and `a` are one, and none leads out of its
/// folder.
pub(super) fn file_name(text: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name: String = text.chars().take(MAX_CHARS).map(|c| if allowed(c) { c } else { '-' }).collect();
    let name = name.trim_start_matches('.');
    let is_lower = !name.contains(|c: char| c.is_ascii_uppercase());
    match name == text && is_lower && !name.is_empty() {
        true => name.to_owned(),
        false => format!("{name}-{}", &sha256_text(text)[..8]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_apart_and_in_their_folder() {
        assert_eq!(file_name("000000397133"), "000000397133");
        assert_eq!(file_name("a.png"), "a.png");
        let texts = [
            "IMG.png",
            "img.png",
            "Img.png",
            "a/b",
            "a-b",
            "a b",
            "../a",
            "",
            ".",
            "ä",
            "ö",
            &"x".repeat(90),
            &"x".repeat(91),
        ];
        let names = texts.map(|text| file_name(text).to_lowercase()); // as macOS and Windows tell files apart
        for (index, name) in names.iter().enumerate() {
            assert!(!name.starts_with('.') && !name.contains('/') && !name.is_empty(), "{name}");
            assert!(!names[..index].contains(name), "{name} twice");
        }
    }
}
