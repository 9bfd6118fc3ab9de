//! Grids of drawn pictures over the steps.

use std::fs;
use std::io::{self, Cursor};
use std::path::{Component, Path};

use image::{ImageFormat, ImageReader};
use ipa_metrics::{Picture, Report};

use super::{ReportInput, ValidationResult};

/// Grids on the page; the others lie beside it.
const MAX_GRIDS: usize = 8;
/// Bytes of one grid on the page.
const MAX_BYTES: u64 = 16 << 20;

pub(super) fn section(page: &mut Report, input: &ReportInput) {
    page.section("Samples");
    let best = input.best.as_ref().map(|best| best.step);
    let drawn: Vec<&ValidationResult> = input.validations.iter().filter(|result| result.grid.is_some()).collect();
    if drawn.is_empty() {
        page.paragraph("No pictures were drawn during the run: that takes held-out rows and `every` in `validation`.");
        return;
    }
    page.paragraph("Drawn from held-out pictures, with the same noise at every validation.");
    let chosen = choose(&drawn, best);
    for (index, result) in chosen.iter().enumerate() {
        show(page, input.folder, result, best, index + 1 == chosen.len());
    }
    let left_out = drawn.len() - chosen.len();
    if left_out > 0 {
        page.paragraph(&format!("{left_out} more lie beside this page, as validation.jsonl names them."));
    }
}

/// First, best and last, and others at even distances.
fn choose<'a>(drawn: &[&'a ValidationResult], best: Option<u64>) -> Vec<&'a ValidationResult> {
    if drawn.len() <= MAX_GRIDS {
        return drawn.to_vec();
    }
    let best = drawn.iter().position(|result| Some(result.step) == best);
    let even = MAX_GRIDS - usize::from(best.is_some());
    let mut chosen: Vec<usize> = (0..even).map(|index| index * (drawn.len() - 1) / (even - 1)).chain(best).collect();
    chosen.sort_unstable();
    chosen.dedup();
    chosen.into_iter().map(|index| drawn[index]).collect()
}

/// The last and the best open, the others behind their labels.
fn show(page: &mut Report, folder: &Path, result: &ValidationResult, best: Option<u64>, last: bool) {
    let Some(path) = &result.grid else { return };
    let is_best = best == Some(result.step);
    let label = format!("Step {}{}", result.step, if is_best { ", the best" } else { "" });
    match read(folder, path) {
        Ok(png) if is_best || last => page.large_picture(&Picture { label, png }),
        Ok(png) => page.folded_picture(&Picture { label, png }),
        Err(error) => page.paragraph(&format!("{label}: {} cannot be shown ({error}).", path.display())),
    };
}

/// A PNG file below the folder: a list of validations that was written by hand shows no other.
fn read(folder: &Path, path: &Path) -> io::Result<Vec<u8>> {
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why);
    if !path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(invalid("its path leaves the output folder"));
    }
    let path = folder.join(path);
    if fs::metadata(&path)?.len() > MAX_BYTES {
        return Err(invalid("it has more than 16 MiB"));
    }
    let png = fs::read(path)?;
    match ImageReader::with_format(Cursor::new(&png), ImageFormat::Png).into_dimensions() {
        Ok(_) => Ok(png),
        Err(_) => Err(invalid("it is no PNG file")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn first_best_and_last_are_among_those_chosen() {
        let all: Vec<ValidationResult> =
            (1..=50).map(|step| ValidationResult { step, ..ValidationResult::default() }).collect();
        let steps = |count: usize, best| {
            let drawn: Vec<&ValidationResult> = all[..count].iter().collect();
            choose(&drawn, best).iter().map(|result| result.step).collect::<Vec<_>>()
        };
        assert_eq!(steps(3, None), [1, 2, 3]);
        for best in [Some(1), Some(37), Some(50), None, Some(99)] {
            let chosen = steps(50, best);
            assert!(chosen.len() <= MAX_GRIDS && chosen.is_sorted() && chosen[0] == 1, "{chosen:?}");
            assert_eq!(chosen.last(), Some(&50));
            assert!(best.is_none_or(|best| best > 50 || chosen.contains(&best)), "{chosen:?}");
        }
    }

    #[test]
    fn only_pictures_below_the_folder_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("out");
        fs::create_dir(&inner).unwrap();
        let png = ipa_metrics::encode_png(&image::RgbImage::new(4, 4));
        for place in [folder.path().join("outside.png"), inner.join("inside.png")] {
            fs::write(place, &png).unwrap();
        }
        fs::write(inner.join("text.png"), "text").unwrap();
        assert_eq!(read(&inner, "inside.png".as_ref()).unwrap(), png);
        for (path, words) in [("../outside.png", "leaves"), ("/outside.png", "leaves"), ("text.png", "no PNG")] {
            assert!(read(&inner, path.as_ref()).unwrap_err().to_string().contains(words), "{path}");
        }
        assert_eq!(read(&inner, "lost.png".as_ref()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
