//! Scenes of the drawn world as a dataset.

use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::{fs, io::Error};

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
    let mut list = BufWriter::new(fs::File::create(&path)?);
    for index in 0..num {
        let scene = Scene::draw_at(SEED, index, Split::Train);
        let name = format!("{index:06}.png");
        render(&scene, side).save(folder.join(&name)).map_err(Error::other)?;
        writeln!(list, "{}", serde_json::json!({ "image_file": name, "text": caption(&scene, SEED, index) }))?;
    }
    list.flush()?;
    Ok(path)
}
