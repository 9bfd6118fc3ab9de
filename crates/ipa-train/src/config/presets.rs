//! Settings to start from.

use super::{
    AdapterSettings, DataSettings, LearningRate, ModelSettings, ObjectiveSettings, OptimizerSettings, OutputSettings,
    ScheduleSettings, TrainConfig,
};
use crate::validation::ValidationSettings;

/// Settings for a number of pictures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Preset {
    /// 5 to 50 pictures: 10 epochs one by one.
    #[default]
    Mini,
    /// 50 to 1,000: 20 epochs in fours.
    Small,
    /// 1,000 to 100,000: 10 epochs in eights.
    Medium,
    /// More: two epochs in eights, eight of which make a step.
    Large,
}

/// Settings for a graphics card's memory; rows of a step stay as many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// 8 GB: one row at once, parts computed again.
    Low,
    /// 16 GB: at most four rows at once, parts computed again.
    Medium,
    /// 24 GB and more: as the preset has it.
    High,
}

impl TrainConfig {
    /// The settings of a preset for pictures of `resolution` pixels.
    ///
    /// Learning rate, weight decay, drop rates and batch of eight are the reference trainer's, whose run of a million steps
    /// with 64 rows each has no place here: epochs, saves and courses of the learning rate are in proportion to the pictures.
    pub fn preset(preset: Preset, resolution: u32) -> Self {
        let schedule = |epochs, batch, accumulation, learning_rate, warmup_steps| ScheduleSettings {
            epochs,
            max_steps: None,
            batch,
            accumulation,
            learning_rate,
            warmup_steps,
        };
        let (schedule, save_steps, max_grad_norm) = match preset {
            Preset::Mini => (schedule(10, 1, 1, LearningRate::Constant, 0), 5, None),
            Preset::Small => (schedule(20, 4, 1, LearningRate::Cosine, 50), 100, Some(1.0)),
            Preset::Medium => (schedule(10, 8, 1, LearningRate::Cosine, 500), 1000, Some(1.0)),
            Preset::Large => (schedule(2, 8, 8, LearningRate::Constant, 1000), 2000, Some(1.0)),
        };
        Self {
            seed: 0,
            model: ModelSettings::default(),
            adapter: AdapterSettings::default(),
            data: DataSettings { resolution, ..DataSettings::default() },
            optimizer: OptimizerSettings { max_grad_norm, ..OptimizerSettings::default() },
            schedule,
            objective: ObjectiveSettings::default(),
            validation: ValidationSettings::default(),
            output: OutputSettings { save_steps, ..OutputSettings::default() },
        }
    }

    /// [`Preset::Mini`].
    pub fn mini(resolution: u32) -> Self {
        Self::preset(Preset::Mini, resolution)
    }

    /// The same steps in a card's memory.
    pub fn within(mut self, memory: Memory) -> Self {
        let most = match memory {
            Memory::Low => 1,
            Memory::Medium => 4,
            Memory::High => return self,
        };
        let rows = self.schedule.rows();
        let divides = |batch: &usize| rows.is_multiple_of(*batch);
        self.schedule.batch = (1..=self.schedule.batch.min(most)).rev().find(divides).unwrap_or(1);
        self.schedule.accumulation = rows / self.schedule.batch;
        self.model.recompute = true;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_in_range_and_memory_leaves_their_steps() {
        for preset in [Preset::Mini, Preset::Small, Preset::Medium, Preset::Large] {
            let config = TrainConfig::preset(preset, 512);
            config.check().expect("a preset");
            for memory in [Memory::Low, Memory::Medium, Memory::High] {
                let within = config.clone().within(memory);
                within.check().expect("a preset");
                assert_eq!(within.schedule.rows(), config.schedule.rows());
            }
        }
        for (batch, expected) in [(6, (3, 2)), (10, (2, 5)), (7, (1, 7)), (8, (4, 2))] {
            let mut config = TrainConfig::mini(512);
            config.schedule.batch = batch;
            let schedule = config.within(Memory::Medium).schedule;
            assert_eq!((schedule.batch, schedule.accumulation), expected);
        }
    }
}
