//! Lists of one row a line, of which only the places of the lines stay in memory.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::Path;

use ipa_formats::FormatError;
use rayon::prelude::*;

use super::list::{check_row, found};
use super::root::Root;
use super::row::Fields;
use super::source::read_at;
use super::{DataError, Faults, Found, Place};

/// No row is longer.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// Lines that are checked together, on all processors.
const LINES_AT_ONCE: usize = 1 << 13;

/// The rows of a `.jsonl`.
#[derive(Debug)]
pub(super) struct Lines {
    root: Root,
    /// Where each row begins and, at last, where the file ends.
    starts: Vec<u64>,
}

/// A line of the file.
struct Line {
    /// Counted from 1.
    number: usize,
    start: u64,
    text: Vec<u8>,
}

impl Lines {
    /// Checks every line once; leaves out those whose faults are taken, and blank ones.
    pub(super) fn open(path: &Path, faults: Faults) -> Result<(Self, Vec<u32>), DataError> {
        let failed = |source| FormatError::Read { path: path.to_owned(), source };
        let mut file = BufReader::with_capacity(1 << 18, File::open(path).map_err(failed)?);
        let (mut end, mut number) = (0, 0);
        let mut lines = Self { root: Root::of(path)?, starts: Vec::new() };
        let mut hashes = Vec::new();
        loop {
            let mut batch = Vec::new();
            while batch.len() < LINES_AT_ONCE {
                let mut text = Vec::new();
                let count = file.by_ref().take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut text).map_err(failed)?;
                number += 1;
                if count as u64 > MAX_LINE_BYTES {
                    return Err(DataError::LongLine {
                        path: path.into(),
                        place: Place::Line(number),
                        max: MAX_LINE_BYTES,
                    });
                }
                if count == 0 {
                    break;
                }
                if !text.iter().all(u8::is_ascii_whitespace) {
                    batch.push(Line { number, start: end, text });
                }
                end += count as u64;
            }
            if batch.is_empty() {
                break;
            }
            lines.take(&batch, &mut hashes, faults)?;
        }
        lines.starts.push(end);
        Ok((lines, hashes))
    }

    fn take(&mut self, batch: &[Line], hashes: &mut Vec<u32>, faults: Faults) -> Result<(), DataError> {
        let check = |Line { number, start, text }: &Line| {
            let place = Place::Line(*number);
            let fields = self.parse(text, &place)?;
            Ok((*start, check_row(&self.root, &place, &fields)?))
        };
        let checked: Vec<Result<(u64, u32), DataError>> = batch.par_iter().map(check).collect();
        for row in checked {
            match row {
                Ok((start, hash)) => {
                    self.starts.push(start);
                    hashes.push(hash);
                }
                Err(fault) => faults(fault)?,
            }
        }
        Ok(())
    }

    fn parse(&self, line: &[u8], place: &Place) -> Result<Fields, DataError> {
        let fault = |source| DataError::Line { path: self.root.list().into(), place: place.clone(), source };
        serde_json::from_slice(line).map_err(fault)
    }

    pub(super) fn row(&self, row: usize) -> Result<Found, DataError> {
        let (start, place) = (self.starts[row], Place::Row(row));
        // What follows a row may be blank lines, or rows that were left out.
        let len = (self.starts[row + 1] - start).min(MAX_LINE_BYTES);
        let bytes = read_at(self.root.list(), start, len)?;
        let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
        found(&self.root, place.clone(), self.parse(line, &place)?)
    }
}
