//! PNG: text chunks for the record and for other programs.

use std::io::{self, Cursor, Write};

use image::RgbImage;

use super::{RECORD_KEYWORD, json};
use crate::{Record, parameters};

/// The chunk that AUTOMATIC1111's web UI began, and many programs read.
const PARAMETERS_KEYWORD: &str = "parameters";

pub(super) fn encode(file: &mut dyn Write, picture: &RgbImage, record: &Record) -> io::Result<()> {
    let mut encoder = png::Encoder::new(file, picture.width(), picture.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let parameters = parameters(record);
    // Plain text chunks, which most programs look at, are Latin-1.
    match parameters.chars().all(|character| u32::from(character) < 256) {
        true => encoder.add_text_chunk(PARAMETERS_KEYWORD.to_owned(), parameters)?,
        false => encoder.add_itxt_chunk(PARAMETERS_KEYWORD.to_owned(), parameters)?,
    }
    encoder.add_itxt_chunk(RECORD_KEYWORD.to_owned(), json(record)?)?;
    encoder.add_text_chunk("Software".to_owned(), format!("ipa {}", record.ipa))?;
    let mut writer = encoder.write_header()?;
    writer.write_image_data(picture.as_raw())?;
    writer.finish().map_err(Into::into)
}

/// The record's text, if these are the bytes of a PNG that has one.
pub(super) fn record(bytes: &[u8]) -> Option<String> {
    let mut reader = png::Decoder::new(Cursor::new(bytes)).read_info().ok()?;
    let chunk = |reader: &png::Reader<Cursor<&[u8]>>| {
        let chunk = reader.info().utf8_text.iter().find(|chunk| chunk.keyword == RECORD_KEYWORD)?;
        chunk.get_text().ok()
    };
    // Some programs put text behind the pixels.
    chunk(&reader).or_else(|| {
        reader.finish().ok()?;
        chunk(&reader)
    })
}
