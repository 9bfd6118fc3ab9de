//! The files of a report, with the pictures that its page shows.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use image::RgbImage;
use ipa_clip::load_image;
use ipa_metrics::encode_png;
use ipa_metrics::evaluation::{EvaluationReport, Measurements, ReportPictures, Row};

use crate::thumbnails;

/// Larger pictures are made smaller for the page, whose files beside it are as drawn.
const MAX_SIDE: u32 = 512;
const JPEG_QUALITY: f32 = 82.0;

/// Writes `evaluation_report.json`, the tables and the page into the folder that the pictures lie in.
///
/// # Errors
/// If the measurements cannot be summed up, or a file cannot be read or written.
pub(crate) fn write(measurements: &Measurements, folder: &Path) -> Result<EvaluationReport> {
    let report = measurements.report()?;
    let mut pictures = ReportPictures::new();
    for name in shown(&report) {
        let picture = load_image(&folder.join(name))?;
        pictures.insert(name, encoded(&picture)?);
    }
    report.write(folder, &pictures)?;
    Ok(report)
}

/// The files of the first cases of every kind, and those of the closest pairs.
fn shown(report: &EvaluationReport) -> BTreeSet<&str> {
    let mut shown = BTreeSet::new();
    for set in report.pictures.chunk_by(|a, b| a.set == b.set) {
        let cases = set.chunk_by(|a: &Row, b: &Row| a.case == b.case).take(ReportPictures::MAX_CASES);
        shown.extend(cases.flatten().flat_map(|row| [row.file.as_str(), row.reference.as_str()]));
    }
    let closest = report.methods().filter_map(|method| method.copying.as_ref());
    shown.extend(closest.flat_map(|pair| [pair.closest_picture.as_str(), pair.closest_training.file.as_str()]));
    shown.retain(|name| !name.is_empty());
    shown
}

/// Small pictures to the pixel and without their records, which name the folder; large ones small.
fn encoded(picture: &RgbImage) -> Result<Vec<u8>> {
    match picture.width().max(picture.height()) <= ReportPictures::PIXEL_ART_SIDE {
        true => Ok(encode_png(picture)),
        false => Ok(thumbnails::jpeg(&thumbnails::small(picture, MAX_SIDE), JPEG_QUALITY)?),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn large_pictures_are_small_on_the_page_and_small_ones_exact() {
        let wide = encoded(&RgbImage::from_fn(1024, 256, |x, y| image::Rgb([x as u8, y as u8, 0]))).unwrap();
        assert_eq!(image::guess_format(&wide).unwrap(), image::ImageFormat::Jpeg);
        assert_eq!(ipa_clip::preprocess::image_size(&wide, Path::new("wide.jpg")).unwrap(), (512, 128));
        let pixels = RgbImage::from_fn(64, 64, |x, y| image::Rgb([(3 * x) as u8, (2 * y) as u8, 9]));
        assert_eq!(image::load_from_memory(&encoded(&pixels).unwrap()).unwrap().into_rgb8(), pixels);
    }
}
