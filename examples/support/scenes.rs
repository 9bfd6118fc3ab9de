//! Scenes of the drawn world as a dataset.

use std::fs;
use std::io::{self, Error};
use std::path::{Path, PathBuf};

use ipa::formats::write_atomically;
use ipa::pocket::{Scene, Split, caption, render};

/// Of scenes and captions.
const SEED: u64 = 0;

/// Training scenes with a caption each, one JSON object a line; gives the list.
///
/// # Errors
/// If a file cannot be written.
pub(crate) fn write(folder: &Path, num: u64, side: u32) -> io::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let path = folder.join("data.jsonl");
    let scene = |index: u64| Scene::draw_at(SEED, index, Split::Train);
    let name = |index: u64| format!("{index:06}.png");
    let line = |index| {
        let text = caption(&scene(index), SEED, index);
        format!("{}\n", serde_json::json!({ "image_file": name(index), "text": text }))
    };
    let list: String = (0..num).map(line).collect();
    // It is written last: where it is, everything is, and a training that reads it is not disturbed.
    if fs::read_to_string(&path).is_ok_and(|known| known == list) {
        return Ok(path);
    }
    for index in 0..num {
        render(&scene(index), side).save(folder.join(name(index))).map_err(Error::other)?;
    }
    write_atomically(&path, |file| file.write_all(list.as_bytes())).map_err(Error::other)?;
    Ok(path)
}
