//! TensorBoard event files.
//!
//! A record is framed as TensorFlow frames it ([`record`]), and holds an `Event` of `event.proto` ([`message`]): few enough
//! fields to write by hand. (Crates for it: `tensorboard-rs` is no longer worked on, `tboard` needs `protoc` to build.)
//!
//! Events carry the time of day, as TensorBoard's format asks. They are a log; no other file of a run has a clock.

mod message;
mod record;

use std::fs::{self, File};
use std::io::{self, BufWriter, Cursor, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use image::{ImageFormat, ImageReader};
use ipa_formats::FormatError;

use self::message::Message;
use super::{Status, ValidationResult};

const FOLDER: &str = "tensorboard";
const PREFIX: &str = "events.out.tfevents.";
/// TensorBoard looks for news every few seconds.
const FLUSH_AFTER: Duration = Duration::from_secs(5);
/// Steps in one file: a curve shows no more, and a long run would fill the disk.
const MAX_LOGGED_STEPS: u64 = 10_000;
/// A drawn grid is far smaller; what is larger is something else.
const MAX_PICTURE_BYTES: u64 = 64 << 20;

/// Writes what TensorBoard shows: `tensorboard --logdir DIR/tensorboard`.
///
/// Events are appended as they come and reach the disk every few seconds. A resumed run writes another file, which tells
/// TensorBoard to forget what the first one has of the steps that are done again.
#[derive(Debug)]
pub struct Events {
    path: PathBuf,
    file: BufWriter<File>,
    flushed: Instant,
}

impl Events {
    /// Begins a new file in `folder/tensorboard` for a run whose next step is `next_step`, 1 for a new run.
    ///
    /// # Errors
    /// [`FormatError::Write`] if it cannot be written.
    pub fn open(folder: &Path, next_step: u64) -> Result<Self, FormatError> {
        let folder = folder.join(FOLDER);
        let path = fs::create_dir_all(&folder).and_then(|()| free_name(&folder));
        let path = path.map_err(|source| FormatError::Write { path: folder, source })?;
        let file = File::create_new(&path).map_err(|source| FormatError::Write { path: path.clone(), source })?;
        let mut events = Self { path, file: BufWriter::new(file), flushed: Instant::now() };
        events.write(0, |event| event.text(field::FILE_VERSION, "brain.Event:2"))?;
        // What earlier files have of this step and later ones is void.
        let start = Message::default().int(field::STATUS, field::STATUS_START);
        events.write(next_step, |event| event.message(field::SESSION_LOG, start))?;
        events.flush()?;
        Ok(events)
    }

    /// A step; of a run of more than ten thousand, every second, third, … one.
    ///
    /// # Errors
    /// [`FormatError::Write`] if it cannot be written.
    pub fn step(&mut self, status: &Status) -> Result<(), FormatError> {
        if !status.step.is_multiple_of(status.steps.div_ceil(MAX_LOGGED_STEPS).max(1)) {
            return Ok(());
        }
        let memory_gib = status.memory_bytes.map(|bytes| bytes as f64 / f64::from(1 << 30));
        let scalars = [
            ("loss/step", Some(status.loss)),
            ("loss/smoothed", status.smoothed_loss),
            ("optimizer/learning_rate", Some(status.learning_rate)),
            ("optimizer/grad_norm", status.grad_norm),
            ("optimizer/loss_scale", status.loss_scale),
            ("run/steps_per_second", status.steps_per_second),
            ("run/memory_gib", memory_gib),
        ];
        let ranges = status.ranges.iter();
        let ranges = ranges.map(|range| (format!("timesteps/{:03}-{:03}", range.first, range.last), range.loss));
        let scalars = scalars.into_iter().map(|(tag, value)| (tag.to_owned(), value)).chain(ranges);
        let values = scalars.filter_map(|(tag, value)| Some(scalar(&tag, value?)));
        self.summary(status.step, values.collect())
    }

    /// A validation, with its pictures, which are looked for in the output folder.
    ///
    /// # Errors
    /// [`FormatError::Read`] if there is a grid and it cannot be read as a PNG file, [`FormatError::Write`] if the events
    /// cannot be written.
    pub fn validation(&mut self, result: &ValidationResult, folder: &Path) -> Result<(), FormatError> {
        let loss = result.loss.map(|loss| scalar("validation/loss", loss));
        let scores = result.scores.iter().map(|(name, &score)| scalar(&format!("validation/{name}"), score));
        let mut values: Vec<Message> = loss.into_iter().chain(scores).collect();
        if let Some(grid) = &result.grid {
            let path = folder.join(grid);
            values.push(picture("samples", &path).map_err(|source| FormatError::Read { path, source })?);
        }
        self.summary(result.step, values)?;
        self.flush()
    }

    /// Hands everything to the system, as also happens every few seconds.
    ///
    /// # Errors
    /// [`FormatError::Write`] if it cannot be written.
    pub fn flush(&mut self) -> Result<(), FormatError> {
        self.flushed = Instant::now();
        self.file.flush().map_err(|source| FormatError::Write { path: self.path.clone(), source })
    }

    fn summary(&mut self, step: u64, values: Vec<Message>) -> Result<(), FormatError> {
        let summary = values.into_iter().fold(Message::default(), |all, value| all.message(field::VALUE, value));
        self.write(step, |event| event.message(field::SUMMARY, summary))
    }

    fn write(&mut self, step: u64, what: impl FnOnce(Message) -> Message) -> Result<(), FormatError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let event = what(Message::default().double(field::WALL_TIME, now).int(field::STEP, step));
        let written = record::write(&mut self.file, event.bytes());
        written.map_err(|source| FormatError::Write { path: self.path.clone(), source })?;
        if self.flushed.elapsed() >= FLUSH_AFTER {
            self.flush()?;
        }
        Ok(())
    }
}

