//! Measurements as a file of JSON lines that grows picture by picture.
//!
//! The first line holds the settings; each of the others is a picture or a case that was skipped. A line counts once it
//! is ended, so a run that was interrupted in the middle of one goes on before it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::measurements::{Difference, other_setting};
use super::row::RowKey;
use super::{EvaluationError, Measurements, Row, Settings, Skipped};

/// A line with the embedding of any CLIP has a tenth of this.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// Of a picture's prompt and captions: even if JSON needs six bytes for every one, a line holds them.
const MAX_TEXT_BYTES: usize = 1 << 17;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Settings(Settings),
    Picture(Row),
    Skipped(Skipped),
}

/// A file of measurements that is open for more.
#[derive(Debug)]
pub struct MeasurementLog {
    path: PathBuf,
    file: File,
    measurements: Measurements,
}

impl MeasurementLog {
    /// Opens a file to go on with it, or begins one. A line that was not ended is dropped.
    ///
    /// # Errors
    /// [`EvaluationError::InUse`] if another run writes it; [`EvaluationError::OtherSettings`] naming the first setting that
    /// differs; [`EvaluationError::Line`] and [`EvaluationError::Refused`] naming the line; [`EvaluationError::Read`] and
    /// [`EvaluationError::Write`]; those of [`Settings::check`].
    pub fn open(path: &Path, settings: Settings) -> Result<Self, EvaluationError> {
        settings.check()?;
        let failed = |source| EvaluationError::Write { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => EvaluationError::InUse { path: path.to_owned() },
            TryLockError::Error(source) => failed(source),
        })?;
        let (found, whole_bytes) = read_from(path, &file)?;
        let measurements = match found {
            Some(found) => {
                if let Some(Difference { field, first, second }) = other_setting(found.settings(), &settings) {
                    let path = path.to_owned();
                    return Err(EvaluationError::OtherSettings { path, field, there: first, here: second });
                }
                file.set_len(whole_bytes).and_then(|()| file.seek(SeekFrom::End(0))).map_err(failed)?;
                found
            }
            None => {
                let first = Line::Settings(settings.clone());
                begin(&mut file, &first)
                    .map_err(failed)?
                    .ok_or(EvaluationError::NoSettings { path: path.to_owned() })?;
                Measurements::new(settings)?
            }
        };
        Ok(Self { path: path.to_owned(), file, measurements })
    }

    /// What was measured so far.
    pub fn measurements(&self) -> &Measurements {
        &self.measurements
    }

    /// Takes in a picture and writes it down.
    ///
    /// # Errors
    /// Those of [`Measurements::add`] and [`EvaluationError::LongText`], after which nothing was written;
    /// [`EvaluationError::Write`].
    pub fn add(&mut self, row: Row) -> Result<(), EvaluationError> {
        if [&row.prompt].into_iter().chain(&row.captions).map(String::len).sum::<usize>() > MAX_TEXT_BYTES {
            return Err(EvaluationError::LongText { file: row.file, max: MAX_TEXT_BYTES });
        }
        let before = self.measurements.len();
        self.measurements.add(row.clone())?;
        match self.measurements.len() == before {
            true => Ok(()),
            false => self.write(&Line::Picture(row)),
        }
    }

    /// Notes a case that cannot be evaluated.
    ///
    /// # Errors
    /// [`EvaluationError::Write`].
    pub fn skip(&mut self, skipped: Skipped) -> Result<(), EvaluationError> {
        match self.measurements.skip(skipped.clone()) {
            true => self.write(&Line::Skipped(skipped)),
            false => Ok(()),
        }
    }

    fn write(&mut self, line: &Line) -> Result<(), EvaluationError> {
        write_line(&mut self.file, line).map_err(|source| EvaluationError::Write { path: self.path.clone(), source })
    }
}

