//! What a run will take, from a few of its steps.

use std::fmt;
use std::path::Path;
use std::time::Instant;

use ipa_formats::FormatError;
use serde::Serialize;

use super::{TrainError, Trainer};
use crate::config::{Cache, CropChoice};
use crate::watch::{peak_bytes, total_bytes};

/// Steps that are measured after one that is not: the first of a process also fills its caches.
const MEASURED: usize = 3;
const GIB: f64 = (1_u64 << 30) as f64;
/// Memory that is left to everything else.
const SPARE: f64 = 0.9;

/// What a run will take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Forecast {
    /// Steps in all.
    pub steps: u64,
    /// Rows to learn from.
    pub rows: u64,
    /// How often one is encoded, each in every shape once if all of them have room in the cache.
    pub encodings: u64,
    /// Time of encoding a row.
    pub row_seconds: f64,
    /// Time of a step whose rows are encoded already.
    pub step_seconds: f64,
    /// All steps and encodings, saves and validations not counted.
    pub total_seconds: f64,
    /// Most main memory so far, GiB, where the system tells; what a cache in memory will still take comes on top.
    pub memory_gib: Option<f64>,
    /// What the encoded rows will take in the cache, at most as much as it may.
    pub cache_gib: f64,
    /// Memory that is there, GiB.
    pub available_gib: Option<f64>,
    /// Checkpoints and the finished adapter.
    pub disk_gib: f64,
    /// Free where they go.
    pub free_gib: f64,
    /// What to change if it will not fit.
    pub advice: Vec<String>,
}

impl Trainer<'_> {
    /// Takes a few steps, after which this trainer is of no more use, and works out what all of them will take with such a
    /// cache; its own should write nothing.
    ///
    /// # Errors
    /// Those of a step, and [`TrainError::File`] if nothing is known of the disk of `folder`.
    pub fn forecast(&mut self, folder: &Path, cache: Cache) -> Result<Forecast, TrainError> {
        let (mut encoding, mut stepping, mut encoded) = (0.0, 0.0, 0);
        for index in 0..=MEASURED {
            let step = self.done.min(self.num_steps() - 1);
            let started = Instant::now();
            let batch = self.batches.batch(step, &self.objective)?;
            let rows = batch.timesteps.numel();
            let encoding_this = started.elapsed().as_secs_f64();
            let started = Instant::now();
            self.learn(&batch)?;
            if index > 0 {
                encoding += encoding_this;
                encoded += rows;
                stepping += started.elapsed().as_secs_f64();
            }
        }
        let failed = |source| FormatError::Read { path: folder.into(), source };
        let place = folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
        let free = fs4::available_space(place).map_err(failed)? as f64;
        let (step_seconds, row_seconds) = (stepping / MEASURED as f64, encoding / encoded.max(1) as f64);
        let (rows, steps) = (self.batches.num_rows() as u64, self.num_steps());
        let data = &self.config.data;
        // Every row as often as it may look different.
        let views = (1 + data.more_resolutions.len() as u64) * if data.flip > 0.0 && data.flip < 1.0 { 2 } else { 1 };
        let (cached, most) = (self.batches.row_bytes()? * (rows * views) as f64, data.cache_gib * GIB);
        let all = steps * self.config.schedule.rows() as u64;
        let is_kept = cache != Cache::None && data.crop == CropChoice::Center && cached <= most;
        let encodings = if is_kept { all.min(rows * views) } else { all };
        let kept = if cache == Cache::None { 0.0 } else { cached.min(most) };
        let on_disk = if cache == Cache::Disk { kept } else { 0.0 };
        let mut forecast = Forecast {
            steps,
            rows,
            encodings,
            row_seconds,
            step_seconds,
            total_seconds: steps as f64 * step_seconds + encodings as f64 * row_seconds,
            memory_gib: peak_bytes().map(|bytes| bytes as f64 / GIB),
            cache_gib: kept / GIB,
            available_gib: total_bytes().map(|bytes| bytes as f64 / GIB),
            disk_gib: (self.output_bytes() as f64 + on_disk) / GIB,
            free_gib: free / GIB,
            advice: Vec::new(),
        };
        forecast.advice = self.advice(&forecast, cache, cached > most);
        Ok(forecast)
    }

    fn advice(&self, forecast: &Forecast, cache: Cache, overflows: bool) -> Vec<String> {
        let mut advice = Vec::new();
        if forecast.free_gib < forecast.disk_gib {
            advice
                .push("the disk is too small: lower `keep_checkpoints`, or write elsewhere with `--output`".to_owned());
        }
        let memory = forecast.memory_gib.zip(forecast.available_gib);
        let cached = if cache == Cache::Memory { forecast.cache_gib } else { 0.0 };
        if memory.is_some_and(|(needed, there)| needed + cached > SPARE * there) {
            let step = match self.config.model.recompute {
                false => "`--recompute`, then `--batch 1` with more `--accumulation`",
                true => "`--batch 1` with more `--accumulation`, or a smaller `--resolution`",
            };
            advice.push(format!("memory is scarce: try {step}, or lower `cache_gib`"));
        }
        if overflows && cache != Cache::None {
            advice.push(
                "the rows do not all have room in the cache: raise `cache_gib`, or set `cache = \"disk\"`".to_owned(),
            );
        }
        advice
    }
}

impl fmt::Display for Forecast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { steps, encodings, step_seconds, row_seconds, cache_gib, disk_gib, free_gib, .. } = self;
        writeln!(
            f,
            "time:   {}, {steps} steps of {step_seconds:.2} s, {encodings} rows encoded at {row_seconds:.2} s; saves and validations come on top",
            duration(self.total_seconds)
        )?;
        let known = |value: Option<f64>| value.map_or_else(|| "unknown".to_owned(), |gib| format!("{gib:.1} GiB"));
        writeln!(
            f,
            "memory: {} of main memory at most so far, of {}; the cache takes {cache_gib:.2} GiB",
            known(self.memory_gib),
            known(self.available_gib)
        )?;
        write!(f, "disk:   {disk_gib:.2} GiB of {free_gib:.1} GiB free")?;
        self.advice.iter().try_for_each(|line| write!(f, "\n{line}"))
    }
}

/// In the two largest units.
fn duration(seconds: f64) -> String {
    match seconds as u64 {
        seconds if seconds >= 3600 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        seconds if seconds >= 60 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{seconds:.0} s"),
    }
}
