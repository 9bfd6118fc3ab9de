//! EXIF, for JPEG and WebP: the record as the picture's description, the `parameters` as the user's comment.

use std::io::{self, Cursor};

use exif::experimental::Writer;
use exif::{Field, In, Reader, Tag, Value};

use super::json;
use crate::{Record, parameters};

/// A TIFF structure of both texts.
pub(super) fn encoded(record: &Record) -> io::Result<Vec<u8>> {
    let comment: Vec<u8> = parameters(record).encode_utf16().flat_map(u16::to_be_bytes).collect();
    let field = |tag, value| Field { tag, ifd_num: In::PRIMARY, value };
    let fields = [
        field(Tag::ImageDescription, Value::Ascii(vec![in_ascii(&json(record)?).into_bytes()])),
        field(Tag::Software, Value::Ascii(vec![format!("ipa {}", record.ipa).into_bytes()])),
        field(Tag::UserComment, Value::Undefined([b"UNICODE\0", &comment[..]].concat(), 0)),
    ];
    let mut writer = Writer::new();
    fields.iter().for_each(|field| writer.push_field(field));
    let mut bytes = Cursor::new(Vec::new());
    writer.write(&mut bytes, false).map_err(io::Error::other)?;
    Ok(bytes.into_inner())
}

/// JSON with escapes for all that is not ASCII, which such a field has to be.
fn in_ascii(json: &str) -> String {
    let escape = |character: char| match character.is_ascii() {
        true => character.to_string(),
        false => character.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
    };
    json.chars().map(escape).collect()
}

/// The record's text, if these are the bytes of a picture with EXIF that has one.
pub(super) fn record(bytes: &[u8]) -> Option<String> {
    let exif = Reader::new().read_from_container(&mut Cursor::new(bytes)).ok()?;
    match &exif.get_field(Tag::ImageDescription, In::PRIMARY)?.value {
        Value::Ascii(parts) => {
            let text = String::from_utf8(parts.concat()).ok()?;
            text.starts_with('{').then_some(text)
        }
        _ => None,
    }
}