/// Reads the files of all shards of an evaluation; their order does not matter, and they may overlap.
///
/// # Errors
/// [`EvaluationError::NothingToMerge`] without files; [`EvaluationError::SamePart`] for one that has the pictures of another;
/// [`EvaluationError::NoSettings`], [`EvaluationError::FirstLine`], [`EvaluationError::OtherPart`], [`EvaluationError::Line`]
/// and [`EvaluationError::Refused`] naming the file; [`EvaluationError::Conflict`].
pub fn read_measurements(shards: &[impl AsRef<Path>]) -> Result<Measurements, EvaluationError> {
    let mut merged: Option<Measurements> = None;
    let mut parts: Vec<Vec<RowKey>> = Vec::new();
    for path in shards.iter().map(AsRef::as_ref) {
        let file = File::open(path).map_err(|source| EvaluationError::Read { path: path.to_owned(), source })?;
        let (found, _) = read_from(path, &file)?;
        let found = found.ok_or_else(|| EvaluationError::NoSettings { path: path.to_owned() })?;
        let pictures = found.keys();
        if !pictures.is_empty() && parts.contains(&pictures) {
            return Err(EvaluationError::SamePart { path: path.to_owned() });
        }
        parts.push(pictures);
        match &mut merged {
            None => merged = Some(found),
            Some(merged) => {
                if let Some(Difference { field, first, second }) = other_setting(merged.settings(), found.settings()) {
                    let path = path.to_owned();
                    return Err(EvaluationError::OtherPart { path, field, first, here: second });
                }
                merged.merge(found)?;
            }
        }
    }
    merged.ok_or(EvaluationError::NothingToMerge)
}

/// All whole lines, and where they end; nothing of a file without settings.
fn read_from(path: &Path, file: &File) -> Result<(Option<Measurements>, u64), EvaluationError> {
    let failed = |source| EvaluationError::Read { path: path.to_owned(), source };
    let mut reader = BufReader::new(file);
    let mut measurements: Option<Measurements> = None;
    let (mut whole_bytes, mut bytes) = (0, Vec::new());
    for line in 1.. {
        bytes.clear();
        reader.by_ref().take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut bytes).map_err(failed)?;
        if bytes.len() as u64 > MAX_LINE_BYTES {
            return Err(EvaluationError::LongLine { path: path.to_owned(), line, max: MAX_LINE_BYTES });
        }
        if bytes.last() != Some(&b'\n') {
            break;
        }
        whole_bytes += bytes.len() as u64;
        let refused = |source| EvaluationError::Refused { path: path.to_owned(), line, source: Box::new(source) };
        let parsed = match parsed(path, line, &bytes) {
            // What does not begin as we begin is no broken line of ours.
            Err(EvaluationError::Line { path, field, source, .. }) if measurements.is_none() => {
                return Err(EvaluationError::FirstLine { path, field, source });
            }
            parsed => parsed?,
        };
        match (parsed, &mut measurements) {
            (Line::Settings(settings), None) => measurements = Some(Measurements::new(settings).map_err(refused)?),
            (Line::Picture(row), Some(measurements)) => measurements.add(row).map_err(refused)?,
            (Line::Skipped(skipped), Some(measurements)) => {
                measurements.skip(skipped);
            }
            (_, None) => return Err(EvaluationError::NoSettings { path: path.to_owned() }),
            (Line::Settings(_), Some(_)) => {
                let problem = "stand there again: keep each shard in a file of its own and name them all".to_owned();
                return Err(refused(EvaluationError::Setting { field: "settings".to_owned(), problem }));
            }
        }
    }
    Ok((measurements, whole_bytes))
}

fn parsed(path: &Path, line: usize, bytes: &[u8]) -> Result<Line, EvaluationError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = error.path().to_string();
        EvaluationError::Line { path: path.to_owned(), line, field, source: error.into_inner() }
    })
}

/// Writes the first line over a part of itself; `None` if the file holds anything else, which stays.
fn begin(file: &mut File, first: &Line) -> io::Result<Option<()>> {
    let (mut found, line) = (Vec::new(), serde_json::to_vec(first)?);
    file.seek(SeekFrom::Start(0))?;
    file.take(MAX_LINE_BYTES).read_to_end(&mut found)?;
    if !line.starts_with(&found) {
        return Ok(None);
    }
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    write_line(file, first).map(Some)
}

