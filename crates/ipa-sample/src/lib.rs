//! Noise schedules, samplers, guidance and the generation pipeline.

mod schedule;

pub use schedule::{BetaSchedule, NoiseSchedule, PredictionType, SchedulerConfig, TimestepSpacing};
