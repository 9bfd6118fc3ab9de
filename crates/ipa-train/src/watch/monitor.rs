//! The numbers beside the progress bar.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::memory::resident_bytes;
use super::ranges::{NUM_RANGES, RangeLoss, Ranges};
use super::smooth::SmoothedMean;
use super::{Progress, StepLoss};

/// Steps that speed is measured over: what lies between them counts too, as checkpoints and validations do.
const WINDOW: usize = 50;

/// Follows a run: smoothed losses, speed, time left, memory.
#[derive(Debug, Clone)]
pub struct Monitor {
    ranges: Ranges,
    loss: SmoothedMean,
    by_range: [SmoothedMean; NUM_RANGES],
    /// When the last steps ended and how many rows they had, behind the moment at which the first of them began.
    recent: VecDeque<(Instant, usize)>,
    last: Progress,
}

/// Where a run stands, as `--json` tells it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// Steps done.
    pub step: u64,
    /// Steps in all.
    pub steps: u64,
    /// Loss of the last step.
    pub loss: f64,
    /// Exponential mean of the losses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smoothed_loss: Option<f64>,
    /// The same of rows without weights, by range of timesteps.
    pub ranges: [RangeLoss; NUM_RANGES],
    /// The optimizer's step size.
    pub learning_rate: f64,
    /// Length of the gradient before it was shortened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f64>,
    /// What the loss was multiplied with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f64>,
    /// Over the last fifty steps, with all that lay between them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps_per_second: Option<f64>,
    /// Likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows_per_second: Option<f64>,
    /// At that speed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<f64>,
    /// Bytes in main memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
}

impl Monitor {
    /// Follows a run that draws these timesteps and has left `losses` so far; none for a new one. The clock starts now.
    pub fn new(timesteps: RangeInclusive<i64>, losses: &[StepLoss]) -> Self {
        let mut monitor = Self {
            ranges: Ranges::new(timesteps),
            loss: SmoothedMean::default(),
            by_range: Default::default(),
            recent: VecDeque::from([(Instant::now(), 0)]),
            last: Progress::default(),
        };
        losses.iter().for_each(|line| monitor.smooth(line));
        monitor
    }

    /// Takes in a step that has just ended, and gives its line of losses.jsonl.
    pub fn add(&mut self, progress: &Progress) -> StepLoss {
        self.add_at(Instant::now(), progress)
    }

    fn add_at(&mut self, now: Instant, progress: &Progress) -> StepLoss {
        let line = StepLoss::new(progress, &self.ranges);
        self.smooth(&line);
        self.recent.push_back((now, progress.rows.len()));
        if self.recent.len() > WINDOW + 1 {
            self.recent.pop_front();
        }
        self.last = progress.clone();
        line
    }

    /// From the line of a step, whether it was just written or read after a resume: both give the same means.
    fn smooth(&mut self, line: &StepLoss) {
        self.loss.add(line.loss);
        for (mean, loss) in self.by_range.iter_mut().zip(line.ranges) {
            if let Some(loss) = loss {
                mean.add(f64::from(loss));
            }
        }
    }

    /// All numbers.
    pub fn status(&self) -> Status {
        let Progress { step, steps, loss, learning_rate, grad_norm, loss_scale, .. } = self.last;
        let steps_per_second = self.per_second(self.recent.len() - 1);
        let rows = self.recent.iter().skip(1).map(|(_, rows)| rows).sum();
        let bounds = self.ranges.bounds();
        let range = |range: usize| {
            let (first, last) = bounds[range];
            RangeLoss { first, last, loss: self.by_range[range].value() }
        };
        Status {
            step,
            steps,
            loss,
            smoothed_loss: self.loss.value(),
            ranges: std::array::from_fn(range),
            learning_rate,
            grad_norm,
            loss_scale,
            steps_per_second,
            rows_per_second: self.per_second(rows),
            seconds_left: steps_per_second.map(|rate| steps.saturating_sub(step) as f64 / rate),
            memory_bytes: resident_bytes(),
        }
    }

    fn per_second(&self, count: usize) -> Option<f64> {
        let ((begin, _), (end, _)) = (self.recent.front()?, self.recent.back()?);
        let seconds = end.saturating_duration_since(*begin).max(Duration::from_nanos(1)).as_secs_f64();
        (count > 0).then(|| count as f64 / seconds)
    }

