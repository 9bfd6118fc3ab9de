//! `--attention-maps`: pictures of where each reference acted.

use std::path::Path;

use anyhow::Result;
use ipa_adapter::AttentionMaps;
use ipa_core::save_tensors;
use ipa_sample::{Generated, ReferenceMap, reference_maps};

use crate::output;

/// Writes `<picture>-<prompt>-<reference>.png` for every picture and reference, and the numbers as
/// `attention.safetensors`, `<prompt>.<reference>` `[pictures, tokens, h, w]`.
///
/// # Errors
/// If a file cannot be written.
pub(super) fn write(folder: &Path, generated: &Generated, maps: AttentionMaps) -> Result<()> {
    output::create_folder(folder)?;
    let maps = reference_maps(maps, generated);
    for map in &maps {
        for (index, picture) in generated.pictures.iter().enumerate() {
            let ReferenceMap { prompt, reference, .. } = map;
            let name = format!("{index:03}-{prompt}-{reference}.png");
            output::write_picture(&folder.join(name), &map.strip(index, picture))?;
        }
    }
    let tensors = maps.into_iter().map(|map| (format!("{}.{}", map.prompt, map.reference), map.shares));
    Ok(save_tensors(&folder.join("attention.safetensors"), tensors, None)?)
}