/// In one call, so that only a crash in the middle of it leaves part of a line.
fn write_line(file: &mut File, line: &Line) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    file.write_all(&bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::super::sample::{row, settings};
    use super::super::{Embedding, Set};
    use super::*;

    fn rows() -> Vec<Row> {
        let embedding = Some(Embedding::new(vec![0.1, 0.2]));
        (0..4).map(|seed| Row { embedding: embedding.clone(), ..row("test 1", "mascot", seed) }).collect()
    }

    fn written(path: &Path) {
        let mut log = MeasurementLog::open(path, settings()).unwrap();
        rows().into_iter().for_each(|row| log.add(row).unwrap());
    }

    #[test]
    fn a_run_goes_on_wherever_it_was_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("measurements.jsonl");
        written(&path);
        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            written(&path);
            assert_eq!(fs::read(&path).unwrap(), whole, "cut off at byte {cut}");
        }
    }

    #[test]
    fn shards_are_merged_whatever_their_order_and_overlap() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        written(&path("all"));
        for (name, part) in [("1", 0..3), ("2", 2..4)] {
            let mut log = MeasurementLog::open(&path(name), settings()).unwrap();
            rows()[part].iter().for_each(|row| log.add(row.clone()).unwrap());
        }
        let whole = read_measurements(&[path("all")]).unwrap();
        assert_eq!(read_measurements(&[path("2"), path("1")]).unwrap(), whole);
        let error = read_measurements(&[path("2"), path("1"), path("1")]).unwrap_err();
        assert!(matches!(error, EvaluationError::SamePart { .. }), "{error}");
        assert_eq!(read_measurements(&[path("all"), path("1")]).unwrap(), whole, "a part of another is no mistake");
        assert!(matches!(read_measurements(&[] as &[&Path]), Err(EvaluationError::NothingToMerge)));
    }

    #[test]
    fn another_evaluation_is_refused_by_the_setting_that_differs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("measurements.jsonl");
        written(&path);
        let error = MeasurementLog::open(&path, Settings { num_steps: 7, ..settings() }).unwrap_err().to_string();
        assert!(
            error.contains("measurements.jsonl") && error.contains("`num_steps` is 50 there and 7 here"),
            "{error}"
        );
    }

    #[test]
    fn a_broken_line_is_named_with_its_field() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("measurements.jsonl");
        written(&path);
        let whole = fs::read_to_string(&path).unwrap();
        let error_of = |text: String| {
            fs::write(&path, text).unwrap();
            read_measurements(&[&path]).unwrap_err()
        };
        let error = error_of(whole.replacen("\"seed\":1", "\"seed\":\"one\"", 1)).to_string();
        assert!(error.contains("line 3: field `picture.seed`"), "{error}");
        let error = error_of(whole.replacen("\"image_cosine\":0.", "\"image_cosine\":9.", 1));
        assert!(matches!(error, EvaluationError::Refused { line: 2, .. }), "{error}");
        for foreign in ["{}\n", "{\"step\": 1}\n", "notes\n"] {
            let error = error_of(foreign.to_owned());
            assert!(matches!(error, EvaluationError::FirstLine { .. }), "{error}");
        }
        assert!(matches!(error_of(String::new()), EvaluationError::NoSettings { .. }));
        let twice = format!("{whole}{whole}");
        assert!(matches!(error_of(twice), EvaluationError::Refused { line: 6, .. }));
        assert!(matches!(error_of("x".repeat(2 << 20)), EvaluationError::LongLine { line: 1, .. }));
    }

    #[test]
    fn a_file_of_something_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        for text in ["a note without an end", "{\"a\":1}", "a note\n"] {
            fs::write(&path, text).unwrap();
            assert!(MeasurementLog::open(&path, settings()).is_err());
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn one_file_has_one_writer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("measurements.jsonl");
        let _first = MeasurementLog::open(&path, settings()).unwrap();
        assert!(matches!(MeasurementLog::open(&path, settings()), Err(EvaluationError::InUse { .. })));
    }

    /// JSON has six bytes for every byte of these.
    #[test]
    fn what_is_written_can_be_read_however_long() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("measurements.jsonl");
        let longest = Row { prompt: "\u{1}".repeat(MAX_TEXT_BYTES), ..row("test 1", "mascot", 9) };
        let longer = Row { captions: vec!["x".to_owned()], ..longest.clone() };
        let mut log = MeasurementLog::open(&path, settings()).unwrap();
        assert!(matches!(log.add(longer), Err(EvaluationError::LongText { .. })));
        log.add(longest).unwrap();
        drop(log);
        assert_eq!(read_measurements(&[&path]).unwrap().len(), 1);
    }

    #[test]
    fn what_was_refused_is_not_written_and_what_was_skipped_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("measurements.jsonl");
        written(&path);
        let mut log = MeasurementLog::open(&path, settings()).unwrap();
        let before = fs::metadata(&path).unwrap().len();
        assert!(log.add(Row { image_cosine: 2.0, ..row("test 1", "mascot", 9) }).is_err());
        assert_eq!(fs::metadata(&path).unwrap().len(), before);
        let skipped =
            Skipped { set: Set::Tests, case: "test 9".into(), file: "9.png".into(), reason: "it is cut off".into() };
        log.skip(skipped.clone()).unwrap();
        drop(log);
        assert_eq!(read_measurements(&[&path]).unwrap().skipped().cloned().collect::<Vec<_>>(), [skipped]);
    }
}