/// Numbers of the fields in event.proto and summary.proto.
mod field {
    // Event
    pub(super) const WALL_TIME: u64 = 1;
    pub(super) const STEP: u64 = 2;
    pub(super) const FILE_VERSION: u64 = 3;
    pub(super) const SUMMARY: u64 = 5;
    pub(super) const SESSION_LOG: u64 = 7;
    // SessionLog
    pub(super) const STATUS: u64 = 1;
    pub(super) const STATUS_START: u64 = 1;
    // Summary
    pub(super) const VALUE: u64 = 1;
    // Summary.Value
    pub(super) const TAG: u64 = 1;
    pub(super) const SIMPLE_VALUE: u64 = 2;
    pub(super) const IMAGE: u64 = 4;
    // Summary.Image
    pub(super) const HEIGHT: u64 = 1;
    pub(super) const WIDTH: u64 = 2;
    pub(super) const COLORSPACE: u64 = 3;
    pub(super) const COLORSPACE_RGB: u64 = 3;
    pub(super) const ENCODED_IMAGE: u64 = 4;
}

fn scalar(tag: &str, value: f64) -> Message {
    Message::default().text(field::TAG, tag).float(field::SIMPLE_VALUE, value as f32)
}

fn picture(tag: &str, path: &Path) -> io::Result<Message> {
    if fs::metadata(path)?.len() > MAX_PICTURE_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the picture has more than 64 MiB"));
    }
    let png = fs::read(path)?;
    let size = ImageReader::with_format(Cursor::new(&png), ImageFormat::Png).into_dimensions();
    let (width, height) = size.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let image = Message::default()
        .int(field::HEIGHT, height.into())
        .int(field::WIDTH, width.into())
        .int(field::COLORSPACE, field::COLORSPACE_RGB)
        .blob(field::ENCODED_IMAGE, &png);
    Ok(Message::default().text(field::TAG, tag).message(field::IMAGE, image))
}

/// A name behind those of all files that are there: TensorBoard reads them in the order of their names, and forgetting only
/// reaches back.
fn free_name(folder: &Path) -> io::Result<PathBuf> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut second = now;
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let taken = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.get(..10)?.parse::<u64>().ok());
        second = second.max(taken.map_or(0, |taken| taken + 1));
    }
    Ok(folder.join(format!("{PREFIX}{second:010}.ipa")))
}

#[cfg(test)]
mod tests;
