//! Which images a protocol run draws after.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::captions::{self, Listed};
use super::{ProtocolError, coco};
use crate::evaluation::{Set, Skipped};

/// Endings of images.
const IMAGE_ENDINGS: [&str; 4] = ["jpeg", "jpg", "png", "webp"];
/// Captions that an image can have; COCO's have five to seven.
const MAX_CAPTIONS: usize = 64;
/// CLIP reads 77 tokens.
const MAX_CAPTION_BYTES: usize = 2000;

/// The images of a set, and those of its list that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSet {
    /// In the order of their ids; the same on every machine with the same files, so that shards fit together.
    pub images: Vec<ProtocolImage>,
    /// Missing images, images without captions, and names that lead out of the folder.
    pub skipped: Vec<Skipped>,
}

/// An image and its captions. It was seen to be there, but not opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtocolImage {
    /// COCO's image id, else the name as listed; seeds and cases are named by it.
    pub id: String,
    /// The file.
    pub file: PathBuf,
    /// Its captions in the order of the list, COCO's by annotation id; at least one.
    pub captions: Vec<String>,
}

impl ImageSet {
    /// Opens a folder of images, or a file of captions, and takes the first `limit` images that can be used; what stands
    /// behind them is not looked at.
    ///
    /// In a folder, captions are looked for in `captions.json`, `captions.jsonl` or COCO's `captions_*.json`, there or in a
    /// folder `annotations`, and for a split such as COCO's `val2017` in the `annotations` beside it; of several COCO files
    /// that whose images are there is meant. Without any of these every image has its own in a `.txt` of its name, one a line. COCO's
    /// images lie beside its file, or in the folder of the split, as `val2017` for `captions_val2017.json`, there or one
    /// level up. A captions.json is `[{"image_file": …, "text": …}, …]`, a row a caption, with `captions` for several in
    /// one; or `{"<image file>": "<caption>" or ["<caption>", …]}`.
    ///
    /// # Errors
    /// [`ProtocolError`] naming file and field if the list cannot be read; [`ProtocolError::Ambiguous`],
    /// [`ProtocolError::Empty`]. Images that cannot be used are in [`Self::skipped`].
    pub fn open(path: &Path, limit: usize) -> Result<Self, ProtocolError> {
        let (list, root) = match path.is_dir() {
            true => (captions::list_in(path)?.or_else(|| coco::list_of_split(path)), path.to_owned()),
            false => (Some(path.to_owned()), folder_of(path).to_owned()),
        };
        let set = match list {
            None => Self::new(&root, sidecars(&root)?, limit),
            Some(list) => match coco::read(&list)? {
                Some(listed) => Self::new(&coco::image_folder(&list), listed, limit),
                None => Self::new(&root, captions::read(&list)?, limit),
            },
        }?;
        match set.images.is_empty() && set.skipped.is_empty() {
            true => Err(ProtocolError::Empty { path: path.to_owned() }),
            false => Ok(set),
        }
    }

    /// Tells what can be used from what cannot, until there are as many as wanted.
    fn new(root: &Path, listed: Vec<Listed>, limit: usize) -> Result<Self, ProtocolError> {
        let real = root.canonicalize().map_err(|source| ProtocolError::Folder { path: root.to_owned(), source })?;
        let mut set = Self { images: Vec::new(), skipped: Vec::new() };
        for Listed { id, file, captions, fault } in listed {
            if set.images.len() == limit {
                break;
            }
            let path = root.join(&file);
            let climbs = |part: Component<'_>| !matches!(part, Component::Normal(_) | Component::CurDir);
            let reason = if Path::new(&file).components().any(climbs) {
                Some("the name leads out of the folder; put the image below it")
            } else if fault.is_some() {
                fault
            } else if captions.iter().all(|caption| caption.trim().is_empty()) {
                Some("it has no caption, so that there is no CLIP-T; write one")
            } else if captions.len() > MAX_CAPTIONS || captions.iter().any(|caption| caption.len() > MAX_CAPTION_BYTES)
            {
                Some("it has more than 64 captions or one of more than 2,000 bytes; keep what describes it")
            } else {
                match path.canonicalize() {
                    Ok(found) if !found.starts_with(&real) => Some("a link leads out of the folder; copy the image"),
                    Ok(found) if found.is_file() => None,
                    Ok(_) => Some("it is not a file"),
                    Err(_) => Some("it is not there; names are relative to the folder of images"),
                }
            };
            match reason {
                Some(reason) => {
                    set.skipped.push(Skipped { set: Set::Protocol, case: id, file, reason: reason.to_owned() });
                }
                None => set.images.push(ProtocolImage { id, file: path, captions: spoken(captions) }),
            }
        }
        Ok(set)
    }
}