    /// For a progress bar that shows steps and time left itself; short enough for 80 columns with it. In brackets: the
    /// loss by range of timesteps, the least noise first.
    pub fn message(&self) -> String {
        message(&self.status())
    }
}

fn message(status: &Status) -> String {
    let mut message = match status.smoothed_loss {
        Some(loss) => format!("loss {loss:.3}"),
        None => String::new(),
    };
    if status.ranges.iter().any(|range| range.loss.is_some()) {
        let losses: Vec<String> = status.ranges.iter().map(|range| range.loss.map_or("–".to_owned(), brief)).collect();
        message += &format!(" [{}]", losses.join(" "));
    }
    if let Some(rate) = status.steps_per_second {
        message += &match rate {
            ..1.0 => format!(" {:.1} s/step", 1.0 / rate),
            10.0.. => format!(" {rate:.0}/s"),
            _ => format!(" {rate:.1}/s"),
        };
    }
    if let Some(bytes) = status.memory_bytes {
        message += &format!(" {:.1} GiB", bytes as f64 / f64::from(1 << 30));
    }
    message
}

/// Two digits of a number that is mostly below 1.
fn brief(loss: f64) -> String {
    let text = format!("{loss:.2}");
    text.strip_prefix('0').map_or_else(|| format!("{loss:.1}"), str::to_owned)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::RowLoss;
    use super::*;

    fn progress(step: u64) -> Progress {
        let rows =
            vec![RowLoss { timestep: 10, loss: 0.3 + 0.01 * (step % 3) as f64 }, RowLoss { timestep: 900, loss: 0.02 }];
        Progress { step, steps: 100, loss: 0.16, rows, learning_rate: 1e-4, ..Progress::default() }
    }

    #[test]
    fn speed_and_time_left_are_those_of_the_last_steps() {
        let mut monitor = Monitor::new(0..=999, &[]);
        let start = monitor.recent[0].0;
        assert_eq!(monitor.status().steps_per_second, None);
        let mut now = start;
        for step in 1..=80 {
            now += Duration::from_millis(if step <= 30 { 9000 } else { 500 });
            monitor.add_at(now, &progress(step));
        }
        let status = monitor.status();
        assert!((status.steps_per_second.unwrap() - 2.0).abs() < 1e-9, "{status:?}");
        assert!((status.rows_per_second.unwrap() - 4.0).abs() < 1e-9);
        assert!((status.seconds_left.unwrap() - 10.0).abs() < 1e-9);
    }

    #[test]
    fn a_resumed_run_shows_what_the_uninterrupted_one_shows() {
        let mut whole = Monitor::new(0..=999, &[]);
        let losses: Vec<StepLoss> = (1..=20).map(|step| whole.add(&progress(step))).collect();
        let mut resumed = Monitor::new(0..=999, &losses[..12]);
        for step in 13..=20 {
            resumed.add(&progress(step));
        }
        let shown = |monitor: &Monitor| (monitor.status().smoothed_loss, monitor.status().ranges);
        assert_eq!(shown(&whole), shown(&resumed));
        assert!(shown(&whole).0.is_some() && shown(&whole).1[0].loss.is_some());
    }

    #[test]
    fn the_message_is_short() {
        let mut monitor = Monitor::new(0..=999, &[]);
        let start = monitor.recent[0].0;
        monitor.add_at(start + Duration::from_millis(525), &progress(1));
        let mut status = monitor.status();
        status.memory_bytes = Some(3 << 30);
        assert_eq!(message(&status), "loss 0.160 [.31 – – .02] 1.9/s 3.0 GiB");
        status.ranges.iter_mut().for_each(|range| range.loss = Some(0.123));
        status.steps_per_second = Some(0.04);
        status.memory_bytes = Some(123 << 30);
        assert!(message(&status).chars().count() <= 52, "{}", message(&status));
        assert_eq!([0.996, 1.0, 12.34, 0.0].map(brief), ["1.0", "1.0", "12.3", ".00"]);
    }

    #[test]
    fn json_leaves_out_what_is_not_known() {
        let json = serde_json::to_value(Monitor::new(0..=999, &[]).status()).unwrap();
        assert!(json.get("grad_norm").is_none() && json.get("steps_per_second").is_none(), "{json}");
        assert_eq!(json["ranges"][3]["last"], 999);
    }
}
