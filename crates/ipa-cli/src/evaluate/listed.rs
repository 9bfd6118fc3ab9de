//! Lists of pictures of which some may be broken: the rest goes on, and the report says which and why.

use std::path::Path;

use anyhow::{Result, bail};
use image::RgbImage;
use ipa_clip::PreprocessError;
use ipa_metrics::evaluation::{Set, Skipped};
use ipa_train::{DataError, Dataset, Sample};

use super::cases::test_name;
use super::settings::short_name;

/// Goes through a list and hears of each row that can be used, at most `limit` of them; the others are told.
///
/// # Errors
/// If the list cannot be read or has nothing that can be used; what `take` returns.
pub(crate) fn read(
    path: &Path,
    set: Set,
    limit: usize,
    mut take: impl FnMut((&Dataset, usize), Sample, RgbImage) -> Result<()>,
) -> Result<(Dataset, Vec<Skipped>)> {
    let (dataset, faults) = Dataset::open_with_faults(path)?;
    let mut skipped: Vec<Skipped> = faults.iter().map(|fault| of_fault(fault, set)).collect();
    let mut num = 0;
    for row in 0..dataset.len() {
        if num == limit {
            break;
        }
        let sample = dataset.sample(row)?;
        match sample.picture.picture() {
            Ok(picture) => {
                take((&dataset, row), sample, picture)?;
                num += 1;
            }
            Err(error) => {
                let case = if set == Set::Tests { test_name(row) } else { sample.key.clone() };
                let file = short_name(&sample.picture.path().display().to_string());
                let reason = reason(&error.into());
                skipped.push(Skipped { set, case, file, reason });
            }
        }
    }
    match skipped.first() {
        _ if num > 0 || limit == 0 => Ok((dataset, skipped)),
        Some(Skipped { file, reason, .. }) => {
            bail!("{} has no picture that can be used: {file}: {reason}", path.display())
        }
        None => Err(DataError::Empty { path: path.to_owned() }.into()),
    }
}

/// A row that was left out when the list was opened.
fn of_fault(fault: &DataError, set: Set) -> Skipped {
    let name = |path: &Path| short_name(&path.display().to_string());
    let (case, file, reason) = match fault {
        DataError::NoCaption { picture, caption, .. } => {
            let reason = format!("it has no caption: write one into {}, which may be empty", name(caption));
            (name(picture), name(picture), reason)
        }
        DataError::NoFile { file, field, .. } => {
            (file.clone(), file.clone(), format!("it does not exist: `{field}` is relative to the list's folder"))
        }
        DataError::Outside { file, field, .. } => {
            (file.clone(), file.clone(), format!("it leaves the list's folder: put what `{field}` names below it"))
        }
        DataError::Field { path, place, field, problem } => {
            (place.to_string(), name(path), format!("`{field}` {problem}"))
        }
        DataError::Line { path, place, source } => {
            (place.to_string(), name(path), format!("expected {{\"image_file\": …, \"text\": …}}: {source}"))
        }
        DataError::Entry { path, entry, problem } => (entry.clone(), name(path), format!("it {problem}")),
        DataError::CutOff { path, .. } => (name(path), name(path), "it is cut off: copy it again".to_owned()),
        DataError::Tar { path, .. } => {
            (name(path), name(path), "it is not a usable tar file: copy it again".to_owned())
        }
        _ => ("list".to_owned(), String::new(), "it cannot be used; `ipa dataset check` says why".to_owned()),
    };
    Skipped { set, case, file, reason }
}

/// Why a picture cannot be used, in one sentence that names no place: the same wherever the files lie.
pub(super) fn reason(error: &anyhow::Error) -> String {
    match error.chain().find_map(|cause| cause.downcast_ref::<PreprocessError>()) {
        Some(PreprocessError::Read { .. }) => "it cannot be read; check that it exists and may be read".to_owned(),
        Some(PreprocessError::Truncated { .. }) => {
            "it ends in the middle of the picture; copy or fetch it again".to_owned()
        }
        Some(PreprocessError::TooLarge { width, height, .. }) => {
            format!("it has {width} x {height} pixels, more than are allowed; make it smaller first")
        }
        _ => "it is not a usable image; save it again as PNG, JPEG or WebP".to_owned(),
    }
}
