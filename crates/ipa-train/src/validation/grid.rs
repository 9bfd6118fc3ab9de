//! The sample grid: a row a reference, with a heading over every column and the row's name and caption under it.

use std::convert::Infallible;

use embedded_graphics::Pixel;
use embedded_graphics::mono_font::MonoTextStyle;
use embedded_graphics::mono_font::iso_8859_1::FONT_7X13 as FONT;
use embedded_graphics::pixelcolor::{Rgb888, RgbColor};
use embedded_graphics::prelude::{Dimensions, DrawTarget, Drawable, Point, Size};
use embedded_graphics::primitives::Rectangle;
use embedded_graphics::text::{Baseline, Text};
use image::{Rgb, RgbImage, imageops};
use ipa_clip::preprocess::{Filter, resize};

/// Sides of a picture in the grid, in pixels: a report holds many grids.
const MIN_SIDE: u32 = 128;
const MAX_SIDE: u32 = 256;
const GAP: u32 = 6;
const LINE: u32 = 15;
const PAPER: Rgb<u8> = Rgb([255; 3]);
const INK: Rgb888 = Rgb888::new(40, 40, 40);

/// One row.
#[derive(Debug)]
pub(super) struct GridRow<'a> {
    pub(super) label: &'a str,
    /// The reference first, then one drawn picture a column.
    pub(super) pictures: Vec<&'a RgbImage>,
}

/// All rows under the two lines of every column's heading.
pub(super) fn grid(headings: &[[String; 2]], rows: &[GridRow]) -> RgbImage {
    let drawn = rows.iter().flat_map(|row| &row.pictures[1..]);
    let (width, height) =
        drawn.map(|picture| picture.dimensions()).fold((1, 1), |(w, h), (width, height)| (w.max(width), h.max(height)));
    let cell = cell(width, height);
    let top = 2 * LINE + 2 * GAP;
    let (step_x, step_y) = (cell.0 + GAP, cell.1 + LINE + 2 * GAP);
    let size = (GAP + headings.len() as u32 * step_x, top + rows.len() as u32 * step_y);
    let mut sheet = Sheet(RgbImage::from_pixel(size.0, size.1, PAPER));
    for (column, lines) in (0..).zip(headings) {
        for (line, text) in (0..).zip(lines) {
            sheet.write(text, (GAP + column * step_x, GAP + line * LINE), cell.0);
        }
    }
    for (row, GridRow { label, pictures }) in (0..).zip(rows) {
        let y = top + row * step_y;
        for (column, picture) in (0..).zip(pictures) {
            let picture = fitted(picture, cell);
            let within = |room: u32, side: u32| i64::from((room - side) / 2);
            let (x, y) = (i64::from(GAP + column * step_x), i64::from(y));
            let (width, height) = picture.dimensions();
            imageops::replace(&mut sheet.0, &picture, x + within(cell.0, width), y + within(cell.1, height));
        }
        sheet.write(label, (GAP, y + cell.1 + GAP / 2), size.0 - 2 * GAP);
    }
    sheet.0
}

/// The room for pictures of a size: enlarged whole times if small, made smaller if large.
fn cell(width: u32, height: u32) -> (u32, u32) {
    let side = width.max(height);
    match (MIN_SIDE / side).max(1) {
        1 if side > MAX_SIDE => contained((width, height), (MAX_SIDE, MAX_SIDE)),
        times => (width * times, height * times),
    }
}

/// The largest size of the same shape within another.
fn contained((width, height): (u32, u32), (max_width, max_height): (u32, u32)) -> (u32, u32) {
    let factor = (f64::from(max_width) / f64::from(width)).min(f64::from(max_height) / f64::from(height));
    let side = |side: u32, max: u32| ((f64::from(side) * factor).round() as u32).clamp(1, max);
    (side(width, max_width), side(height, max_height))
}

/// As large as there is room; pixels of small pictures stay sharp.
fn fitted(picture: &RgbImage, cell: (u32, u32)) -> RgbImage {
    let (width, height) = contained(picture.dimensions(), cell);
    match width.is_multiple_of(picture.width()) && height.is_multiple_of(picture.height()) {
        true => imageops::resize(picture, width, height, imageops::FilterType::Nearest),
        false => resize(picture, width, height, Filter::Lanczos),
    }
}

/// A picture that text is written on.
struct Sheet(RgbImage);

impl Sheet {
    /// One line, cut to `width` pixels; letters that the font lacks become question marks.
    fn write(&mut self, text: &str, (x, y): (u32, u32), width: u32) {
        let room = (width / FONT.character_size.width) as usize;
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let line = match text.chars().count() > room {
            true => text.chars().take(room.saturating_sub(3)).chain("...".chars()).collect(),
            false => text,
        };
        let style = MonoTextStyle::new(&FONT, INK);
        let place = Point::new(x as i32, y as i32);
        let Ok(_) = Text::with_baseline(&line, place, style, Baseline::Top).draw(self);
    }
}

impl Dimensions for Sheet {
    fn bounding_box(&self) -> Rectangle {
        Rectangle::new(Point::zero(), Size::new(self.0.width(), self.0.height()))
    }
}

impl DrawTarget for Sheet {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> Result<(), Infallible> {
        for Pixel(Point { x, y }, color) in pixels {
            let place = u32::try_from(x).ok().zip(u32::try_from(y).ok());
            if let Some(pixel) = place.and_then(|(x, y)| self.0.get_pixel_mut_checked(x, y)) {
                *pixel = Rgb([color.r(), color.g(), color.b()]);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(reference: (u32, u32), drawn: (u32, u32), label: &str) -> RgbImage {
        let reference = RgbImage::from_pixel(reference.0, reference.1, Rgb([200, 30, 30]));
        let drawn = RgbImage::from_pixel(drawn.0, drawn.1, Rgb([30, 30, 200]));
        let headings = [["reference".to_owned(), String::new()], ["scale 1".to_owned(), "no caption".to_owned()]];
        grid(&headings, &[GridRow { label, pictures: vec![&reference, &drawn] }])
    }

    #[test]
    fn small_pictures_are_enlarged_and_large_ones_made_smaller() {
        let size = |side: u32| sample((side, side), (side, side), "").dimensions();
        let expected = |side: u32| (3 * GAP + 2 * side, 2 * LINE + 2 * GAP + side + LINE + 2 * GAP);
        assert_eq!([64, 128, 200, 512].map(size), [128, 128, 200, 256].map(expected));
    }

    #[test]
    fn a_reference_of_another_shape_is_shown_whole() {
        let sheet = sample((400, 100), (128, 128), "");
        let red = sheet.pixels().filter(|pixel| pixel.0 == [200, 30, 30]).count();
        assert_eq!(red, 128 * 32);
    }

    #[test]
    fn headings_and_labels_are_written_and_long_ones_cut() {
        let ink = |label: &str| sample((64, 64), (64, 64), label).pixels().filter(|p| p.0 == [40; 3]).count();
        assert!(ink("a rabbit") > ink(""));
        assert!(ink("") > 0);
        let long = "a very long caption ".repeat(20);
        assert_eq!(sample((64, 64), (64, 64), &long).dimensions(), sample((64, 64), (64, 64), "").dimensions());
        assert!(ink(&"x".repeat(1000)) < 2 * ink(&"x".repeat(30)));
    }
}