/// Whether a file is an image by its ending.
pub fn is_image(path: &Path) -> bool {
    let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    IMAGE_ENDINGS.contains(&ending.as_str())
}

/// Captions without those that say nothing.
fn spoken(captions: Vec<String>) -> Vec<String> {
    let trimmed = captions.iter().map(|caption| caption.trim().to_owned());
    trimmed.filter(|caption| !caption.is_empty()).collect()
}

/// Every image of a folder, with the captions in the text beside it.
fn sidecars(folder: &Path) -> Result<Vec<Listed>, ProtocolError> {
    let failed = |source| ProtocolError::Folder { path: folder.to_owned(), source };
    let mut listed = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if !is_image(&path) {
            continue;
        }
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = path.with_extension("txt");
        let mut image = Listed::new(file.clone(), file.clone(), Vec::new());
        match ipa_formats::read_text(&text) {
            Ok(text) => image.captions = text.lines().map(str::to_owned).collect(),
            Err(_) if !text.exists() => {}
            Err(_) => image.fault = Some("its .txt cannot be read; save it as plain UTF-8 text"),
        }
        listed.insert(file, image);
    }
    Ok(listed.into_values().collect())
}

/// The folder that a file lies in.
pub(super) fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    /// A folder with these files; names may have folders.
    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    fn open(path: &Path) -> Result<ImageSet, ProtocolError> {
        ImageSet::open(path, usize::MAX)
    }

    fn found(set: &ImageSet) -> Vec<(&str, Vec<&str>)> {
        set.images
            .iter()
            .map(|image| (image.id.as_str(), image.captions.iter().map(String::as_str).collect()))
            .collect()
    }

    fn skipped(set: &ImageSet) -> Vec<(&str, &str)> {
        set.skipped.iter().map(|skip| (skip.case.as_str(), skip.reason.as_str())).collect()
    }

    #[test]
    fn images_have_their_captions_beside_them() {
        let folder =
            folder(&[("b.png", ""), ("b.txt", "two\n\nthree\n"), ("a.JPG", ""), ("a.txt", "one"), ("c.webp", "")]);
        fs::write(folder.path().join("d.png"), "").unwrap();
        fs::write(folder.path().join("d.txt"), [0xFF, 0xFE]).unwrap();
        let set = open(folder.path()).unwrap();
        assert_eq!(found(&set), [("a.JPG", vec!["one"]), ("b.png", vec!["two", "three"])]);
        let [(first, no_caption), (second, no_text)] = skipped(&set)[..] else { panic!("{:?}", set.skipped) };
        assert_eq!((first, second), ("c.webp", "d.png"));
        assert!(no_caption.contains("no caption") && no_text.contains("UTF-8"), "{no_caption} {no_text}");
    }

    #[test]
    fn lists_of_captions_are_read_in_every_form() {
        let rows = r#"[{"image_file": "b.png", "text": "two"}, {"image_file": "a.png", "captions": ["one", "eins"]}]"#;
        let lines = "{\"image_file\": \"b.png\", \"text\": \"two\"}\n\n{\"image_file\": \"a.png\", \"text\": \"one\"}\n\
            {\"image_file\": \"a.png\", \"text\": \"eins\"}";
        let by_name = r#"{"b.png": "two", "a.png": ["one", "eins"]}"#;
        for (name, text) in [("captions.json", rows), ("captions.jsonl", lines), ("captions.json", by_name)] {
            let folder = folder(&[("a.png", ""), ("b.png", ""), (name, text)]);
            let expected = [("a.png", vec!["one", "eins"]), ("b.png", vec!["two"])];
            for path in [folder.path().to_owned(), folder.path().join(name)] {
                assert_eq!(found(&open(&path).unwrap()), expected, "{text}");
            }
        }
    }

    #[test]
    fn cocos_annotations_are_read_wherever_its_images_lie() {
        let json = r#"{"info": {}, "images": [{"id": 10, "file_name": "ten.jpg"}, {"id": 9, "file_name": "nine.jpg"}],
            "annotations": [{"id": 7, "image_id": 10, "caption": "later "}, {"id": 3, "image_id": 10, "caption": "first"},
            {"id": 5, "image_id": 9, "caption": "nine"}]}"#;
        let expected = [("9", vec!["nine"]), ("10", vec!["first", "later"])];
        for (list, images) in [
            ("captions_val2017.json", ""),
            ("captions_val2017.json", "val2017/"),
            ("annotations/captions_val2017.json", "val2017/"),
        ] {
            let images = ["nine.jpg", "ten.jpg"].map(|name| format!("{images}{name}"));
            let folder = folder(&[(list, json), (&images[0], ""), (&images[1], "")]);
            assert_eq!(found(&open(folder.path()).unwrap()), expected, "{list}");
            assert_eq!(found(&open(&folder.path().join(list)).unwrap()), expected, "{list}");
        }
        let all = folder(&[
            ("annotations/captions_val2017.json", json),
            ("annotations/captions_train2017.json", json),
            ("val2017/nine.jpg", ""),
            ("val2017/ten.jpg", ""),
        ]);
        for path in ["", "val2017"] {
            assert_eq!(found(&open(&all.path().join(path)).unwrap()), expected, "`{path}` of all of COCO");
        }
        let renamed = folder(&[("my.json", json), ("nine.jpg", "")]);
        let set = open(&renamed.path().join("my.json")).unwrap();
        assert_eq!((found(&set).len(), set.skipped[0].case.as_str()), (1, "10"));
    }

    #[test]
    fn a_fault_of_one_image_does_not_cost_the_others() {
        let rows = r#"[{"image_file": "../out.png", "text": "x"}, {"image_file": "gone.png", "text": "x"},
            {"image_file": "a.png", "text": "one"}, {"image_file": "mute.png", "text": "  "}, {"image_file": "sub", "text": "x"}]"#;
        let folder = folder(&[("a.png", ""), ("mute.png", ""), ("sub/b.png", ""), ("captions.json", rows)]);
        let set = open(folder.path()).unwrap();
        assert_eq!(found(&set), [("a.png", vec!["one"])]);
        let reasons = skipped(&set);
        for (name, reason) in
            [("../out.png", "leads out"), ("gone.png", "not there"), ("mute.png", "no caption"), ("sub", "not a file")]
        {
            assert!(reasons.iter().any(|(found, why)| *found == name && why.contains(reason)), "{name}: {reasons:?}");
        }
    }

    #[test]
    fn what_stands_behind_the_last_image_wanted_is_not_told() {
        let many = vec!["x"; MAX_CAPTIONS + 1].join("\n");
        let long = "x".repeat(MAX_CAPTION_BYTES + 1);
        let folder = folder(&[
            ("a.png", ""),
            ("a.txt", &many),
            ("b.png", ""),
            ("b.txt", &long),
            ("c.png", ""),
            ("c.txt", "one"),
            ("d.png", ""),
            ("e.png", ""),
            ("e.txt", "five"),
        ]);
        let taken = |limit| {
            let set = ImageSet::open(folder.path(), limit).unwrap();
            let cases = |set: &ImageSet| set.skipped.iter().map(|skip| skip.case.clone()).collect::<Vec<_>>();
            (set.images.iter().map(|image| image.id.clone()).collect::<Vec<_>>(), cases(&set))
        };
        assert_eq!(taken(1), (vec!["c.png".to_owned()], vec!["a.png".to_owned(), "b.png".to_owned()]));
        assert_eq!(taken(2).0, ["c.png", "e.png"]);
        assert_eq!(taken(2).1, ["a.png", "b.png", "d.png"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_do_not_lead_out() {
        let outside = folder(&[("secret.png", "")]);
        let folder = folder(&[("a.png", ""), ("captions.json", r#"{"link.png": "x", "a.png": "one"}"#)]);
        std::os::unix::fs::symlink(outside.path().join("secret.png"), folder.path().join("link.png")).unwrap();
        let set = open(folder.path()).unwrap();
        assert!(set.skipped[0].reason.contains("link leads out"), "{:?}", set.skipped);
    }

    #[test]
    fn a_list_that_cannot_be_read_is_named_with_its_field() {
        let error = |name: &str, text: &str| {
            let folder = folder(&[("a.png", ""), (name, text)]);
            open(folder.path()).unwrap_err().to_string()
        };
        for (name, text, expected) in [
            ("captions.json", r#"[{"image_file": 5}]"#, "`[0].image_file`"),
            ("captions.json", r#"{"a.png": 5}"#, "`a.png`"),
            ("captions.json", "5", "neither a list nor an object"),
            ("captions.json", "[", "captions.json"),
            ("captions.jsonl", "{\"image_file\": \"a.png\"}\n{\"image_file\": 3}", "line 2: field `image_file`"),
        ] {
            let error = error(name, text);
            assert!(error.contains(name) && error.contains(expected), "{error}");
        }
        let two = folder(&[("captions.json", "[]"), ("captions_val.json", "{}")]);
        assert!(matches!(open(two.path()), Err(ProtocolError::Ambiguous { .. })));
        assert!(matches!(open(folder(&[]).path()), Err(ProtocolError::Empty { .. })));
    }
}
