//! Reads the files back by the published layout, with nothing of what wrote them.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use super::super::{Monitor, Progress, RowLoss};
use super::*;

/// CRC-32C a bit at a time (RFC 3720 appendix B.4), masked.
fn masked_crc(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    mask(!crc)
}

fn mask(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[test]
fn the_readers_checksum_is_the_published_one() {
    assert_eq!(masked_crc(b"123456789"), mask(0xe306_9283));
    assert_eq!(masked_crc(&[0; 32]), mask(0x8a91_36aa));
}

/// Splits `count` bytes off.
fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(count);
    *bytes = rest;
    taken
}

fn take_varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let byte = take(bytes, 1)[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    value
}

/// Fields of a message by number, each time as bytes; numbers of variable length as eight of them.
fn fields(mut bytes: &[u8]) -> BTreeMap<u64, Vec<Vec<u8>>> {
    let mut fields: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
    while !bytes.is_empty() {
        let key = take_varint(&mut bytes);
        let value = match key & 7 {
            0 => take_varint(&mut bytes).to_le_bytes().to_vec(),
            1 => take(&mut bytes, 8).to_vec(),
            2 => {
                let length = take_varint(&mut bytes) as usize;
                take(&mut bytes, length).to_vec()
            }
            5 => take(&mut bytes, 4).to_vec(),
            wire => panic!("wire type {wire}"),
        };
        fields.entry(key >> 3).or_default().push(value);
    }
    fields
}

fn int(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().unwrap())
}

#[derive(Debug, PartialEq)]
enum Read {
    Version(String),
    Start { step: u64 },
    Scalar { step: u64, tag: String, value: f32 },
    Image { step: u64, tag: String, size: [u64; 2], png: Vec<u8> },
}

fn read(path: &Path) -> Vec<Read> {
    let file = fs::read(path).unwrap();
    let mut bytes = file.as_slice();
    let mut events = Vec::new();
    while !bytes.is_empty() {
        let length = take(&mut bytes, 8);
        assert_eq!(take(&mut bytes, 4), masked_crc(length).to_le_bytes());
        let data = take(&mut bytes, int(length) as usize);
        assert_eq!(take(&mut bytes, 4), masked_crc(data).to_le_bytes());
        let event = fields(data);
        let time = f64::from_le_bytes(event[&1][0].as_slice().try_into().unwrap());
        assert!(time > 1.7e9, "{time}");
        let step = int(&event[&2][0]);
        if let Some(version) = event.get(&3) {
            events.push(Read::Version(String::from_utf8(version[0].clone()).unwrap()));
        } else if let Some(session) = event.get(&7) {
            assert_eq!(int(&fields(&session[0])[&1][0]), 1);
            events.push(Read::Start { step });
        }
        let summary = event.get(&5).map(|summary| fields(&summary[0])).unwrap_or_default();
        for value in summary.get(&1).into_iter().flatten().map(|value| fields(value)) {
            let tag = String::from_utf8(value[&1][0].clone()).unwrap();
            events.push(match value.get(&4) {
                Some(image) => {
                    let image = fields(&image[0]);
                    assert_eq!(int(&image[&3][0]), 3);
                    let (size, png) = ([int(&image[&2][0]), int(&image[&1][0])], image[&4][0].clone());
                    Read::Image { step, tag, size, png }
                }
                None => {
                    let value = f32::from_le_bytes(value[&2][0].as_slice().try_into().unwrap());
                    Read::Scalar { step, tag, value }
                }
            });
        }
    }
    events
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder.join(FOLDER)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn status(step: u64, steps: u64) -> Status {
    let mut monitor = Monitor::new(0..=999, &[]);
    let rows = vec![RowLoss { timestep: 600, loss: 0.5 }];
    monitor.add(&Progress { step, steps, loss: 0.25, rows, learning_rate: 1e-4, ..Progress::default() });
    monitor.status()
}

#[test]
fn scalars_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut events = Events::open(folder.path(), 1).unwrap();
    events.step(&Status { grad_norm: Some(2.0), ..status(1, 3) }).unwrap();
    events.flush().unwrap();
    let read = read(&files(folder.path())[0]);
    assert_eq!(read[..2], [Read::Version("brain.Event:2".into()), Read::Start { step: 1 }]);
    let scalar = |tag: &str, value| Read::Scalar { step: 1, tag: tag.into(), value };
    for (tag, value) in [
        ("loss/step", 0.25),
        ("loss/smoothed", 0.25),
        ("optimizer/learning_rate", 1e-4),
        ("optimizer/grad_norm", 2.0),
        ("timesteps/500-749", 0.5),
    ] {
        assert!(read.contains(&scalar(tag, value)), "{tag}: {read:?}");
    }
    assert!(!read.iter().any(|event| matches!(event, Read::Scalar { tag, .. } if tag.contains("000-249"))));
}

#[test]
fn a_validation_reads_back_with_its_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let png = ipa_metrics::encode_png(&image::RgbImage::new(300, 20));
    fs::write(folder.path().join("grid.png"), &png).unwrap();
    let scores = BTreeMap::from([("clip_i".to_owned(), 0.5)]);
    let result = ValidationResult {
        step: 40,
        loss: Some(0.125),
        scores,
        grid: Some("grid.png".into()),
        ..ValidationResult::default()
    };
    let mut events = Events::open(folder.path(), 1).unwrap();
    events.validation(&result, folder.path()).unwrap();
    let scalar = |tag: &str, value| Read::Scalar { step: 40, tag: tag.into(), value };
    let image = Read::Image { step: 40, tag: "samples".into(), size: [300, 20], png };
    let read = read(&files(folder.path())[0]);
    assert_eq!(read[2..], [scalar("validation/loss", 0.125), scalar("validation/clip_i", 0.5), image]);
}

#[test]
fn pictures_that_are_none_are_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("grid.png"), "text").unwrap();
    let mut events = Events::open(folder.path(), 1).unwrap();
    for name in ["grid.png", "lost.png"] {
        let result = ValidationResult { grid: Some(name.into()), ..ValidationResult::default() };
        let error = events.validation(&result, folder.path()).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn a_resumed_run_writes_a_later_file_that_voids_the_steps_to_come() {
    let folder = tempfile::tempdir().unwrap();
    for next_step in [1, 21, 21] {
        Events::open(folder.path(), next_step).unwrap();
    }
    let read: Vec<Vec<Read>> = files(folder.path()).iter().map(|path| read(path)).collect();
    let starts: Vec<&Read> = read.iter().map(|events| &events[1]).collect();
    assert_eq!(starts, [&Read::Start { step: 1 }, &Read::Start { step: 21 }, &Read::Start { step: 21 }]);
}

#[test]
fn a_long_run_leaves_steps_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut events = Events::open(folder.path(), 1).unwrap();
    (1..=6).for_each(|step| events.step(&status(step, 30_000)).unwrap());
    events.flush().unwrap();
    let losses = read(&files(folder.path())[0]).into_iter().filter_map(|event| match event {
        Read::Scalar { step, tag, .. } if tag == "loss/step" => Some(step),
        _ => None,
    });
    assert_eq!(losses.collect::<Vec<_>>(), [3, 6]);
}

#[test]
fn a_folder_that_takes_no_files_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(FOLDER), "a file").unwrap();
    let error = Events::open(folder.path(), 1).unwrap_err();
    assert!(matches!(&error, FormatError::Write { path, .. } if path.ends_with(FOLDER)), "{error}");
}
