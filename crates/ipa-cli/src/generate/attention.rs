//! `--attention-maps`: pictures of where each reference acted.

use std::path::Path;

use anyhow::Result;
use ipa_adapter::AttentionMaps;
use ipa_core::save_tensors;
use ipa_sample::{Generated, ReferenceMap, reference_maps};
use serde_json::json;

use crate::output;

/// Writes `<picture>-<prompt>-<reference>.png` for every picture and reference, and the numbers as
/// `attention.safetensors`, `<prompt>.<reference>` `[pictures, tokens, h, w]`; tells what was written.
///
/// # Errors
/// If a file cannot be written.
pub(super) fn write(folder: &Path, generated: &Generated, maps: AttentionMaps, json: bool) -> Result<()> {
    let maps = reference_maps(maps, generated);
    if maps.is_empty() {
        output::warn("there are no attention maps: no reference acted through attention of its own");
        return Ok(());
    }
    output::create_folder(folder)?;
    for map in &maps {
        for (index, picture) in generated.pictures.iter().enumerate() {
            let ReferenceMap { prompt, reference, .. } = map;
            let file = folder.join(format!("{index:03}-{prompt}-{reference}.png"));
            output::write_picture(&file, &map.strip(index, picture))?;
            match json {
                true => output::json_line(
                    &json!({ "attention_map": file, "index": index, "prompt": prompt, "reference": reference }),
                )?,
                false => output::line(format_args!("wrote {}", file.display()))?,
            }
        }
    }
    let tensors = maps.into_iter().map(|map| (format!("{}.{}", map.prompt, map.reference), map.shares));
    Ok(save_tensors(&folder.join("attention.safetensors"), tensors, None)?)
}
